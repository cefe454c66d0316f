"""Processes that stand still and wake when others have taken over; workers join and leave.

1. A recipient's adapter stops inside its transaction (PostgreSQL), a source's between numbering
   its changes and sending them (SQLite). Successors start. The zombies wake: they end as fenced,
   nothing of theirs is written, and what the zombie publisher sends is refused by intake.
2. A worker stops between encoding and sending, for longer than its session. Another takes over,
   newer versions follow, it wakes, its late send lands behind them, and it dies: the keeper puts it
   right.
3. Workers join, leave, stop and wake under load; then a recipient joins, and its copy is right.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from . import moments
from .county import ARCHIVE, BANK, HOUSING, REGISTRY, rights
from .scenario import Bug, Scenario
from .verdict import Verdict
from .witness import comes_true, settled
from .world import Child, World

SESSION_SECONDS = 6.0  # of a worker: silent for longer, its partitions are given to others
WAIT_SECONDS = 120.0
KEEPER_HOURS = "0.001"


def run(world: World, seed: int, short: bool) -> Verdict:
    rng = random.Random(f"zombies/{seed}")
    world.begin()
    world.watch()
    orders = moments.Orders(world.folder)
    start(world)
    world.write_on(per_second=60)
    if world.bug is None or "adapters" in world.bug.moments:
        zombie_adapters(world, orders)
    if world.bug is None or "late send" in world.bug.moments:
        late_send(world, orders, rounds=1 if short else 3)
    if world.bug is None:
        come_and_go(world, rng, rounds=1 if short else 4)
        join(world)
    world.write_until(0)
    return world.conclude()


def start(world: World) -> None:
    others = [u for u in world.county.units(world.witness.rights) if u not in (REGISTRY, ARCHIVE)]
    started = [world.worker(f"worker-{n}", ["moments:worker"]) for n in range(2)]
    started += [
        world.operations("operations", (), "--keeper-hours", KEEPER_HOURS),
        world.adapter("adapter-registry", [REGISTRY], ["moments:publisher"]),
        world.adapter("adapter-archive", [ARCHIVE], ["moments:applier"]),
        world.adapter("adapter-others", others),
    ]
    for child in started:
        child.wait_ready()


# -- adapters -------------------------------------------------------------------------------------


def zombie_adapters(world: World, orders: moments.Orders) -> None:
    pause(world)
    registry, housing = world.writers[REGISTRY], world.writers[HOUSING]
    archive = stopped_at(world, orders, "inside-sql", "adapter-archive",
                         lambda: housing.update(housing.keys(3)))  # fmt: skip
    # Not while its own applier is inside a transaction: SQLite has one writer, and the clerk would
    # wait for as long as the zombie sleeps.
    arrived(world, [REGISTRY])
    source = stopped_at(world, orders, "publishing", "adapter-registry",
                        lambda: registry.update(registry.keys(5)))  # fmt: skip
    go_on(world)
    world.did("adapters stopped: one inside its transaction, one before it sends")
    heirs = [world.adapter("heir-registry", [REGISTRY]), world.adapter("heir-archive", [ARCHIVE])]
    for heir in heirs:
        heir.wait_ready()
    pause(world)
    arrived(world, None)  # what the zombies hold was done by their successors
    go_on(world)
    for zombie in (archive, source):
        zombie.wake()
    patience = patience_of(world)
    for zombie in (archive, source):
        ended = comes_true(lambda: zombie.code is not None, patience)  # noqa: B023
        # Exit code 2 says that a person must look: it is not started again.
        world.verdict.check(ended and zombie.code == 2, f"the zombie {zombie.name} goes on")
    world.verdict.check(all(heir.is_alive for heir in heirs), "a successor was ended by a zombie")
    refused = comes_true(lambda: world.foreign.refused["fenced"] > 0, patience)
    world.verdict.check(refused, "nothing of the zombie publisher was refused by intake")
    world.did(f"they woke; {world.foreign.refused['fenced']} changes of theirs were refused")


def stopped_at(
    world: World, orders: moments.Orders, point: str, name: str, cause: Callable[[], None]
) -> Child:
    """The child of this name, standing still at the point that `cause` brings it to."""
    orders.place(point, stop=True)
    cause()
    child = world.children[name]
    if moments.wait_obeyed(orders, point, WAIT_SECONDS) != child.pid:
        raise TimeoutError(f"{name} did not come to `{point}`")
    return child


# -- a late send ----------------------------------------------------------------------------------


def late_send(world: World, orders: moments.Orders, rounds: int) -> None:
    registry = world.writers[REGISTRY]
    pause(world)
    for _ in range(rounds):
        arrived(world, None)
        keys = registry.keys(12)
        orders.place("sending-data", stop=True)
        registry.update(keys)
        pid = moments.wait_obeyed(orders, "sending-data", WAIT_SECONDS)
        zombie = next(c for c in world.children.values() if c.is_alive and c.pid == pid)
        arrived(world, None)  # another worker did its batch
        registry.update(keys)
        arrived(world, None)
        # Not before all of it is committed: when the zombie comes back to its group, whoever takes
        # over a batch that is not sends it again, and puts right by chance what the keeper should.
        looked = world.foreign.rounds
        settled(lambda: world.foreign.is_drained(looked), WAIT_SECONDS, "all is committed")  # noqa: B023
        before = len(world.foreign.went_back("account"))
        # It dies behind its late send: it may have fetched the newer versions as well, and would
        # put right by chance what the keeper should.
        orders.place("taken-in")
        zombie.wake()
        if moments.wait_obeyed(orders, "taken-in", WAIT_SECONDS) != pid:
            raise TimeoutError(f"{zombie.name} did not send what it held")
        settled(lambda: not zombie.is_alive, WAIT_SECONDS, f"{zombie.name} dies")  # noqa: B023
        zombie.start()
        late = comes_true(lambda: len(world.foreign.went_back("account")) > before, WAIT_SECONDS)  # noqa: B023
        world.verdict.check(late, f"nothing of {zombie.name} came late: the fault was not made")
        world.did(f"{zombie.name} woke, and older versions landed behind newer ones")
    mended = comes_true(lambda: not world.foreign.out_of_place("account"), patience_of(world))
    if not mended:
        for key in world.foreign.out_of_place("account"):
            world.verdict.add("stale", f"data.account keeps an older version last: {key.hex()}")
    world.did("the keeper has run")
    go_on(world)


# -- workers and a recipient ----------------------------------------------------------------------


def come_and_go(world: World, rng: random.Random, rounds: int) -> None:
    for number in range(rounds):
        world.tend()
        comer = world.worker(f"comer-{number}")
        stays = rng.choice(["worker-0", "worker-1"])
        # Started anew a moment ago, it would wake to read policies that it should be told of later.
        world.children[stays].wait_ready()
        world.children[stays].freeze()
        time.sleep(SESSION_SECONDS + rng.uniform(1.0, 3.0))
        comer.wait_ready()
        world.children[stays].wake()
        code = comer.stop()
        world.verdict.check(code == 0, f"a worker that was asked to leave ended with {code}")
    world.did(f"{rounds} workers joined and left, {rounds} stopped beyond their session and woke")


def join(world: World) -> None:
    wider = rights(bank=True)
    workers = {c.name for c in world.children.values() if c.is_alive and "worker" in c.name}
    world.county.write(wider, bank=True)
    world.activate()
    world.witness.rights = wider
    bank = world.adapter("adapter-bank", [BANK])
    again: set[str] = set()

    def all_began_anew() -> bool:
        again.update(world.tend())
        return again >= workers

    # The set of topics has changed: workers end to be started again.
    if not comes_true(all_began_anew, WAIT_SECONDS):
        late = workers - again
        ends = "\n".join(f"{name}: {world.children[name].log[-2000:]}" for name in sorted(late))
        raise TimeoutError(f"{', '.join(sorted(late))} did not end to begin anew\n{ends}")
    bank.wait_ready()
    world.did(f"{BANK} joined; {', '.join(sorted(again))} began anew")


# -- small things ---------------------------------------------------------------------------------


def pause(world: World) -> None:
    for writer in world.writers.values():
        writer.stop()
    world.wait_written()


def go_on(world: World) -> None:
    world.write_on(per_second=60)


def arrived(world: World, units: list[str] | None) -> None:
    """What was written is everywhere (or at these units), while the clerks pause."""
    seconds = WAIT_SECONDS if world.bug is None else 2 * patience_of(world)
    if not world.witness.settle(seconds, units=units, enough=world.has_shown):
        world.verdict.add("lost", "copies were not right while the clerks paused")


def patience_of(world: World) -> float:
    """For what a planted bug may have made impossible one waits less: the keeper runs every 4 s."""
    return WAIT_SECONDS if world.bug is None else 10.0


BUGS = {
    "no_fence": Bug(
        "an adapter writes without a look whether another has taken over",
        ("other", "lost", "doubled", "disordered", "stale"),
        {"adapter": ["patches:no_fence"]},
        ("adapters",),
    ),
    "no_announcement_check": Bug(
        "intake takes in what an adapter sends that was taken over from",
        ("other",),
        {"worker": ["patches:no_announcement_check"]},
        ("adapters",),
    ),
    "last_record_wins": Bug(
        "a recipient takes what comes last for the newest",
        ("disordered", "stale"),
        {"adapter": ["patches:no_version_check"]},
        ("late send",),
    ),
    "idle_keeper": Bug(
        "the keeper does nothing",
        ("stale",),
        {"operations": ["patches:idle_keeper"]},
        ("late send",),
    ),
}

SCENARIO = Scenario("zombies", "processes stand still beyond their time and wake", run, BUGS)

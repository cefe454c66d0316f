"""Departments with typed rows join under load, and masses of removals are held and released, while
everything is killed.

1. Two recipients, one in PostgreSQL and one in SQLite, have typed most of what the bus is about to
   bring. Their adapters start amid traffic; nothing is written before their yes; adapters die in
   the midst of the first load, worker and broker as well.
2. A source loses half of its rows by one statement. Its adapter dies with it, then everybody else:
   nobody loses anything of it before a person releases it, however long that takes. The release
   goes out while the adapter dies again.

At the end the copies are right, and the typed rows too (typed.py): none is doubled, none is gone,
no own column and no other table has changed, and a row whose record went is as it was typed.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from . import moments
from .county import ARCHIVE, AUDIT, HOUSING, REGISTRY, SOURCES, held
from .gauges import command, status
from .scenario import Bug, Scenario
from .typed import Drawers
from .verdict import Verdict
from .witness import comes_true, settled
from .world import World
from .zombies import pause

JOINERS = {ARCHIVE: "adapter-archive", AUDIT: "adapter-audit"}
JOIN, HOLD = "join", "hold"  # the acts; a planted mistake names the one that it takes
# What is enough to hold half of a source's rows, and not what its clerk does.
GUARD = {"percent": 20, "at_least": 30, "minutes": 60}
# The guarded source's: every removal counts within the hour.
QUIET = {"insert": 30, "update": 70}
WAIT_SECONDS = 90.0
BETWEEN_SECONDS = (0.1, 1.0)
VICTIMS = ("worker", "adapter", "operations", "broker")


@dataclass(frozen=True)
class Form:
    rows: int  # of each source in the beginning
    per_second: int
    kills: int  # at random, in each act; in the short form the worker and the broker alone
    holds: int
    held_seconds: float


SHORT = Form(rows=80, per_second=30, kills=0, holds=1, held_seconds=1.5)
FULL = Form(rows=1_500, per_second=60, kills=15, holds=4, held_seconds=10.0)


def run(world: World, seed: int, short: bool) -> Verdict:
    form, rng = SHORT if short else FULL, random.Random(f"adoption/{seed}")
    drawers = [Drawers(world, unit, dataset) for unit in JOINERS for dataset in SOURCES.values()]

    def type_all() -> None:
        for one in drawers:
            # A half more than there are now: those come later.
            keys = [f"{one.dataset[0].upper()}{n:06d}" for n in range(1, form.rows * 3 // 2)]
            one.fill(keys, rng)

    world.begin(rows=form.rows, typists=list(JOINERS), guards={HOUSING: GUARD}, before=type_all)
    world.writers[HOUSING].weights = QUIET
    world.watch()
    storm = Storm(world, form, rng)
    start(world)
    world.write_on(per_second=form.per_second)
    joined = is_wanted(world, JOIN)
    if joined:
        join(world, storm, drawers)
    if is_wanted(world, HOLD):
        for _ in range(form.holds):
            hold(world, storm, units=None if joined else _not_joiners(world))
    world.write_until(0)
    verdict = world.conclude()
    if joined:
        for one in drawers:
            one.check()
        verdict.counted["adopted"] = {f"{o.unit} {o.dataset}": o.adopted() for o in drawers}
    verdict.counted |= {"kills": dict(storm.killed), "moments": dict(storm.obeyed)}
    return verdict


def start(world: World) -> None:
    others = [u for u in _not_joiners(world) if u not in SOURCES]
    started = [
        world.worker("worker-0", ["moments:worker"]),
        world.operations(),
        world.adapter("adapter-sources", [REGISTRY, HOUSING], ["moments:publisher"]),
        world.adapter("adapter-others", others),
    ]
    for child in started:
        child.wait_ready()


def is_wanted(world: World, act: str) -> bool:
    return world.bug is None or act in world.bug.moments


def _not_joiners(world: World) -> list[str]:
    return [u for u in world.county.units(world.witness.rights) if u not in JOINERS]


class Storm:
    """Who is killed, where, and how often so far."""

    def __init__(self, world: World, form: Form, rng: random.Random) -> None:
        self._world, self.form, self._rng = world, form, rng
        self._orders = moments.Orders(world.folder)
        self.killed: Counter[str] = Counter()
        self.obeyed: Counter[str] = Counter()

    def place(self, point: str, *, passing: int = 1, who: str = "") -> None:
        self._orders.place(point, passing=passing, who=who)

    def wait(self, *points: str) -> None:
        """All of them are obeyed, and who died is started anew."""
        for point in points:
            pid = moments.wait_obeyed(self._orders, point, WAIT_SECONDS)
            if pid is None:
                self._world.verdict.add("other", f"no process came to `{point}`")
                continue
            self.obeyed[point] += 1
            dead = next(c for c in self._world.children.values() if c.process and c.pid == pid)
            settled(lambda: not dead.is_alive, 30, f"{dead.name} dies")  # noqa: B023
        self._world.tend()

    def kill(self, name: str) -> None:
        self._world.children[name].kill()
        self.killed[name.partition("-")[0]] += 1
        self._world.tend()

    def rage(self, kind: str) -> None:
        """One of this kind is killed; in the full form many more, whoever is drawn."""
        self._kill_one(kind)
        for _ in range(self.form.kills):
            time.sleep(self._rng.uniform(*BETWEEN_SECONDS))
            self._kill_one(self._rng.choice(VICTIMS))
        self._world.tend()

    def _kill_one(self, kind: str) -> None:
        if kind == "broker":
            # Who finds no bus when it starts says so and ends.
            alive = [c for c in self._world.children.values() if c.is_alive]
            settled(lambda: all(c.is_ready for c in alive), WAIT_SECONDS, "all are ready")
            self._world.kill_broker()
            self.killed["broker"] += 1
            return
        children = self._world.children.items()
        names = [name for name, child in children if name.startswith(kind) and child.is_alive]
        if names:
            self.kill(self._rng.choice(names))


# -- 1: departments join --------------------------------------------------------------------------


def join(world: World, storm: Storm, drawers: Sequence[Drawers]) -> None:
    joiners = [world.adapter(name, [unit], ["moments:applier"]) for unit, name in JOINERS.items()]
    for child in joiners:
        child.wait_ready()
        settled(lambda: "first_load_waits" in child.log, WAIT_SECONDS, "a first load waits")  # noqa: B023
    for unit in JOINERS:
        settled(lambda: _waiting(world, unit) >= storm.form.rows, WAIT_SECONDS, "records wait")  # noqa: B023
    for one in drawers:
        one.check_untouched()
    world.did("two departments have started, and nothing is written before their yes")
    storm.place("inside-sql", passing=2, who="adapter-archive")
    storm.place("applied", who="adapter-audit")
    storm.place("delivered")
    contract = str(world.county.contract_folder)
    for unit in JOINERS:
        words = ("--config", str(world.county.config(unit)), "--contract", contract, "--yes")
        code, _, err = command("department", "join", *words)
        world.verdict.check(code == 0, f"the yes of {unit} ended with {code}: {err}")
    storm.wait("inside-sql", "applied", "delivered")
    storm.rage("broker")
    pause(world)
    _arrived(world, None)
    for one in drawers:
        one.check()
        world.verdict.check(one.adopted(), f"no row of {one.dataset} was adopted at {one.unit}")
    world.did(f"they said yes and joined: {sum(o.adopted() for o in drawers)} rows adopted")
    if world.verdict.is_clean:
        world.write_on(per_second=storm.form.per_second)


def _waiting(world: World, unit: str) -> int:
    """Lines that wait for the department's yes."""
    ledger = "deptbus.ledger" if unit in world.county.urls else "deptbus_ledger"
    like = "SELECT count(*) FROM {} WHERE parked LIKE 'existing: the first load%'"
    with closing(world.county.desk(unit, read_only=True)) as desk:
        return int(desk.rows(like.format(ledger))[0][0])


# -- 2: removals are held -------------------------------------------------------------------------


def hold(world: World, storm: Storm, units: list[str] | None) -> None:
    """`units`: whose copies are right; None: all."""
    writer, dataset = world.writers[HOUSING], SOURCES[HOUSING]
    pause(world)
    _arrived(world, units)
    keys = writer.keys(len(_numbers(world, REGISTRY, dataset)) // 2)
    before = {u: set(keys) & _numbers(world, u, dataset) for u in _holders(world, dataset, units)}
    writer.remove(keys)
    storm.kill("adapter-sources")

    def is_decided() -> bool:
        return _held(world)[1] == len(keys) or _gone(world, dataset, before) > 0

    if not comes_true(is_decided, WAIT_SECONDS):
        world.verdict.add("other", f"{_held(world)[1]} of {len(keys)} removals are held")
    world.write_on(per_second=storm.form.per_second)
    until = time.monotonic() + storm.form.held_seconds
    storm.rage("worker")
    settled(lambda: time.monotonic() > until, WAIT_SECONDS, "the hold has lasted")
    gone = _gone(world, dataset, before)
    if gone:
        world.verdict.add("lost", f"{gone} rows are gone before their removal was released", gone)
        return
    world.did(f"{len(keys)} removals are held, and nobody has lost a row by them")
    storm.place("published")
    number = str(_held(world)[0])
    config = str(world.county.config(HOUSING))
    code, _, err = command("department", "release", "--config", config, "--held", number, "--yes")
    world.verdict.check(code == 0, f"the release ended with {code}: {err}")
    storm.wait("published")
    pause(world)
    _arrived(world, units)
    world.did("they were released, and are gone everywhere")
    world.write_on(per_second=storm.form.per_second)


def _held(world: World) -> tuple[int, int]:
    """(number, keys) of the one hold that is not released; (0, 0) where there is none."""
    found = status(world, HOUSING)[1]["source"]["held_removals"]
    return next(((h["number"], h["keys"]) for h in found if not h["is_released"]), (0, 0))


def _holders(world: World, dataset: str, units: list[str] | None) -> list[str]:
    """Recipients of the dataset whose copies are right."""
    return [u for u, d in world.witness.rights if d == dataset and (units is None or u in units)]


def _numbers(world: World, unit: str, dataset: str) -> set[str]:
    with closing(world.county.desk(unit, read_only=True)) as desk:
        return {no for (no,) in desk.rows(f"SELECT no FROM {held(dataset)}")}


def _gone(world: World, dataset: str, before: dict[str, set[str]]) -> int:
    return sum(len(keys - _numbers(world, unit, dataset)) for unit, keys in before.items())


def _arrived(world: World, units: list[str] | None) -> None:
    """What was written is everywhere (or at these units), while the clerks pause. Who ends
    meanwhile is started anew."""

    def enough(still_seconds: float) -> bool:
        world.tend()
        return world.has_shown(still_seconds)

    if not world.witness.settle(WAIT_SECONDS, units=units, enough=enough):
        world.verdict.add("lost", "copies were not right while the clerks paused")


# -- planted bugs ---------------------------------------------------------------------------------


def inserts_instead() -> None:
    """In an adapter: a record whose row was typed gets a new one."""
    from deptbus.department import adoption_desk

    verdict = adoption_desk.verdict

    def never_adopts(*words: object, **more: object) -> object:
        said = verdict(*words, **more)  # type: ignore[arg-type]
        return None if isinstance(said, adoption_desk.Found) else said

    adoption_desk.verdict = never_adopts  # type: ignore[assignment]


def lets_the_mass_pass() -> None:
    """In an adapter: no number of removals is too many."""
    from deptbus.department import removal_guard

    removal_guard.crowded = lambda counts, rule, size: frozenset()


SCENARIO = Scenario(
    "adoption",
    "departments with typed rows join, masses of removals are held and released, amid kills",
    run,
    {
        "inserts_instead": Bug(
            "a record that matches a typed row is inserted beside it",
            ("doubled",),
            {"adapter": ["adoption:inserts_instead"]},
            (JOIN,),
        ),
        "lets_the_mass_pass": Bug(
            "removals are published however many they are",
            ("lost",),
            {"adapter": ["adoption:lets_the_mass_pass"]},
            (HOLD,),
        ),
    },
)

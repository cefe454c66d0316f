"""Copies that lost a week are given it again, proved and mended, while everything is killed.

Each round sets a copy back by SQL and has a person replay it, or repair it by a proof, under load:
the recipient's adapter dies inside its transaction and in the midst of a proof's answer, operations
amid a partition and between the audit and the end of an order, workers and the broker in between,
and the command itself, which is typed again until it says that all is well. At the end the copies
are as if nobody had been killed: the witness says so, the next proof says so, the same plan once
more moves nothing, each job was done once and has its acts, and no answer is left lying.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import moments
from .accounts import check_cleared, check_orders
from .asked import Asked, Meanwhile, attended, insisted
from .county import ARCHIVE, AUDIT, HOUSING, REGISTRY, SOURCES
from .gauges import inbox_ends
from .scenario import Bug, Scenario
from .spoil import add_strangers, spoil
from .verdict import Verdict
from .witness import settled
from .world import World
from .zombies import arrived, pause

REPLAYED, REPAIRED = ARCHIVE, AUDIT  # in PostgreSQL, in SQLite
ADAPTER = {REPLAYED: "adapter-archive", REPAIRED: "adapter-audit"}
SHARE = 0.6  # of a copy's rows are spoilt
STRANGERS = 5
# Of which nothing but the sums tells.
UNSEEN = {"lost": 1, "forgotten": 1}
UNSEEN_SHARE = 0.1
LOOK_SECONDS = 60.0
ASKED_AGAIN = 4
CONTRADICTS = "contradict each other"  # an answer of two looks, see proof.tally.Tally.against
WHY = ("--reason", "their disk failed", "--operator", "wang")
# At random: whoever is alive, and `command` and `broker`.
VICTIMS = {"adapter": 35, "worker": 20, "operations": 20, "command": 18, "broker": 7}
BETWEEN_SECONDS = (0.3, 3.0)


@dataclass(frozen=True)
class Form:
    """`points`: act -> point -> at which passing, of an adapter the one of the copy at work."""

    rows: int
    per_second: int
    datasets: tuple[str, ...]
    workers: int
    rounds: int
    kills: int  # at random, during each act
    points: Mapping[str, Mapping[str, int]]


SHORT = Form(
    rows=150,
    per_second=20,
    datasets=("account",),
    workers=1,
    rounds=1,
    kills=0,
    points={
        "replay": {"placing": 1, "placed": 1, "job": 3, "inside-sql": 2, "delivered": 1},
        "proof": {"answering": 2},
        "repair": {"allowed": 1, "placed": 1, "applied": 1},
    },
)
FULL = Form(
    rows=800,
    per_second=60,
    datasets=("account", "house"),
    workers=2,
    rounds=2,
    kills=6,
    points={
        "replay": {**SHORT.points["replay"], "closing": 1},
        "proof": SHORT.points["proof"],
        "source": {"telling": 2},
        "repair": {**SHORT.points["repair"], "asked": 1, "found": 1, "job": 2},
    },
)


def run(world: World, seed: int, short: bool) -> Verdict:
    form = SHORT if short else FULL
    world.begin(rows=form.rows)
    world.watch()
    people = People(world, form, random.Random(f"replays/{seed}"))
    start(world, form.workers)
    for _ in range(form.rounds):
        for act in form.points:
            if people.is_wanted(act):
                pause_and(world)
                getattr(people, act)()
    pause_and(world)
    if people.is_wanted("last"):
        people.last_look()
        storms = people.storms
        for unit, jobs in check_orders(world, storms.deaths.total()).items():
            world.again[unit] += jobs + storms.deaths.total()
        check_cleared(world, [*SOURCES, REPLAYED, REPAIRED])
        world.verdict.counted |= {"kills": dict(storms.killed), "moments": dict(storms.obeyed)}
    return world.conclude()


def start(world: World, workers: int) -> None:
    apart = (*SOURCES, REPLAYED, REPAIRED)
    others = [u for u in world.county.units(world.witness.rights) if u not in apart]
    started = [world.worker(f"worker-{n}", ["moments:worker"]) for n in range(workers)]
    started += [
        world.operations("operations", ["moments:operations", "replays:small_steps"]),
        world.adapter("adapter-sources", [REGISTRY, HOUSING], ["moments:publisher"]),
        world.adapter("adapter-others", others),
    ]
    for unit, name in ADAPTER.items():
        started.append(world.adapter(name, [unit], ["moments:applier"]))
    for child in started:
        child.wait_ready()


def small_steps() -> None:
    """No mistake, in operations: orders of few rows take many sends, and tell each at once."""
    from deptbus.operations import carrier, replay_job

    carrier._STRETCH = 10
    replay_job.REPORT_SECONDS = 0.0


class Storms:
    """Who was killed so far, and who is next."""

    def __init__(self, world: World, orders: moments.Orders, rng: random.Random) -> None:
        self._world, self._orders, self._rng = world, orders, rng
        self.killed: Counter[str] = Counter()
        self.obeyed: Counter[str] = Counter()
        # After each of these what was sent, and is not noted, may be sent once more.
        self.deaths: Counter[str] = Counter()
        self._left, self._due = 0, 0.0
        self._behind = ""

    def brew(
        self, unit: str, points: Mapping[str, int], kills: int = 0, *, behind: str = ""
    ) -> None:
        """For what is asked next about this unit's copy. The broker dies `behind` one of the
        points."""
        self._left, self._behind = kills, behind
        self._due = time.monotonic() + self._rng.uniform(*BETWEEN_SECONDS)
        for point, passing in points.items():
            role, _ = moments.POINTS[point]
            is_recipient = role == "adapter" and point != "telling"
            self._orders.place(point, passing=passing, who=ADAPTER[unit] if is_recipient else "")

    def settle(self, points: Iterable[str]) -> None:
        """All that was placed has to be obeyed by now."""
        for point in points:
            self._orders.take_back(point)
            role, what = moments.POINTS[point]
            if not self.has_struck(point):
                self._world.verdict.add("other", f"no process came to `{point}`: {what}")
                continue
            self.obeyed[point] += 1
            if role == "operations":
                self.deaths[role] += 1

    def has_struck(self, point: str) -> bool:
        return self._orders.obeyed(point) is not None

    def strike(self, asked: Asked) -> None:
        """Called again and again while a command runs."""
        if self._behind and self.has_struck(self._behind):
            self._behind = ""
            self.killed["broker"] += 1
            self.kill_broker()
        if not self._left or time.monotonic() < self._due:
            return
        self._left -= 1
        (kind,) = self._rng.choices(list(VICTIMS), list(VICTIMS.values()))
        if kind == "command":
            asked.kill()
        elif kind == "broker":
            self.kill_broker()
        else:
            alive = [
                c for n, c in self._world.children.items() if n.startswith(kind) and c.is_alive
            ]
            if not alive:
                return
            self._rng.choice(alive).kill()
        self.killed[kind] += 1
        if kind == "operations":
            self.deaths[kind] += 1
        self._due = time.monotonic() + self._rng.uniform(*BETWEEN_SECONDS)

    def kill_broker(self) -> None:
        self._world.kill_broker()
        self.deaths["broker"] += 1


class People:
    """What people do, one act after the other; each begins and ends while the clerks pause."""

    def __init__(self, world: World, form: Form, rng: random.Random) -> None:
        self._world, self._form, self._rng = world, form, rng
        self.storms = Storms(world, moments.Orders(world.folder), rng)
        self._plans: list[str] = []
        self._chosen = ("--dataset", form.datasets[0]) if len(form.datasets) == 1 else ()

    def is_wanted(self, act: str) -> bool:
        """A planted mistake names the acts, and the points, that it takes."""
        bug = self._world.bug
        return bug is None or (act in bug.moments and not self._world.has_shown(0.0))

    def _points(self, act: str) -> dict[str, int]:
        bug, points = self._world.bug, self._form.points[act]
        return {p: n for p, n in points.items() if bug is None or p in bug.moments}

    def _know(self) -> None:
        """By which keys the bus has the rows."""
        settled(self._world.foreign.look, LOOK_SECONDS, "the bus is read to its end")

    def _spoil(self, unit: str) -> None:
        self._know()
        spoilt = spoil(self._world, unit, self._form.datasets, self._rng, SHARE)
        told = {sort: len(keys) for sort, keys in sorted(spoilt.items())}
        self._world.did(f"{unit} lost {sum(told.values())} rows: {told}")

    def _go_on(self) -> None:
        self._world.write_on(per_second=self._form.per_second)

    def replay(self) -> None:
        """A plan of everything is made and applied."""
        world, points = self._world, self._points("replay")
        self._spoil(REPLAYED)
        self._go_on()
        file = str(world.folder / f"plan-{len(self._plans)}.json")
        self._plans.append(file)
        words = ("replay", "plan", "--unit", REPLAYED, "--all", *self._chosen, *WHY)
        insisted(world, "plan", *words, "--file", file, "-o", "json")
        self.storms.brew(REPLAYED, points, self._form.kills, behind="job" if not world.bug else "")
        words = ("replay", "apply", file, "--yes", "--operator", "li", "-o", "json")
        done = insisted(world, "apply", *words, meanwhile=self.storms.strike)
        self.storms.settle(points)
        world.verdict.check(done.get("state") == "done", f"the replay is {done.get('state')}")
        world.did(f"it was replayed: {done.get('sent')} sent")

    def proof(self) -> None:
        """The adapter dies when it has told half of an answer, and rows are lost before its
        successor looks: both hear of just these, and a repair brings them back."""
        lost: set[str] = set()
        self._know()

        def lose(_: Asked) -> None:
            if not lost and self.storms.has_struck("answering"):
                datasets, rng = self._form.datasets, self._rng
                spoilt = spoil(self._world, REPLAYED, datasets, rng, UNSEEN_SHARE, UNSEEN)
                lost.update(key.hex() for keys in spoilt.values() for key in keys)

        for one in self._asked_twice("copy", self._points("proof"), lose):
            told = {found["key"] for found in one.answer.get("keys", ())}
            # A change that came meanwhile brings one of them back.
            self._world.verdict.check(
                one.code == 1 and told and told <= lost,
                f"a proof named {len(told)} rows, {len(told - lost)} of them well, and {len(lost)} "
                f"were lost; code {one.code}: {one.said}",
            )
        self._world.did(f"{len(lost)} lost rows of {REPLAYED} were named to two at a time")
        if not self._world.has_shown(0.0):
            self._repaired(REPLAYED)

    def source(self) -> None:
        """The source's adapter dies with half of its answer told; all is equal."""
        for one in self._asked_twice("source", self._points("source"), self.storms.strike):
            self._world.verdict.check(
                one.code == 0, f"an equal source: code {one.code}, {one.answer.get('by_class')}"
            )
        self._world.did("the source was proved equal to two at a time")

    def _asked_twice(
        self, leg: str, points: Mapping[str, int], meanwhile: Meanwhile
    ) -> list[Asked]:
        """Two people at the same time; who could not be told asks again."""
        world = self._world
        words = ("reconcile", "--unit", REPLAYED, *self._chosen, "--leg", leg, "--deep")
        self._go_on()
        self.storms.brew(REPLAYED, points)
        names, told = [f"proof-{leg}-{n}" for n in range(2)], []
        for _ in range(ASKED_AGAIN):
            asked = [Asked(world, name, *words, "-o", "json") for name in names]
            attended(world, asked, meanwhile)
            told += [one for one in asked if one.code != 2]
            names = [one.name for one in asked if one.code == 2]
            for one in asked:
                world.verdict.check(
                    CONTRADICTS not in f"{one.answer} {one.said}",
                    f"{one.name} was answered from two looks at a table: {one.said}",
                )
        for name in names:
            world.verdict.add("other", f"{name} could not be told")
        self.storms.settle(points)
        return told

    def repair(self) -> None:
        world, points = self._world, self._points("repair")
        self._spoil(REPAIRED)
        add_strangers(world, REPAIRED, self._form.datasets, STRANGERS)
        self._go_on()
        self.storms.brew(REPAIRED, points, self._form.kills)
        self._repaired(REPAIRED)
        self.storms.settle(points)
        world.did(f"{REPAIRED} was repaired")

    def _repaired(self, unit: str) -> None:
        words = ("reconcile", "--unit", unit, *self._chosen, "--leg", "copy", "--deep", "--repair")
        may = ("--overwrite-local", "--delete-extra", "--max-delete", "100", *WHY)
        strike = self.storms.strike
        insisted(self._world, "repair", *words, *may, "-o", "json", meanwhile=strike)

    def last_look(self) -> None:
        """Both copies and the way to them; then every plan again, which moves nothing."""
        world = self._world
        for unit, leg in ((REPLAYED, "both"), (REPAIRED, "copy")):
            words = ("reconcile", "--unit", unit, *self._chosen, "--leg", leg, "--deep")
            told = insisted(world, "last", *words, "-o", "json")
            world.verdict.check(
                told and not told["differences"] and not told["could_not_tell"],
                f"the last proof of {unit}: {told.get('by_class')}, {told.get('could_not_tell')}",
            )
        before = inbox_ends(world, [REPLAYED])
        for plan in self._plans:
            told = insisted(world, "again", "replay", "apply", plan, "--yes", "-o", "json")
            world.verdict.check(told.get("state") == "done", f"again it is {told.get('state')}")
        is_still = inbox_ends(world, [REPLAYED]) == before
        world.verdict.check(is_still, "the same plan, applied again, sent something")
        world.did("all is equal, and the same plans again send nothing")


def pause_and(world: World) -> None:
    """The clerks pause, who died last is started anew, and soon all copies are right."""
    if world.is_writing:
        pause(world)
    world.tend()
    arrived(world, None)


BUGS = {
    "resumes_beyond": Bug(
        "a job that was killed goes on behind what it had read, not behind what was acked",
        ("lost", "other"),
        {"operations": ["replay_mistakes:resumes_beyond"]},
        ("replay", "job"),
    ),
    "tells_before_ack": Bug(
        "a job notes as sent what the bus has not acked, and is killed",
        ("lost", "other"),
        {"operations": ["replay_mistakes:tells_before_ack"]},
        ("replay", "job", "last"),
    ),
    "keeps_halves": Bug(
        "an adapter goes on with the answer of the one that was killed, from a later snapshot",
        ("other",),
        {"adapter": ["replay_mistakes:keeps_halves"]},
        ("proof", "answering"),
    ),
    "orders_again": Bug(
        "a plan that is applied again is ordered again",
        ("other",),
        {"command": ["replay_mistakes:orders_again"]},
        ("replay", "last"),
    ),
    "ends_without_an_act": Bug(
        "the end of an order is not in the audit",
        ("other",),
        {"operations": ["replay_mistakes:ends_without_an_act"]},
        ("replay", "last"),
    ),
    "leaves_answers": Bug(
        "an answer that was read keeps its place for ever",
        ("other",),
        {"adapter": ["replay_mistakes:leaves_answers"]},
        ("last",),
    ),
}

SCENARIO = Scenario(
    "replays", "a lost week is replayed, proved and repaired while everything is killed", run, BUGS
)

"""One schedule: a county, its processes, random acts and faults; then quiet, and the reckoning."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from deptbus.contract.model import Policy
from deptbus.department.publication import Batch
from deptbus.names import QUARANTINE, data_topic, in_topic, out_topic, unit_of_topic
from deptbus.operations.due import DueJob, digests_under_holds
from deptbus.routing import Router
from deptbus.stream.policies import LEASE_SECONDS
from deptbus.stream.quarantine import FENCED, NOT_ANNOUNCED
from deptbus.wire.control import QuarantineNote, decode_control
from deptbus.wire.guard import REASONS

from . import office, replay
from .agents import Agent, route, take_in
from .bus import Bus, DigestsOf
from .county import BEGIN, CONTRACTS, DATASET, RECIPIENTS, SOURCES
from .expected import differences
from .proof import Cut, prove
from .recipient import RecipientDatabase, apply_inbox
from .resync import back_up, restore
from .simulation import Scheduler
from .source import SPELLINGS, SourceDatabase, clerk, publish, resend

_QUIET_ROUNDS = 4_000


@dataclass(frozen=True, slots=True)
class Bugs:
    """Mistakes that can be planted; the model must find each."""

    ack_before_delivery: bool = False
    cursor_on_outbox: bool = False
    no_fence: bool = False
    number_told_late: bool = False
    closed_column_stands: bool = False
    no_waiting_for_agents: bool = False
    no_keeper: bool = False
    replay_by_old_rights: bool = False
    resync_without_deletes: bool = False
    resync_without_marker: bool = False
    proof_before_the_cut: bool = False
    proof_of_what_waits: bool = False
    proof_without_marker: bool = False
    router: type[Router] = Router
    digests: DigestsOf = digests_under_holds
    batch: type[Batch] = Batch


@dataclass(frozen=True, slots=True)
class Mixture:
    """How often what happens, at most; a step of a process has 100. What is rare in one schedule is
    frequent in another, so that one fault does not always hide or heal what another did."""

    kills: float = 0
    freezes: float = 0
    frozen: str = ""  # the kind of process that is frozen; empty: any
    activations: float = 0
    days: float = 0
    constraints: float = 0
    resends: float = 1
    compactions: float = 0
    restores: float = 0
    holds: float = 0
    proofs: float = 0.5
    replays: float = 0
    mangled: float = 0.02  # share of published records that nobody can read


MIXTURES = {
    "all": Mixture(
        kills=6, freezes=4, activations=2, days=0.5, constraints=2, compactions=2, restores=0.5
    ),
    "crashes": Mixture(kills=8, constraints=1),
    "refusals": Mixture(kills=1, mangled=0.3, resends=0),
    "zombies": Mixture(freezes=8, constraints=1),
    "policies": Mixture(activations=1, days=0.3),
    "late": Mixture(freezes=6, frozen="intake", activations=2, compactions=6),
    "restores": Mixture(kills=2, freezes=1, restores=2),
    "restored often": Mixture(kills=2, freezes=1, restores=20),
    "holds": Mixture(kills=3, freezes=3, activations=0.3, days=0.2, holds=3),
    "proofs": Mixture(kills=2, freezes=2, restores=0.3, compactions=0.3, proofs=6, mangled=0.005),
    "sent again": Mixture(kills=4, freezes=2, activations=0.5, days=0.3, holds=0.5, replays=4),
}


class World:
    def __init__(self, seed: int, bugs: Bugs, mixture: str) -> None:
        self.chance = random.Random(seed)
        self.bugs = bugs
        self.mixture = MIXTURES[mixture]
        self.bus = Bus(bugs.router, bugs.digests)
        self.now = BEGIN
        self.counter = 0
        self.spellings = SPELLINGS[: self.chance.choice((1, 3, 5, 10))]
        self.is_finishing = False
        self.agents: list[Agent] = []
        self.due: tuple[object, dict[str, DueJob]] | None = None  # see office.due
        self.wrong: list[str] = []  # noticed on the way
        self.cuts: list[Cut] = []  # that the office has still to prove
        self.wishes: set[str] = set()  # units of which a cut is wanted
        self.proved = self.compactions = 0
        self._asked: set[tuple[str, int]] = set()
        self.sources = {unit: SourceDatabase(unit) for unit in SOURCES}
        self.recipients = {unit: RecipientDatabase(unit) for unit in RECIPIENTS}
        first = self.chance.choice(CONTRACTS)
        self.bus.activate(
            Policy(number=1, activated_at=BEGIN, activated_by="office", contract=first)
        )
        self._attention = self.chance.choice((0.01, 0.01, 0.2))
        if self.chance.random() < 0.8:
            office.complete_first_loads(self)
        self.scheduler = Scheduler(self.chance)
        self.scheduler.add("intake", partial(take_in, self))
        self.scheduler.add("routing", partial(route, self))
        self.scheduler.add("office", partial(office.run_jobs, self))
        self.scheduler.add("keeper", partial(office.keep, self))
        self.scheduler.add("prover", partial(prove, self))
        for unit, source in self.sources.items():
            self.scheduler.add(f"source {unit}", partial(publish, self, source))
        for unit, database in self.recipients.items():
            self.scheduler.add(f"recipient {unit}", partial(apply_inbox, self, database))
        mixture = self._acts_by_weight()
        self._acts = [act for act, _ in mixture]
        self._weights = [weight for _, weight in mixture]

    @property
    def clock(self) -> float:
        """Seconds since the beginning."""
        return (self.now - BEGIN).total_seconds()

    @property
    def now_us(self) -> int:
        return int(self.now.timestamp() * 1e6)

    # -- running ----------------------------------------------------------------------------------

    def run(self, steps: int) -> list[str]:
        """What is wrong at the end; empty when all is as it should be."""
        try:
            for _ in range(steps):
                self._act()
            return self._finish()
        finally:
            self.scheduler.close()

    def _act(self) -> None:
        self.now += timedelta(seconds=self.chance.random() * 0.04)
        self._report()
        self.chance.choices(self._acts, self._weights)[0]()

    def _report(self) -> None:
        """Live agents say what they work under; those long silent are forgotten by everybody."""
        for agent in self.agents:
            agent.report()
        if len(self.agents) > 6:
            oldest = self.clock - 2 * LEASE_SECONDS
            self.agents = [a for a in self.agents if a.seen_at >= oldest or a.me.coroutine]

    def _acts_by_weight(self) -> list[tuple[Callable[[], object], float]]:
        mixture, scheduler = self.mixture, self.scheduler

        def often(most: float) -> float:
            return most * self.chance.choice((0.1, 0.3, 1))

        holds = [(partial(office.hold_or_resume, self), often(mixture.holds))] * bool(mixture.holds)
        replays = [(partial(replay.order_or_steer, self), often(mixture.replays))]
        return [
            *holds,
            *replays * bool(mixture.replays),
            (scheduler.step_one, 100),
            (self._clerk, self.chance.choice((1, 3, 6))),
            (self._break_a_constraint, often(mixture.constraints)),
            (self._let_time_pass, often(mixture.days)),
            (partial(office.activate, self), often(mixture.activations)),
            (partial(office.pass_boundary, self), 1),
            (scheduler.kill, often(mixture.kills)),
            (partial(scheduler.freeze, mixture.frozen), often(mixture.freezes)),
            (scheduler.wake, 2),
            (self._resend_refused, mixture.resends),
            (partial(office.compact, self), often(mixture.compactions)),
            (self._wish_for_a_proof, often(mixture.proofs)),
            (self._back_up, often(mixture.restores)),
            (self._restore, often(mixture.restores)),
        ]

    def looks_for_policy(self) -> bool:
        """Followers hear of a new policy sooner or later."""
        return self.is_finishing or self.chance.random() < self._attention

    def _clerk(self) -> None:
        clerk(self, self.sources[self.chance.choice(SOURCES)])

    def _break_a_constraint(self) -> None:
        database = self.recipients[self.chance.choice(RECIPIENTS)]
        database.refuses ^= {self.chance.choice(self.spellings)}

    def _wish_for_a_proof(self) -> None:
        self.wishes.add(self.chance.choice(SOURCES))

    def _back_up(self) -> None:
        back_up(self.sources[self.chance.choice(SOURCES)])

    def _restore(self) -> None:
        source = self.sources[self.chance.choice(SOURCES)]
        if source.backup is not None:
            restore(source)
            self.scheduler.disconnect(f"source {source.unit}")

    def _let_time_pass(self) -> None:
        self.now += timedelta(hours=self.chance.choice((1, 12, 24)))

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self) -> list[str]:
        """No more faults; people mend what is theirs to mend; then everything comes to rest."""
        self.is_finishing = True
        self.scheduler.wake_all()
        office.resume_all(self)
        replay.resume_all(self)
        for database in self.recipients.values():
            database.refuses.clear()
        for source in self.sources.values():
            source.finish(self)
        joins = 2 if self.mixture.compactions else 0
        for number in range(_QUIET_ROUNDS):
            self.now += timedelta(seconds=1)
            self._report()
            office.pass_boundary(self)
            self.scheduler.step_all()
            if number % 10 == 9:
                if number % 200 == 199:
                    self._resend_refused()
                if self._is_quiet() and not self._resend_refused():
                    if joins:
                        # Whoever joins now has the canonical topic alone to learn from.
                        joins -= 1
                        self.bus.compact(data_topic(DATASET), self.bus.kept)
                        self.compactions += 1
                        office.activate(self)
                        continue
                    return [*self.wrong, *self._odd_notes(), *differences(self)]
        return [*self.wrong, f"never came to rest: {self._unrest()}"]

    def _is_quiet(self) -> bool:
        return not any(self._unrest().values())

    def _unrest(self) -> dict[str, object]:
        bus = self.bus
        data = data_topic(DATASET)
        return {
            "outbox rows": sum(len(s.outbox) + len(s.wanted) for s in self.sources.values()),
            "resyncs": [u for u, s in self.sources.items() if self._wants_resync(s)],
            "out": [
                u for u in SOURCES if bus.committed["intake", out_topic(u)] < bus.end(out_topic(u))
            ],
            "data": bus.end(data) - bus.committed["routing", data],
            "keeper": bus.end(data) - bus.kept if self.mixture.compactions else 0,
            "jobs": sorted(office.due(self)),
            "orders": sorted(bus.orders.due()),
            "inboxes": [
                unit
                for unit, database in self.recipients.items()
                if database.position.next_offset < bus.end(in_topic(unit))
            ],
            "parked": [
                entry.parked
                for database in self.recipients.values()
                for entry in database.ledger.values()
                if entry.parked is not None
            ],
        }

    def _wants_resync(self, source: SourceDatabase) -> bool:
        return source.missed or self.bus.published[source.unit] > source.publication

    # -- quarantine -------------------------------------------------------------------------------

    def notes(self) -> Iterable[QuarantineNote]:
        for record in self.bus.read(QUARANTINE, 0, self.bus.end(QUARANTINE)):
            note = decode_control(record.value or b"")
            assert isinstance(note, QuarantineNote)
            yield note

    def _resend_refused(self) -> bool:
        """Ask the sources for the present state of what could not be read; False: nothing to ask.

        What a fenced adapter sent needs no resend: its successor sends the same outbox rows.
        """
        asked = False
        for note in self.notes():
            place = note.topic, note.offset
            if note.reason in REASONS and place not in self._asked:
                self._asked.add(place)
                asked = True
                record = self.bus.record(note.topic, note.offset)
                resend(self.sources[unit_of_topic(note.topic)], record.key or b"")
        return asked

    def _odd_notes(self) -> list[str]:
        expected = {FENCED, NOT_ANNOUNCED, *REASONS}
        return [f"odd note: {note}" for note in self.notes() if note.reason not in expected]


def explore(
    seed: int, bugs: Bugs | None = None, mixture: str | None = None, steps: int = 1000
) -> list[str]:
    """Run one schedule to its end; what is wrong there. Each seed has its mixture by default."""
    named = mixture or list(MIXTURES)[seed % len(MIXTURES)]
    return World(seed, bugs or Bugs(), named).run(steps)

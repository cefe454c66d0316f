"""Cases of quarantine: a note, what a person decided about it, and whether it is overtaken. Pure.

What the state of a case is, the first rule that holds:

1. `dismissed`: a person said that nothing is to be done.
2. `superseded`: a newer version of that key was accepted, so what was refused matters no longer.
3. `resend_asked`: its source was asked for the present state, which has not come yet.
4. `open`: nobody has done anything.

A case whose record had no readable key is superseded when the resend that was asked for it was
answered. Whether it is may be unknown (None); unknown is never taken for yes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from deptbus.change import Change
from deptbus.contract.model import Contract
from deptbus.names import unit_of_topic
from deptbus.wire.control import Control, QuarantineNote, Resolution
from deptbus.wire.guard import KEY_BYTES

Place = tuple[str, int, int]  # topic, partition, first offset


class State(StrEnum):
    OPEN = "open"
    RESEND_ASKED = "resend_asked"
    SUPERSEDED = "superseded"
    DISMISSED = "dismissed"


UNRESOLVED = (State.OPEN, State.RESEND_ASKED)


@dataclass(frozen=True, slots=True)
class Case:
    note: QuarantineNote
    resolution: Resolution | None = None  # the last one
    superseded: bool | None = None

    @property
    def place(self) -> Place:
        return self.note.topic, self.note.partition, self.note.offset

    @property
    def state(self) -> State:
        outcome = self.resolution.outcome if self.resolution is not None else ""
        if outcome == "dismissed":
            return State.DISMISSED
        if self.superseded:
            return State.SUPERSEDED
        return State.RESEND_ASKED if outcome == "resend_asked" else State.OPEN

    @property
    def unit(self) -> str:
        """Whose record it is, as far as that is known; empty: nobody's that the contract has."""
        if self.note.unit:
            return self.note.unit
        return unit_of_topic(self.note.topic) if self.note.topic.startswith("out.") else ""

    @property
    def looked_for(self) -> tuple[tuple[str, bytes], ...]:
        """(dataset, key) in whose canonical topics it shows whether the case is overtaken."""
        if self.note.key is not None and self.note.dataset:
            return ((self.note.dataset, self.note.key),)
        asked = self.resolution
        if asked is None or asked.key is None:
            return ()
        return tuple((dataset, asked.key) for dataset in asked.datasets)

    def is_overtaken_by(self, change: Change, written_us: int) -> bool:
        """Does this accepted change of the key that was looked for supersede what was refused?
        `written_us`: when it was written to its canonical topic."""
        if self.note.unit and change.source_unit != self.note.unit:
            return False  # a key is of one unit's secret; whoever bears another's proves nothing
        if self.note.version is not None:
            return change.version > self.note.version
        asked = self.resolution
        return asked is not None and (
            change.job == asked.request or written_us >= asked.resolved_at_us
        )


def place_text(place: Place) -> str:
    return "/".join(map(str, place))


def place_of(text: str) -> Place | None:
    """`topic/partition/offset`; None when it is none."""
    topic, _, rest = text.partition("/")
    partition, _, offset = rest.partition("/")
    if topic and partition.isdecimal() and offset.isdecimal():
        return topic, int(partition), int(offset)
    return None


def cases_of(records: Iterable[Control]) -> list[Case]:
    """What `bus.quarantine` says, in the order of the notes: the last word of each place counts; a
    note that was written again (after a crash) is as old as its first writing that is left."""
    notes: dict[Place, QuarantineNote] = {}
    resolutions: dict[Place, Resolution] = {}
    for record in records:
        if isinstance(record, QuarantineNote):
            place = record.topic, record.partition, record.offset
            known = notes.get(place)
            since = record.noted_at_us if known is None else known.noted_at_us
            notes[place] = replace(record, noted_at_us=min(since, record.noted_at_us))
        elif isinstance(record, Resolution):
            resolutions[record.topic, record.partition, record.offset] = record
    return [Case(note, resolutions.get(place)) for place, note in notes.items()]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which cases are meant: those of all the properties given. Places that are named are meant in
    any state; a wider selection means what is not resolved yet."""

    places: frozenset[Place] = frozenset()
    key: bytes | None = None
    reason: str = ""
    unit: str = ""
    dataset: str = ""
    states: tuple[State, ...] = UNRESOLVED

    def has(self, case: Case) -> bool:
        if self.places:
            if case.place not in self.places:
                return False
        elif case.state not in self.states:
            return False
        note = case.note
        return (
            (self.key is None or self.key == note.key)
            and (not self.reason or self.reason == note.reason)
            and (not self.unit or self.unit == case.unit)
            and (not self.dataset or self.dataset == note.dataset)
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for the present state of one key, for all cases that it answers. Several datasets
    where the record could not tell its own: only that one has the key."""

    unit: str
    datasets: tuple[str, ...]
    key: bytes
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class ResendPlan:
    asks: tuple[Ask, ...]
    left_out: tuple[tuple[Case, str], ...]  # and why nobody can be asked


def plan_resend(
    cases: Iterable[Case], contract: Contract, keys: Mapping[Place, bytes | None]
) -> ResendPlan:
    """Whom to ask for what. `keys`: the Kafka keys that lie at places whose notes have none: what
    was not readable is asked for in every dataset of its unit, and only its own one answers."""
    cases_by_ask: dict[tuple[str, tuple[str, ...], bytes], list[Case]] = defaultdict(list)
    left_out = []
    for case in cases:
        unit, dataset, key = case.unit, case.note.dataset, case.note.key
        key = key if key is not None else keys.get(case.place)
        published = contract.published_by(unit) if unit in contract.unit_by_name else ()
        datasets = tuple(d for d in published if not dataset or d == dataset)
        if not unit:
            left_out.append((case, "it is of no unit of the contract"))
        elif key is None or len(key) != KEY_BYTES:
            left_out.append((case, "its key is not known; ask for the whole dataset"))
        elif not datasets:
            left_out.append((case, f"{unit} does not publish {dataset or 'anything'}"))
        else:
            cases_by_ask[unit, datasets, key].append(case)
    asks = tuple(Ask(*ask, tuple(found)) for ask, found in cases_by_ask.items())
    return ResendPlan(asks, tuple(left_out))

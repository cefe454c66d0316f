"""What the console shows of the bus, as plain frozen values: no page reads the bus by itself.

Who fills them: `unit_sheets` and `dataset_sheets` are pure functions of a contract; flows, saved
entries and signs of life are read by one watcher for all pages. Times are seconds since 1970, in
floats; None is "not known", and never a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from deptbus.operations.parked import ParkedRecord
from deptbus.wire.control import ParkedRetried


@dataclass(frozen=True, slots=True)
class Flow:
    """Deliveries of one dataset from one unit to another, counted between two looks."""

    source: str
    recipient: str
    dataset: str
    direction: str  # horizontal, upward, downward, return, granted
    count: int
    at: float  # of the last of them, as the bus wrote it
    is_estimated: bool = False  # counted by offsets; whose they are is known of a sample only


@dataclass(frozen=True, slots=True)
class Publishes:
    """A dataset that the unit publishes, and to whom it goes by the contract in force."""

    dataset: str
    fields: tuple[str, ...]
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Receives:
    """A dataset that the unit receives from these sources, by one rule or grant."""

    dataset: str
    direction: str
    rule: str  # its name in topics.yml; empty: by grant alone
    grants: tuple[str, ...]  # live ones that open fields of it
    fields: tuple[str, ...]
    withheld: tuple[str, ...]  # fields of the dataset that do not come to this unit
    sources: tuple[str, ...]
    within: str = ""  # only about places of this territory; empty: all that the sources have
    containing: str = ""  # only about whole areas around this territory
    until: str = ""  # the day on which the first of these grants ends


@dataclass(frozen=True, slots=True)
class NotReceived:
    """What does not come to the unit of one dataset, and why: `why` is a word of
    `withheld.WhyNot`, which the pages translate, or `held` (nothing of it comes for now, because
    the data office holds it back). `sentence` says it in English, `detail` is the name in it: of
    a rule, grant, line, level or territory."""

    dataset: str
    fields: tuple[str, ...]
    why: str
    sentence: str
    detail: str = ""
    is_all: bool = False  # nothing at all of this dataset comes


@dataclass(frozen=True, slots=True)
class UnitSheet:
    """What the contract in force says of one unit."""

    unit: str
    line: str
    territory: str
    title: str
    title_zh: str
    owner: str
    systems: tuple[str, ...]
    publishes: tuple[Publishes, ...]
    receives: tuple[Receives, ...]
    not_received: tuple[NotReceived, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """What a recipient's adapter tells of itself: when it last applied something, how many rows
    wait there for a person."""

    last_applied_at: float | None
    parked: int | None


@dataclass(frozen=True, slots=True)
class FieldSheet:
    name: str
    type: str  # as one reads it: `string`, `date`, `string or null`
    sharing: str  # unconditional, conditional, not_shared
    is_key: bool
    note: str = ""  # the schema's own `doc`


@dataclass(frozen=True, slots=True)
class Recipient:
    unit: str
    direction: str
    fields: tuple[str, ...]
    grants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DatasetSheet:
    """One dataset of the catalogue."""

    dataset: str
    title: str
    title_zh: str
    line: str
    levels: tuple[str, ...]
    division: str
    fields: tuple[FieldSheet, ...]
    sources: tuple[str, ...]
    recipients: tuple[Recipient, ...]
    versions: tuple[int, ...]
    version: int  # in force
    freshness_hours: float
    retention_hours: int


@dataclass(frozen=True, slots=True)
class SavedRow:
    """Entries that nobody typed: deliveries that one unit applied on one day, of one dataset."""

    unit: str
    dataset: str
    day: str  # 2027-01-31, in China's time
    entries: int
    live: int = 0  # live upserts that it applied, those among them
    others: int = 0  # what first loads, resends, replays and repairs brought


@dataclass(frozen=True, slots=True)
class SavedEntries:
    """`is_whole` false: not all that was counted could be read. `since`: as far back as the bus
    remembers. `method` is a constant that the pages translate."""

    rows: tuple[SavedRow, ...] = ()
    since: float | None = None
    is_whole: bool = True
    method: str = "deliveries_applied"


@dataclass(frozen=True, slots=True)
class Live:
    """What one look brought besides lag: all that moves."""

    flows: tuple[Flow, ...] = ()  # since the last look
    applied: Mapping[str, Applied] = field(default_factory=dict)  # by unit
    saved: SavedEntries = SavedEntries()
    parked: tuple[ParkedRecord, ...] = ()  # at recipients, those that wait the longest first
    retried: tuple[ParkedRetried, ...] = ()  # the last retry of each recipient's system


class LiveFeed(Protocol):
    """`start`, `look` again and again (it returns at once with what came meanwhile), `stop`. Raises
    BusUnreachable, BusRefused; a look after that goes on from where the last good one ended."""

    async def start(self) -> None: ...

    async def look(self) -> Live: ...

    async def stop(self) -> None: ...

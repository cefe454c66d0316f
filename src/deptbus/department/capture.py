"""The port of capture: what the publisher needs of a department's database, whatever its kind.

Two implementations, `capture_sqlite` and `capture_postgres`; one abstract suite of tests holds
both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from deptbus.change import Cause
from deptbus.contract.department import CAP_MIB
from deptbus.department.capture_check import Broken
from deptbus.department.connect import Database
from deptbus.department.layout import Layout
from deptbus.department.pulse import Pulse
from deptbus.errors import SourceRefused

T = TypeVar("T")

RawKey = tuple[Any, ...]  # own key columns' values, as the database gives them
LIVE, RESEND = Cause.LIVE.value, Cause.RESEND.value
MOST_REMEMBERED = 100_000  # keys held in memory: about 10 MB
MOST_SOUGHT = 20_000  # bus keys whose rows are looked for in one walk over the table


class OutboxRow(NamedTuple):
    """One captured change that waits to be published. `position` becomes its version."""

    position: int
    dataset: str
    op: str  # "u" upsert, "d" delete
    cause: str
    job: str | None
    source_time_us: int
    was: Any  # own value of the place before this change, where it may differ; None: not known
    key: bytes | None  # bus key, given instead of `raw` where the row is gone and its key with it
    raw: RawKey
    columns: tuple[str, ...] = ()  # own columns of `cells`: one object for all rows of a layout
    # Their values; of a delete those that were removed, where capture knows them.
    cells: Sequence[Any] = ()

    @property
    def values(self) -> dict[str, Any]:
        """Own column -> value."""
        return dict(zip(self.columns, self.cells, strict=True))


def present_row(layout: Layout, raw: RawKey, cells: Sequence[Any]) -> OutboxRow:
    """A row of the own table as the outbox would have it; it has no position."""
    return OutboxRow(0, layout.dataset, "u", LIVE, None, 0, None, None, raw, layout.columns, cells)


class Variant(NamedTuple):
    """One of several raw keys that have one canonical form, hence one bus key."""

    raw: str  # `raw_text`
    state: str  # HOLDS, PARKED, GONE


HOLDS, PARKED, GONE = "holds", "parked", "gone"


@dataclass(frozen=True, slots=True)
class Known:
    """What the source remembers of one bus key; both are empty for nearly every key."""

    places: tuple[str, ...] = ()  # all that were ever named, the last one last
    variants: tuple[Variant, ...] = ()


class Parked(NamedTuple):
    """A row that failed the checks. Never its content: only its own key, why, and since when."""

    dataset: str
    raw: str  # `raw_text`
    reason: str  # constant
    column: str | None  # which own column is to be looked at
    position: int


class Wanted(NamedTuple):
    """A row to be enqueued afresh under its lock: somebody asked, or it could not be locked.

    Asked for by bus key only, the row has to be found first. Before the search a version is
    reserved: if no row is found, a delete at that version is right, because an insert that the
    search could not see has drawn, or will draw, a greater one.
    """

    dataset: str
    raw: str | None  # None: whatever row has the bus key
    key: bytes | None
    cause: str
    job: str | None


class Sought(NamedTuple):
    """A row that was asked for by its bus key, as it was found."""

    wanted: Wanted
    raw: RawKey | None  # None: no row bears the key
    is_remembered: bool  # the source remembers to have named the key


class HeldRemoval(NamedTuple):
    """A key whose removal is held: on the bus it is as it was before. See `removal_guard`."""

    hold: int  # the number of the hold that it belongs to
    dataset: str
    key: bytes
    raw: str  # `raw_text`; empty where the bus key is all that is known
    place: str  # where it lies on the bus; empty: not known
    state: str  # own columns and values that it had there; empty: not known


@dataclass(frozen=True, slots=True)
class Hold:
    """Removals of one dataset that wait for a person's word."""

    number: int
    dataset: str
    began_us: int
    size: int  # records that the dataset had when it began, as far as they were counted
    is_released: bool = False
    keys: int = 0  # whose removal is held


@dataclass(slots=True)
class Holding:
    """What a batch changes of what is held."""

    begun: list[Hold] = field(default_factory=list)
    held: list[HeldRemoval] = field(default_factory=list)
    given_back: list[tuple[str, bytes]] = field(default_factory=list)  # (dataset, key)
    removals: dict[tuple[str, int], int] = field(
        default_factory=dict
    )  # (dataset, minute) -> how many
    forget_before: int = 0  # minutes that nobody asks for any more


@dataclass(slots=True)
class Prepared:
    """What has to be durable before a batch is sent."""

    drop: list[int] = field(default_factory=list)  # positions that are not sent at all
    places: dict[tuple[str, bytes], tuple[str, ...]] = field(default_factory=dict)
    variants: dict[tuple[str, bytes], tuple[Variant, ...]] = field(default_factory=dict)
    park: list[Parked] = field(default_factory=list)
    unpark: list[tuple[str, str]] = field(default_factory=list)  # (dataset, raw_text)
    wanted: list[Wanted] = field(default_factory=list)
    version: int = 0  # the highest that the batch publishes
    publication: int = 0  # the number that it has to get, which its records bear; 0: any
    holding: Holding | None = None

    @property
    def needs_writing(self) -> bool:
        """True when something beside the publication number has to be written."""
        return bool(
            self.drop or self.places or self.variants or self.park or self.unpark or self.wanted
        ) or (self.holding is not None)


@dataclass(frozen=True, slots=True)
class SourceState:
    """The publisher's own row in this database."""

    publication: int
    version: int
    gave_way: int  # how many times capture gave way since the last resync; 0 is well


@dataclass(frozen=True, slots=True)
class Waiting:
    """The queue at one moment."""

    rows: int  # counted up to a limit; beyond it told by the positions, and then a few too many
    oldest_us: int | None  # when the row that is the next was written; None: nothing waits


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One run over the existing rows of a dataset."""

    dataset: str
    enqueued: int
    skipped: int  # rows that others held locked; they are wanted
    done: bool


@dataclass(frozen=True, slots=True)
class CaptureStatus:
    """What `department status` shows of the source side."""

    installed: bool
    outbox_rows: int = 0
    oldest_age_seconds: float | None = None  # of the oldest row that waits
    parked: Mapping[str, int] = field(default_factory=dict)  # reason -> rows
    wanted: int = 0
    publication: int = 0
    version: int = 0
    gave_way: int = 0
    snapshots: tuple[Snapshot, ...] = ()
    cap_rows: int = 0
    room_rows: int = 0  # changes until capture gives way, if nothing is published meanwhile
    cap_kib: int = 0
    outbox_kib: int = 0  # counted from the oldest row that waits, as rows are
    pulse: Pulse | None = None  # None: no adapter has spoken yet
    holds: tuple[Hold, ...] = ()
    outdated: str = ""  # what `Capture.outdated` says; then all but `installed` is not known


INSTALL_AGAIN = "Run `deptbus department install --config FILE`, then start the adapter again"


def is_asked(layout: Layout) -> bool:
    """Whether install has to ask the table if its keys are unique: no index of it says so."""
    return layout.is_vouched or layout.is_view


def refuse_doubled(place: str, doubled: Mapping[Layout, int]) -> None:
    """Raises SourceRefused where the mapping vouches for keys that several rows bear."""
    for layout, count in doubled.items():
        if count:
            keys, many = ", ".join(layout.keys), "1000 or more" if count >= 1000 else count
            raise SourceRefused(
                f"{place}: dataset {layout.dataset}: {many} values of ({keys}) in {layout.table} "
                "are borne by more than one row, so they name no record",
                mend="Mend these rows, or name the columns that tell records apart",
            )


class Capture(ABC):
    """Outbox, bookkeeping and triggers in one department's database.

    Every method raises DatabaseUnavailable (DatabaseBusy when somebody holds a lock); those that
    take a `token` raise Fenced when another adapter has taken over, and have then changed nothing.
    """

    # Bus keys of which something may be remembered: of all others `known` would say nothing. None:
    # not looked at yet, or too many to hold.
    remembered: set[bytes] | None = None
    _known_views: dict[str, Layout] | None = None

    @property
    @abstractmethod
    def database(self) -> Database:
        """The connection behind this, for the fence. Closed by `close`."""

    async def together(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Awaits `work()`, which awaits nothing but this capture: a database that is reached by way
        of another thread is gone to once for all of it."""
        return await work()

    # --- triggers -------------------------------------------------------------------------

    @abstractmethod
    async def examine(self, layouts: Sequence[Layout]) -> list[str]:
        """Why these layouts cannot be captured here, one line each; empty when they can."""

    @abstractmethod
    async def sql(
        self, layouts: Sequence[Layout], cap_rows: int, cap_mib: int = CAP_MIB
    ) -> list[str]:
        """The statements that `install` runs, for a person to read before (`--dry-run`)."""

    @abstractmethod
    async def install(
        self, layouts: Sequence[Layout], cap_rows: int, cap_mib: int = CAP_MIB
    ) -> None:
        """Creates tables and triggers; idempotent; triggers of datasets that are no longer named
        are removed. Raises SourceRefused with the first line of `examine`."""

    @abstractmethod
    async def uninstall(self) -> None:
        """Removes every trigger, function and table of the source side. Works at any time."""

    @abstractmethod
    async def pause(self) -> None:
        """Capture does nothing any more, at once and at any time, and it is noted that it gave way;
        what waits stays. `install` lets it go on."""

    @abstractmethod
    async def broken(self) -> list[Broken]:
        """Installed datasets that cannot be captured as the tables are now."""

    @abstractmethod
    async def outdated(self) -> str:
        """What an older deptbus installed without, so that this one cannot work with it: one line
        that names the datasets. Empty where nothing is missing, or nothing is installed."""

    async def refuse_outdated(self) -> None:
        """Raises SourceRefused where it is `outdated`."""
        if said := await self.outdated():
            raise SourceRefused(f"{self.database.place}: {said}", mend=INSTALL_AGAIN)

    @abstractmethod
    async def give_way(self) -> None:
        """Notes that something was written which was not captured: a resync is needed."""

    @abstractmethod
    async def layouts(self) -> dict[str, Layout]:
        """dataset -> the layout that its triggers capture now; empty when not installed."""

    async def _views(self) -> dict[str, Layout]:
        """The datasets that are views; asked for once, as an adapter that runs keeps to what was
        installed when it started."""
        if self._known_views is None:
            self._known_views = {d: x for d, x in (await self.layouts()).items() if x.is_view}
        return self._known_views

    # --- the queue ------------------------------------------------------------------------

    @abstractmethod
    async def look_again(self, token: bytes, limit: int, hold: Collection[str]) -> int:
        """Enqueues records of views that were touched since, but for held datasets, each as it is
        now; how many notes of that it took, at most `limit`. To be called before `read`.

        What is as it was shown last is left out, unless capture gave way: then what was shown last
        need not be what was published last, see `forgive`."""

    @abstractmethod
    async def read(
        self, limit: int, in_flight: Collection[int] = (), hold: Collection[str] = ()
    ) -> list[OutboxRow]:
        """The visible rows of least position, without those in flight and those of held datasets.
        A queue, not a cursor: a row that commits late has a lower position than one that was
        published before it."""

    @abstractmethod
    async def parked(self) -> set[tuple[str, str]]:
        """(dataset, raw_text) of every parked row."""

    @abstractmethod
    async def reasons(self, dataset: str) -> dict[str, str]:
        """`raw_text` -> why it is parked, of every parked row of a dataset."""

    @abstractmethod
    async def wanted(self, dataset: str, at_most: int) -> list[Wanted]:
        """What is wanted of a dataset and not enqueued yet."""

    @abstractmethod
    async def known(self, keys: Sequence[tuple[str, bytes]]) -> dict[tuple[str, bytes], Known]:
        """What is remembered of these (dataset, key); those with nothing are left out."""

    async def recollect(self) -> None:
        """Fills `remembered`; `prepare` keeps it up from then on. To be called by an adapter that
        has taken over: before, another one might still add to what is remembered."""
        found = await self._remembered_keys(MOST_REMEMBERED + 1)
        self.remembered = set(found) if len(found) <= MOST_REMEMBERED else None

    @abstractmethod
    async def _remembered_keys(self, at_most: int) -> list[bytes]: ...

    def _remember_keys(self, prepared: Prepared) -> None:
        """To be called when what was prepared is durable."""
        if self.remembered is not None:
            self.remembered.update(key for _, key in (*prepared.places, *prepared.variants))
            if len(self.remembered) > MOST_REMEMBERED:
                self.remembered = None

    @abstractmethod
    async def prepare(self, token: bytes, prepared: Prepared, *, sends: bool) -> int:
        """In one durable transaction: the fence, the bookkeeping, and (when the batch sends) the
        next publication number, which is returned. Raises SourceRefused, with nothing done, where
        that is not the one that was expected: nobody else counts behind this fence, so the database
        was put back under us from a backup that bears our own token."""

    @abstractmethod
    async def delete(self, token: bytes, positions: Sequence[int]) -> None:
        """Forgets rows that the broker has acked. Losing this in a crash only sends them again."""

    @abstractmethod
    async def wait(self, timeout_seconds: float) -> bool:
        """Returns True soon after something was committed, False after the time-out."""

    # --- existing rows --------------------------------------------------------------------

    @abstractmethod
    async def begin_snapshot(self, dataset: str, cause: str, job: str | None) -> None:
        """Starts (or, when one is open with the same cause and job, goes on with) a run over all
        rows of a dataset."""

    @abstractmethod
    async def advance_snapshot(self, dataset: str, limit: int) -> Snapshot:
        """Enqueues the next rows under their locks, in one short transaction."""

    @abstractmethod
    async def unshown(self) -> list[str]:
        """Views of which nothing is remembered as shown. What was published of them before, in
        another form or by another database, has to be walked over once."""

    @abstractmethod
    async def open_snapshots(self) -> tuple[Snapshot, ...]: ...

    @abstractmethod
    async def want(self, wanted: Iterable[Wanted]) -> None:
        """Remembers rows to be enqueued afresh; `work_off` does it."""

    @abstractmethod
    async def want_keys(
        self, dataset: str, keys: Collection[bytes], cause: str, job: str | None
    ) -> None:
        """`want` of many rows by their bus keys, in one short transaction."""

    @abstractmethod
    async def work_off(self, limit: int, hold: Collection[str] = ()) -> tuple[int, list[Wanted]]:
        """Enqueues wanted rows, but for those of held datasets: those that are there, under their
        locks; for one that is gone a delete, at a version that no unseen insert can be below.
        Returns how many were done and those that name a bus key only, have their version reserved,
        and whose row the caller may look for now (`keys_after`) and then `resolve`: of these more
        than `limit`, because to look for one takes as long as for many."""

    @abstractmethod
    async def resolve(self, dataset: str, sought: Sequence[Sought]) -> None:
        """Rows of bus keys were found: they are enqueued. Or they are gone: then a delete is, if
        the source remembers to have named the key, else the request is dropped. In one short
        transaction: give it some hundred at most."""

    @abstractmethod
    async def backlog(self, at_most: int) -> int:
        """How many rows wait in the outbox, counted no further than `at_most`."""

    @abstractmethod
    async def waiting(self, at_most: int) -> Waiting:
        """What waits in the outbox, counted no further than `at_most`: cheap at any length."""

    @abstractmethod
    async def keys_after(self, dataset: str, after: RawKey | None, limit: int) -> list[RawKey]:
        """Own keys in their order, without locks: to find the row of a bus key."""

    @abstractmethod
    async def bears(self, dataset: str, raw: RawKey) -> bool:
        """True when a row with just this own key is there now."""

    @abstractmethod
    async def retry_parked(self, cause: str) -> int:
        """Wants every parked row again (the contract has changed, or a person asks)."""

    # --- resync ---------------------------------------------------------------------------

    @abstractmethod
    async def lift(self, token: bytes, publication: int, version: int) -> None:
        """Numbers from here on are above these, rows that wait in the outbox included, in their
        order; what is drawn for it grows with the rows that wait, never with what was drawn before.
        Counts as giving way once, so that a resync that is killed is still asked for: the numbers
        alone do not tell any more. Returns when every transaction that drew a lesser
        version has ended: what is read from the own tables after that holds all they wrote."""

    @abstractmethod
    async def reserve(self, token: bytes, count: int) -> int:
        """Draws `count` versions at once and returns the first. As `lift`, returns when every
        transaction that drew a lesser version has ended: a delete at one of them is right for a
        key whose row is not met from then on, because whatever brings that row back is greater."""

    @abstractmethod
    async def rows_after(self, dataset: str, after: RawKey | None, limit: int) -> list[OutboxRow]:
        """Present rows as the outbox would have them (without a position), in the order of their
        own keys and without locks. A row that nobody writes meanwhile is met by the chunks of one
        walk; the others are captured."""

    @abstractmethod
    async def rows_of(self, dataset: str, raws: Sequence[RawKey]) -> list[OutboxRow]:
        """As `rows_after`, of just these own keys; those that are not there are left out."""

    @abstractmethod
    async def enqueue(
        self, dataset: str, raws: Sequence[RawKey], cause: str, job: str | None
    ) -> None:
        """The present state of these own keys, each under its row's lock, in one short transaction;
        what others hold locked and what is gone is wanted."""

    @abstractmethod
    async def enqueue_deletes(
        self, token: bytes, dataset: str, keys: Sequence[tuple[bytes, int]], cause: str, job: str
    ) -> None:
        """Deletes of (bus key, version from `reserve`)."""

    @abstractmethod
    async def is_pending(self, job: str) -> bool:
        """True while something of this job waits in the outbox or is wanted."""

    @abstractmethod
    async def forgive(self, token: bytes, count: int) -> None:
        """So many of the times that capture gave way are made good. What a view showed last counts
        again from then on: of records that are gone it is forgotten first, as their deletes were
        published by key, and of those that are touched just now too."""

    # --- removals that are held (see `removal_guard`) -------------------------------------

    @abstractmethod
    async def holds(self) -> tuple[Hold, ...]: ...

    @abstractmethod
    async def held(self, keys: Sequence[tuple[str, bytes]]) -> dict[tuple[str, bytes], HeldRemoval]:
        """Those of these (dataset, key) whose removal is held."""

    @abstractmethod
    async def held_of(self, dataset: str, at_most: int) -> list[HeldRemoval]:
        """Those of a dataset, so many of them."""

    @abstractmethod
    async def removals_lately(self) -> dict[tuple[str, int], int]:
        """(dataset, minute) -> removals that were read from the outbox, as `Holding` told them."""

    @abstractmethod
    async def removals_ahead(
        self, dataset: str, position: int
    ) -> tuple[dict[int, tuple[int, int]], int]:
        """minute -> (removals, deletes among them) of what waits in the outbox from this position
        on, those that a release asked for left out; and the last position that was looked at."""

    @abstractmethod
    async def count(self, dataset: str, at_most: int) -> int:
        """How many rows the own table has, counted no further than `at_most`."""

    @abstractmethod
    async def next_hold(self) -> int:
        """A number that no hold has had."""

    @abstractmethod
    async def release(self, number: int) -> Hold | None:
        """A person says that these removals are meant: the adapter publishes the keys' present
        state. None: nothing is held under that number."""

    @abstractmethod
    async def released(self, at_most: int, datasets: Collection[str]) -> list[HeldRemoval]:
        """Keys of the oldest hold of one of these datasets that was released."""

    @abstractmethod
    async def publish_released(
        self, token: bytes, version: int, some: Sequence[HeldRemoval], cause: str, job: str
    ) -> None:
        """Enqueues the present state of these keys of one dataset, each under its row's lock; of a
        row that is gone a delete, at a version from `version` on (from `reserve`, one for each of
        `some`). A row that others hold, and one of which only the bus key is known, is wanted. They
        are held no more. In one short transaction: give it some hundred at most."""

    @abstractmethod
    async def want_released(
        self, token: bytes, some: Sequence[HeldRemoval], wanted: Sequence[Wanted]
    ) -> None:
        """As `publish_released`, of keys that several rows bear: `wanted` names those."""

    # --- state ----------------------------------------------------------------------------

    @abstractmethod
    async def check(self, token: bytes) -> None:
        """Raises Fenced when somebody else has taken over; says nothing of the next moment."""

    @abstractmethod
    async def tell(self, token: bytes | None, pulse: Pulse) -> None:
        """Keeps the publisher's sign of life; see `pulse`."""

    @abstractmethod
    async def state(self) -> SourceState: ...

    @abstractmethod
    async def status(self) -> CaptureStatus: ...

    @abstractmethod
    async def close(self) -> None: ...

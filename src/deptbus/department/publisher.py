"""The publisher of one system: outbox rows -> `out.<unit>`, in order, never lost, by one adapter.

One turn: delete the rows that the broker has acked; read those of least position; judge them
(`publication`); make durable what must be remembered, and the batch's number; send. The next batch
is read and judged while one is on its way, and sent only after it.

A crash anywhere between reading and deleting sends rows again, at the same versions: harmless.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import structlog

from deptbus.change import Cause, Incarnation
from deptbus.connection import Connection
from deptbus.contract.department import Department
from deptbus.contract.model import Policy
from deptbus.department import fence
from deptbus.department.bus_memory import (
    BusMemory,
    check_outbox,
    check_publication,
    check_secret,
    was_restored,
)
from deptbus.department.capture import LIVE, Capture, OutboxRow, Prepared, Waiting
from deptbus.department.capture_check import Broken
from deptbus.department.chores import Chores
from deptbus.department.cuts import Cuts
from deptbus.department.judge import Found, Judge, Ready, find_keys
from deptbus.department.layout import layout_of
from deptbus.department.presence import Presence
from deptbus.department.publication import Batch, KeyOf, Publication, Stamp
from deptbus.department.pulse import Signs
from deptbus.department.removal_desk import RemovalDesk
from deptbus.department.rivals import Rivals
from deptbus.errors import BusUnreachable, DatabaseBusy, DeptbusError, Fenced, SourceRefused
from deptbus.metrics.counts import Counts
from deptbus.names import out_topic
from deptbus.stream.log import Sender
from deptbus.stream.policies import PolicyFollower
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Heartbeat, InventoryRequest, ResendOrder
from deptbus.wire.keys import fingerprint
from deptbus.wire.partitioner import partitions_of

log = structlog.get_logger(__name__)

BATCH_ROWS = 2000
NOTHING_WAITS = 2**63
_SLICE_ROWS = 250  # judged in one go: about 2 ms, in which nothing else of this process moves
HEARTBEAT_SECONDS = 2.0
_IDLE_SECONDS = 1.0  # at least so often the policy is looked at
_BACKOFF_SECONDS = (0.2, 5.0)
_WAITING_COUNTED = 10_000  # rows of the outbox; it takes a millisecond
_RAISE_SECONDS = 600.0  # far below the retention of any outbox
_BUSY_SECONDS = (0.02, 0.25)
_BUSY_TOLD_SECONDS = 5.0
LOOK_SECONDS = 5.0  # at least so often it is looked whether the tables are still captured
_CAPTURE_MEND = (
    "Mend the table, or the mapping in department.yml; run `deptbus department install` again, and "
    "then what `deptbus department status` asks for"
)
_NOT_PUBLISHED = "it is not published any more"
_RESYNC_MEND = (
    "Something was written that could not be captured. Nothing need be done: it is made good when "
    "the data office's operations answer (`deptbus department resync` does it at once)"
)

T = TypeVar("T")


class Turn(NamedTuple):
    """What one look at the outbox gave: rows read, changes to send, their number, whether rows are
    wanted afresh, whether there were live ones; or datasets with columns (none: of a delete) as
    nobody had expected them, and then nothing else."""

    rows: int = 0
    changes: Sequence[Ready] = ()
    publication: int = 0
    wants: bool = False
    is_live: bool = False
    strange: frozenset[tuple[str, tuple[str, ...]]] = frozenset()


def _slices(count: int) -> Iterator[slice]:
    return (slice(at, at + _SLICE_ROWS) for at in range(0, count, _SLICE_ROWS))


def _strange(
    rows: Sequence[OutboxRow], publications: Mapping[str, Publication]
) -> frozenset[tuple[str, tuple[str, ...]]]:
    """Datasets that are not published, and columns among which the mapping lacks some."""
    found: set[tuple[str, tuple[str, ...]]] = set()
    dataset, columns = "", None
    for row in rows:
        if row.columns is columns and row.dataset == dataset:
            continue
        dataset, columns = row.dataset, row.columns
        publication = publications.get(dataset)
        if publication is None or (row.op == "u" and not publication.is_served_by(columns)):
            found.add((dataset, columns))
    return frozenset(found)


class Publisher:
    """`start` once, then `run` until it raises or is cancelled; a new object for another try.

    `start` and `run` raise Fenced (a younger adapter took over), SourceRefused (a person must act),
    DatabaseUnavailable, BusRefused, BusUnreachable, ContractUnreadable. Owns nothing that it is
    given: the caller closes `capture`, `sender`, `follower`.
    """

    def __init__(
        self,
        connection: Connection,
        department: Department,
        system: str,
        *,
        capture: Capture,
        sender: Sender,
        follower: PolicyFollower,
        secret: bytes,
        counts: Counts | None = None,
    ) -> None:
        self._connection = connection
        self.unit = department.unit
        self.system = system
        self._settings = department.systems[system]
        self._capture = capture
        self._sender = sender
        self._follower = follower
        self._secret = secret
        self._counts = counts if counts is not None else Counts()
        self.presence = Presence(connection, self.unit, system, sender, fingerprint(secret))
        self._log = log.bind(unit=self.unit, system=system)
        self._publications: dict[str, Publication] = {}
        self._hold: dict[str, str] = {}  # datasets whose rows stay where they are, and why
        # Layouts that lack columns of the mapping, whose rows are published all the same: they were
        # captured before the mapping had those columns.
        self._narrow: frozenset[tuple[str, tuple[str, ...]]] = frozenset()
        self._broken: dict[str, Broken] = {}  # datasets that cannot be captured as the tables are
        self._gave_way = 0  # how often, as was last told
        self._codecs = Codecs()
        self._policy: Policy | None = None
        self._publication = 0  # the database's number
        self._acked = 0  # the highest number whose records the broker has all acked
        self._version = 0
        self._parked: set[tuple[str, str]] = set()
        # All rows of lesser positions were read, and those that were sent before are on their way.
        self.reached = 0
        # Whoever changes what is remembered of keys holds it from reading to writing.
        self._remembering = asyncio.Lock()
        self.memory = BusMemory()  # what the bus knew of this system when it was taken over
        self.removals = RemovalDesk(capture, self._settings.publishes)
        self.chores = Chores(capture, self._publications, lambda: self.incarnation.token)
        self.cuts = Cuts(self.presence)
        self._signs = Signs(capture.tell)
        self._rivals = Rivals(
            connection,
            sender,
            self.unit,
            system,
            is_ours=self._is_ours,
            # What was acked behind its announcement is refused and forgotten here.
            stopping=lambda: self.when_free(capture.give_way),
        )

    @property
    def capture(self) -> Capture:
        return self._capture

    @property
    def incarnation(self) -> Incarnation:
        return self.presence.incarnation

    @property
    def datasets(self) -> frozenset[str]:
        """Those that are published under the contract in force; known once it is started."""
        return frozenset(self._publications)

    @property
    def publications(self) -> Mapping[str, Publication]:
        """How `datasets` are published, as it is now: it follows contract and tables."""
        return self._publications

    @property
    def has_missed(self) -> bool:
        """Capture gave way, as was last seen some seconds ago, and no table is one that it cannot
        see."""
        return self._gave_way > 0 and not self._broken

    def why_held(self, dataset: str) -> str:
        """Why rows of this dataset stay where they are."""
        return self._hold.get(dataset, _NOT_PUBLISHED)

    @property
    def parked(self) -> Collection[tuple[str, str]]:
        """(dataset, raw_text) of every row that is parked now."""
        return self._parked

    def why_not(self, dataset: str, values: Mapping[str, Any]) -> str | None:
        """Why a row of these own values could not be published under the contract in force."""
        publication = self._publications.get(dataset)
        return (
            f"{dataset} is not published now"
            if publication is None
            else publication.why_not(values)
        )

    # --- start ----------------------------------------------------------------------------

    async def start(self, *, resync: bool = False) -> Incarnation:
        """Takes the system over, says so on the bus, and only then looks whether it may publish.

        With `resync` it does not refuse a database that is behind the bus, but lifts its numbers.

        The order matters: once the announcements stand, nothing that an older adapter sends counts,
        so what the bus knows at that point is all that there is to know.
        """
        try:
            return await self._take_over(resync)
        except DeptbusError as error:
            await self._signs.ended(error)
            raise

    async def _take_over(self, resync: bool) -> Incarnation:
        await self._look_at_capture()
        await self._follow_policy()
        memory, begins = await self.presence.recall(self._codecs)
        assert self._policy is not None
        # Before the take-over: an adapter with a wrong secret must not fence the right one.
        known = self._policy.contract.unit_by_name.get(self.unit)
        check_secret(
            memory,
            unit=self.unit,
            agreed=known.key_fingerprint if known is not None else None,
            fingerprint=self.presence.fingerprint,
        )
        if not resync:
            # Nor must one whose database is a backup, or a copy, fence the one that goes on.
            self._check_outbox(memory, begins)
            self._check_publication(memory, (await self._capture.state()).publication)
        mine = await fence.take_over(
            self._capture.database, memory.incarnation, unit=self.unit, system=self.system
        )
        self._signs.token = mine.token
        await self.presence.announce(mine, partial(self._capture.check, mine.token))
        memory, begins = await self.presence.recall(self._codecs)
        if not resync:
            self._check_outbox(memory, begins)
        else:
            await self._capture.lift(self.incarnation.token, memory.publication, memory.version)
        state = await self._capture.state()
        is_first = resync and not memory.is_of_one_that_began
        self._check_publication(memory, 0 if is_first else state.publication)
        self.memory = memory
        await self.presence.settle()
        self._publication = self._acked = state.publication
        self._version = state.version
        self._parked = await self._capture.parked()
        await self._capture.recollect()
        await self.removals.recall()
        if self._parked:
            # Contract or mapping may have been mended while no adapter ran.
            await self._capture.retry_parked("live")
        if resync or state.publication:
            for dataset in await self._capture.unshown():
                # Published before by another mapping or database: its places are to be known.
                await self._capture.begin_snapshot(dataset, Cause.SNAPSHOT, None)
        await self._beat()
        self._log.info("source_taken_over", incarnation=self.incarnation.number)
        return self.incarnation

    def _check_outbox(self, memory: BusMemory, begins: Sequence[int]) -> None:
        topic, topic_id = out_topic(self.unit), self.presence.outbox_id
        check_outbox(memory, topic=topic, topic_id=topic_id, begins=begins)

    def _check_publication(self, memory: BusMemory, publication: int) -> None:
        place = self._capture.database.place
        check_publication(memory, place=place, publication=publication)

    async def _is_ours(self) -> bool:
        """Whether nobody took over this very database."""
        try:
            await self.when_free(partial(self._capture.check, self.incarnation.token))
        except Fenced:
            return False
        return True

    # --- resync ---------------------------------------------------------------------------

    async def ask_inventory(self, request: str, datasets: Sequence[str]) -> None:
        """Cuts `out` in every partition, then asks what the canonical topics have behind the cuts;
        without datasets takes the request back. Raises BusUnreachable, BusRefused."""
        # A name of the incarnation's own: a late send of an older one must not take its place. Its
        # markers are told from one another by their moment, which the request names.
        at_us = time.time_ns() // 1000
        if datasets:
            name = f"resync/{self.system}/{self.incarnation.number}"
            at_us = (await self.presence.cut(name, "resync")).sent_at_us
        who = self.unit, self.system, self.incarnation
        asked = InventoryRequest(request, *who, tuple(datasets), at_us)
        await self.presence.write(asked)

    async def remember(self, named: Mapping[tuple[str, bytes], Sequence[str]]) -> None:
        """Places that (dataset, key) were published at, the present one last: each further change
        names them too."""
        if not named:
            return
        async with self._remembering:
            known = await self._capture.known(list(named))
            prepared = Prepared()
            for pair, places in named.items():
                before = known[pair].places if pair in known else ()
                others = [p for p in dict.fromkeys((*before, *places)) if p != places[-1]]
                made = (*others, places[-1])
                if made != before:
                    prepared.places[pair] = made
            if prepared.places:
                await self._capture.prepare(self.incarnation.token, prepared, sends=False)

    async def resend(self, order: ResendOrder) -> None:
        """What the bus has of these keys is not what the table has. Returns when the wish is
        durable, and every place that the bus names: what is published then goes there too, also
        where the source never knew that it had lain there, or had published the key at all."""
        if order.dataset not in self._publications:
            self._log.warning("resend_not_ours", dataset=order.dataset)
            return
        named = {
            (order.dataset, key): places.split(",")
            for key, places in zip(order.keys, order.places, strict=True)
            if places
        }
        await self.when_free(partial(self.remember, named))
        wanting = partial(self.chores.enqueue_keys, order.dataset, order.keys, order.request)
        await self.when_free(wanting)

    # --- the contract ---------------------------------------------------------------------

    async def _follow_policy(self) -> None:
        """Takes up the contract in force; without a restart when it changes."""
        policy = self._follower.current()
        if self._policy is not None and policy.number == self._policy.number:
            return
        changed = self._policy is not None
        await self._take_up(policy)
        if changed:
            await self._capture.retry_parked("live")
            self._log.info("policy_followed", policy=policy.number)

    async def _take_up(self, policy: Policy) -> None:
        """Which datasets are published under this contract, and which have to wait."""
        contract = policy.contract
        history = self._follower.history().values()
        if not any(self.unit in known.contract.unit_by_name for known in history):
            raise SourceRefused(
                f"unit {self.unit} is in no contract that was ever in force",
                mend="Ask the data office, or check `unit:` in department.yml",
            )
        if self.unit not in contract.unit_by_name:
            # It publishes nothing, and goes on: its copies have yet to be withdrawn.
            self._log.error("unit_left_the_contract", policy=policy.number)
        for known in history:
            self._codecs.add_contract(known.contract)
        installed = await self._capture.layouts()
        fresh: dict[str, Publication] = {}
        hold: dict[str, str] = {}
        for dataset, publish in self._settings.publishes.items():
            try:
                broken = self._broken.get(dataset)
                if broken is not None and not broken.is_partly:
                    hold[dataset] = broken.reason  # told already
                    continue
                if not contract.may_publish(self.unit, dataset):
                    raise SourceRefused(f"{self.unit} may not publish {dataset}")
                wanted = layout_of(dataset, publish, contract)
                have = installed.get(dataset)
                if have is None or not have.serves(wanted):
                    raise SourceRefused(
                        f"dataset {dataset}: the triggers do not capture what the mapping names",
                        mend="Run `deptbus department install` again; if that was done while the "
                        "adapter ran, start the adapter again",
                    )
                fresh[dataset] = Publication(self.unit, dataset, publish, contract, self._secret)
            except DeptbusError as refused:
                hold[dataset] = str(refused)
                self._log.error("dataset_held", dataset=dataset, reason=str(refused))
        # Rows of datasets that are not published any more wait, in case they are again.
        gone = dict.fromkeys(installed.keys() - fresh.keys(), _NOT_PUBLISHED)
        self._hold = gone | hold
        self._signs.held = self._hold
        for dataset in self._publications.keys() - fresh.keys():
            del self._publications[dataset]
        # Never empty in between: a file's rows are judged on another thread.
        self._publications.update(fresh)
        self._policy = policy

    async def _look_at_layouts(self, strange: Collection[tuple[str, tuple[str, ...]]]) -> None:
        """Capture was installed anew, while we ran or before: by what is installed now it is told
        whether rows of these datasets and columns are published, or wait."""
        assert self._policy is not None
        await self._take_up(self._policy)
        published = self._publications.keys()
        gone = {dataset for dataset, _ in strange} - published - self._hold.keys()
        self._signs.held = self._hold = self._hold | dict.fromkeys(gone, _NOT_PUBLISHED)
        self._narrow |= {one for one in strange if one[0] in published}

    async def _look_at_capture(self) -> None:
        """Says once what is wrong with capture and once that it is well again. Rows of a dataset
        whose table was altered wait; the other datasets go on."""
        if not await self._capture.layouts():
            raise SourceRefused(
                f"{self._capture.database.place}: capture is not installed",
                mend="Run `deptbus department install`",
            )
        await self._capture.refuse_outdated()
        found = {broken.dataset: broken for broken in await self._capture.broken()}
        for dataset, broken in found.items():
            if self._broken.get(dataset) != broken:
                self._log.error("capture_broken", reason=broken.reason, mend=_CAPTURE_MEND)
                if broken.is_blind:
                    await self._capture.give_way()
        for dataset in self._broken.keys() - found.keys():
            self._log.info("capture_mended", dataset=dataset)
        if found != self._broken:
            self._broken = found
            self.chores.rests = {d for d, broken in found.items() if not broken.is_partly}
            if self._policy is not None:
                await self._take_up(self._policy)
        gave_way = (await self._capture.state()).gave_way
        if gave_way > 0 and self._gave_way == 0:
            self._log.error("resync_needed", captures_missed=gave_way, mend=_RESYNC_MEND)
        self._gave_way = gave_way

    # --- the loop -------------------------------------------------------------------------

    async def run(self) -> None:
        """Publishes until something stops it; see the class for what is raised."""
        tasks = [
            asyncio.create_task(self._publish_for_ever()),
            asyncio.create_task(self._beat_for_ever()),
            asyncio.create_task(self.chores.run()),
            asyncio.create_task(self._signs.run()),
            asyncio.create_task(self._rivals.watch(self.incarnation)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            try:
                await task  # raises what stopped it
            except DeptbusError as error:
                await self._signs.ended(error)
                raise

    async def _publish_for_ever(self) -> None:
        sending: asyncio.Task[None] | None = None
        in_flight: list[int] = []
        acked: list[int] = []
        is_behind = False  # more waits than one batch: too much to be left out of a cut
        try:
            while True:
                await self._follow_policy()
                if self.cuts.are_wanted and not is_behind:
                    if sending is not None:
                        await sending
                    await self._cut((*acked, *in_flight))
                    sending, acked, in_flight = None, [], []
                turning = partial(self._turn, acked, in_flight)
                async with self._remembering:
                    turn = await self.when_free(partial(self._capture.together, turning))
                if turn.wants:
                    self.chores.wake()
                if turn.rows or acked:
                    self.chores.passed(is_live=turn.is_live)
                acked, is_behind = [], turn.rows >= BATCH_ROWS
                if sending is not None:
                    await sending
                    sending, acked, in_flight = None, in_flight, []
                if turn.changes:
                    in_flight = [version for version, _, _ in turn.changes]
                    sending = asyncio.create_task(self._send(turn.changes, turn.publication))
                if turn.strange:
                    await self.when_free(partial(self._look_at_layouts, turn.strange))
                elif not turn.rows and not acked:
                    await self.when_free(partial(self._capture.wait, _IDLE_SECONDS))
        finally:
            self.cuts.give_up()
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _cut(self, acked: Sequence[int]) -> None:
        """Nothing is on its way: what is forgotten now is not seen as waiting by who looks."""
        forget = partial(self._capture.delete, self.incarnation.token, acked)
        await self.when_free(forget)
        if acked:
            self.chores.passed(is_live=False)
        await self.cuts.make_all()

    async def when_free(self, work: Callable[[], Awaitable[T]]) -> T:
        """`work`, again for as long as somebody holds a lock that it needs. Whatever it does to the
        database is done whole or not at all, so doing it again is right."""
        pause, began, said = _BUSY_SECONDS[0], time.monotonic(), False
        while True:
            try:
                return await work()
            except DatabaseBusy as error:
                if not said and time.monotonic() - began > _BUSY_TOLD_SECONDS:
                    self._log.warning("publishing_waits_for_a_lock", error=error.what)
                    said = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BUSY_SECONDS[1])

    async def _turn(self, acked: Sequence[int], in_flight: Sequence[int]) -> Turn:
        """Forgets what the broker has, then reads and judges the next rows. All that has to be
        remembered of them is durable when this returns. May run in another thread than the event
        loop's: awaits the capture only and touches nothing of the loop."""
        if acked:
            await self._capture.delete(self.incarnation.token, acked)
        await self._capture.look_again(self.incarnation.token, BATCH_ROWS, self._hold)
        rows = await self._capture.read(BATCH_ROWS, in_flight, self._hold)
        self.reached = rows[0].position if rows else NOTHING_WAITS
        if not rows:
            return Turn()
        # As they are now: tables and contract may be looked at anew before this ends.
        publications = dict(self._publications)
        strange = _strange(rows, publications) - self._narrow
        if strange:
            return Turn(strange=strange)
        assert self._policy is not None
        found: list[Found] = []
        for some in _slices(len(rows)):
            found += find_keys(publications, rows[some])
            await asyncio.sleep(0)
        is_all = len(rows) < BATCH_ROWS
        sifted = await self.removals.sift(publications, rows, found, is_all=is_all)
        read = len(rows)
        if sifted is not None:
            rows, found = sifted.rows, sifted.found
        asked = self._worth_asking(rows, found)
        if sifted is not None:
            asked += [(dataset, key) for dataset, key, _ in sifted.remember]
        known = await self._capture.known(asked) if asked else {}
        borne = {
            (r.dataset, k.key): await self._capture.bears(r.dataset, k.plain)
            for r, k in zip(rows, found, strict=True)
            if isinstance(k, KeyOf) and k.plain is not None and k.key is not None
        }
        stamp = Stamp(self.incarnation, self._publication + 1, self._policy.number)
        # A copy: what cannot be made durable now, because somebody holds a lock, is judged again.
        parked = set(self._parked)
        judge = Judge(Batch(publications, stamp, known, borne, parked), self._codecs)
        for some in _slices(len(rows)):
            judge.take(rows[some], found[some])
            await asyncio.sleep(0)
        if sifted is not None:
            judge.take_held(sifted)
        ready = judge.ready
        judge.prepared.publication = stamp.publication
        number = await self._capture.prepare(
            self.incarnation.token, judge.prepared, sends=bool(ready)
        )
        if ready:
            self._publication = number
        self._parked = parked
        if sifted is not None:
            await self.removals.settle(sifted)
        is_live = any(row.cause == LIVE for row in rows)
        return Turn(read, ready, number, bool(judge.prepared.wanted), is_live)

    def _worth_asking(
        self, rows: Sequence[OutboxRow], found: Sequence[Found]
    ) -> list[tuple[str, bytes]]:
        """The keys of which something may be remembered."""
        remembered = self._capture.remembered
        if remembered is not None and not remembered:
            return []
        pairs = {
            (r.dataset, k.key if isinstance(k, KeyOf) else k[0])
            for r, k in zip(rows, found, strict=True)
        }
        return [
            (dataset, key)
            for dataset, key in pairs
            if key is not None and (remembered is None or key in remembered)
        ]

    async def _send(self, changes: Sequence[Ready], publication: int) -> None:
        """Returns when every record is acked. An unreachable bus is waited for, in order: the same
        records again, whose outcome is unknown, are harmless."""
        topic = out_topic(self.unit)
        places = partitions_of([key for _, key, _ in changes], len(self.presence.ends))
        boxes: dict[tuple[str, int], list[tuple[bytes, bytes]]] = {
            (topic, place): [] for place in range(len(self.presence.ends))
        }
        put = [box.append for box in boxes.values()]
        for place, (_, key, value) in zip(places, changes, strict=True):
            put[place]((key, value))
        pause = _BACKOFF_SECONDS[0]
        self._signs.sending()
        while True:
            try:
                stored = await self._sender.send_boxes(boxes)
                break
            except BusUnreachable as error:
                self._signs.refused(error)
                if pause == _BACKOFF_SECONDS[0]:
                    self._log.warning("publishing_stalled", error=error.what)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BACKOFF_SECONDS[1])
        self.presence.stored(stored)
        self._signs.acked()
        self._counts.add("deptbus_published_changes_total", (self.unit, self.system), len(changes))
        self._acked = publication
        self._version = max(self._version, max(version for version, _, _ in changes))

    # --- heartbeats -----------------------------------------------------------------------

    async def _beat_for_ever(self) -> None:
        look_at = time.monotonic() + LOOK_SECONDS
        raise_at = time.monotonic() + _RAISE_SECONDS
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self._look_at_topics()
                if time.monotonic() > raise_at:
                    await self._raise_ends()
                    raise_at = time.monotonic() + _RAISE_SECONDS
                await self._beat()
                if time.monotonic() > look_at:
                    await self._look_at_capture()
                    await self.removals.look()
                    look_at = time.monotonic() + LOOK_SECONDS
            except (BusUnreachable, DatabaseBusy):
                continue  # the loop that publishes says it

    async def _look_at_topics(self) -> None:
        check = partial(self._capture.check, self.incarnation.token)
        await self.presence.look_at_topics(check, self._beat)

    async def _raise_ends(self) -> None:
        """While we publish nothing, others of this unit do: without this, retention would come to
        lie behind what we last said, as if something of ours had been there."""
        publication = self._publication
        if publication == self._acked:
            ends = await self.presence.outbox_ends()
            if publication == self._publication:
                self.presence.ends = ends

    async def _beat(self) -> None:
        """What is acked so far. Never more: a record behind `ends` is looked at one by one."""
        assert self._policy is not None
        # An idle adapter has to notice a younger one too.
        await self._capture.check(self.incarnation.token)
        published = self._publication
        state = await self._capture.state()
        if state.publication < published:  # put back under us, with our own token in it
            raise was_restored(self._capture.database.place, published, state.publication)
        waiting = await self._capture.waiting(_WAITING_COUNTED)
        self._tell_figures(waiting, needs_resync=state.gave_way > 0)
        await self.presence.write(
            Heartbeat(
                self.unit,
                self.system,
                self.incarnation,
                self._acked,
                self._version,
                self._policy.number,
                tuple(self.presence.ends),
                self.presence.fingerprint,
                state.gave_way > 0,
                len(self._parked),
                time.time_ns() // 1000,
                waiting.rows,
                waiting.oldest_us,
            )
        )

    def _tell_figures(self, waiting: Waiting, *, needs_resync: bool) -> None:
        """For metrics: what is known at this moment, before the bus is asked to take it."""
        age = 0.0 if waiting.oldest_us is None else max(0.0, time.time() - waiting.oldest_us / 1e6)
        figures = {
            "deptbus_outbox_rows": waiting.rows,
            "deptbus_outbox_oldest_age_seconds": age,
            "deptbus_resync_needed": int(needs_resync),
        }
        who = self.unit, self.system
        for name, value in figures.items():
            self._counts.tell(name, who, value)
        self._counts.tell("deptbus_parked_rows", (*who, "outbox"), len(self._parked))

"""The applier of one system: its unit's inbox -> its own tables, for as long as it may.

Reading and decoding the next batch goes on while one is applied. What the database or the bus does
not allow now is tried again with back-off, and said once; only Fenced and SourceRefused end it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import structlog

from deptbus.connection import Connection
from deptbus.contract.department import Department, Receive, receive_key
from deptbus.contract.model import Contract, Policy
from deptbus.department import fence
from deptbus.department.applied_days import AppliedDays
from deptbus.department.connect import PostgresDatabase, SqliteDatabase, target_of
from deptbus.department.export import FolderExport
from deptbus.department.inbox import Arrived, Inbox, Request
from deptbus.department.kept_values import keep_values
from deptbus.department.ledger import WAITS_FOR_JOIN, ParkedChoice
from deptbus.department.opening import open_system
from deptbus.department.parked import LISTED_ROWS, ParkedBook, Retry
from deptbus.department.rebuild_told import RebuildBook
from deptbus.department.several_tables import as_one, tables_of
from deptbus.department.store import Applied, Store
from deptbus.department.store_postgres import PostgresStore
from deptbus.department.store_sqlite import SqliteStore
from deptbus.department.target import ContractShapes
from deptbus.errors import (
    BusRefused,
    BusUnreachable,
    ContractUnreadable,
    DatabaseBusy,
    DatabaseUnavailable,
    Fenced,
    SourceRefused,
)
from deptbus.metrics.counts import Counts
from deptbus.stream.policies import PolicyFollower
from deptbus.stream.schemas import SchemaFollower
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import ParkedRetry, ProofRequest, RebuildOrder, ResendOrder, ResendRequest

log = structlog.get_logger(__name__)

Resend = Callable[[ResendRequest | ResendOrder], Awaitable[None]]
Prove = Callable[[ProofRequest], None]
Result = TypeVar("Result")
TRANSIENT = (BusRefused, BusUnreachable, ContractUnreadable, DatabaseUnavailable)

_IDLE_SECONDS = 1.0
_CHECK_SECONDS = 2.0
# Jobs send as much as is committed in a fifth of a second (operations.window): a commit that comes
# late looks like a recipient that is slow.
_COMMIT_SECONDS = 0.05
_COMMIT_AGAIN_SECONDS = 0.5  # after a failure: with nothing more to apply the lag would stay wrong
_BACKOFF_SECONDS = (0.2, 5.0)
_BUSY_SECONDS = (0.02, 0.25)
_POLICY_SECONDS = 5.0
_SWAP_AGAIN_SECONDS = 2.0
_TIDY_SECONDS = 0.1  # between two batches, at a stretch
_LOOK_SHARE = 20  # so many times what the last count of parked rows took passes before the next
_LIST_SECONDS = 30.0  # between two looks at the parked rows one by one, when their number stays


def mapping_of(
    department: Department, system: str, contracts: Sequence[Contract]
) -> dict[str, tuple[Receive, tuple[str, ...]]]:
    """Dataset -> (its mapping, columns of the row's own key), for datasets that a contract has.

    `contracts`: every one that was in force, the newest first. A dataset that left the contract is
    still mapped: its copies have to be withdrawn.

    Raises SourceRefused when a mapping names no key; `department check` says so with its line.
    """
    found = {}
    for dataset, receive in department.systems[system].receives.items():
        known = next((c.datasets[dataset] for c in contracts if dataset in c.datasets), None)
        if known is None:
            continue
        key = receive_key(receive, known.key)
        if not key:
            raise SourceRefused(
                f"{department.file}: `receives: {dataset}` names no key",
                mend="Map the dataset's key fields, or `$key`",
            )
        kind = department.systems[system].kind
        found[dataset] = (as_one(dataset, receive, postgres=kind == "postgresql"), key)
    return found


class Applier:
    """`run` until it raises Fenced or SourceRefused, or until `stop` (what is being applied is
    finished then). `resend` gets the requests for the publisher and returns when they are durable;
    `prove` those for a proof, and returns at once; `stranger` finds the row that a proof gave a
    name, in a dataset.

    Owns what it opens; `follower`, `schemas` and `codecs` are the caller's.
    """

    def __init__(
        self,
        connection: Connection,
        department: Department,
        system: str,
        token: bytes,
        *,
        follower: PolicyFollower,
        schemas: SchemaFollower,
        codecs: Codecs,
        resend: Resend | None = None,
        prove: Prove = lambda request: None,
        stranger: Callable[[str, bytes], bytes | None] = lambda dataset, name: None,
        counts: Counts | None = None,
    ) -> None:
        self._connection, self._department, self._system = connection, department, system
        self._token = token
        self._follower, self._schemas, self._codecs = follower, schemas, codecs
        self._resend, self._prove, self._stranger = resend, prove, stranger
        self._counts = counts if counts is not None else Counts()
        self._who = department.unit, system
        self._stopping = asyncio.Event()
        self._log = log.bind(unit=department.unit, system=system)
        self._policy: Policy | None = None
        self._contracts: list[Contract] = []  # every one that was in force, the newest first
        self._shapes: ContractShapes | None = None
        self.export: FolderExport | None = None  # of a folder, while it is kept
        self.begun = asyncio.Event()  # set when the inbox is being read
        self.applied_at_us: int | None = None  # when something was last applied, since the start
        # What is parked here, by dataset and reason; None: not asked for since the start.
        self.parked: dict[tuple[str, str], int] | None = None
        self.parked_book = ParkedBook()
        self.days = AppliedDays()
        self.rebuilds = RebuildBook()
        self._parked_again = 0.0  # monotonic seconds; not before, what is parked is counted
        self._swap_at = 0.0  # monotonic seconds; not before, after somebody held a lock
        self._counted_us: int | None = None  # of which apply the days count already
        self._held: list[str] = []  # datasets that the data office holds back
        self._unfit: dict[str, str] = {}  # datasets whose tables cannot be written, and why
        self._works = True  # since it last stopped it has begun again, so the next stop is news

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        pause, said = _BACKOFF_SECONDS[0], ""
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._session()
            except TRANSIENT as error:
                if error.what != said or self._works:
                    self._log.warning("applying_stopped", error=str(error))
                    said = error.what
                self._works = False
                if time.monotonic() - began > 60:
                    pause = _BACKOFF_SECONDS[0]
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()
                pause = min(pause * 2, _BACKOFF_SECONDS[1])

    async def _session(self) -> None:
        """One connection to the database and one to the bus, until either fails."""
        self._follow_policy()
        assert self._policy is not None
        target = target_of(self._department.systems[self._system].database)
        database = await open_system(self._department, self._system)
        inbox = Inbox(
            self._connection, self._department.unit, self._system, self._codecs, self._schemas
        )
        exporting: asyncio.Task[None] | None = None
        try:
            if not await fence.has_adapter_table(database):
                raise Fenced("another database stands where ours was")
            store = self._store(database, inbox.topic)
            identity, partitions = await inbox.start()
            await store.open(identity, partitions)
            self._tell_unfit(store)
            if store.read_before:
                self._log.info("inbox_read_again", datasets=sorted(store.fresh))
            await self._tell_if_restored(store, inbox)
            begins = await inbox.seek(
                store.positions, fresh=store.fresh, read_before=store.read_before
            )
            await store.begin_reading(begins)
            await inbox.commit(store.positions)
            if target.folder is not None:
                mine = {name: store.targets[name] for name in store.datasets}
                self.export = FolderExport(target, mine)
                exporting = asyncio.create_task(self.export.run())
            if self._works:
                self._log.info("applying_begun", datasets=sorted(store.datasets))
            waiting = sorted(d for d, target in store.targets.items() if target.waits)
            if waiting:
                self._log.warning(
                    "first_load_waits", datasets=waiting, mend="Run `deptbus department join`"
                )
            self._tell_rebuilds(store)
            self.begun.set()
            await self._loop(store, inbox, database)
        finally:
            await _ended(exporting)
            if self.export is not None:
                await self.export.finish()
            await inbox.stop()
            await database.close()

    async def _tell_if_restored(self, store: Store, inbox: Inbox) -> None:
        """Nobody has to act: it is applied again, as far as the inbox keeps it. But people want to
        know what they see on their screens meanwhile."""
        ahead = 0 if store.fresh else await inbox.ahead(store.positions)
        if ahead:
            self._log.warning(
                "recipient_was_restored",
                deliveries=ahead,
                mend="Nothing: they are applied again from the inbox",
            )

    def _store(self, database: SqliteDatabase | PostgresDatabase, topic: str) -> Store:
        assert self._policy is not None
        assert self._shapes is not None
        mapping = mapping_of(self._department, self._system, self._contracts)
        kind = SqliteStore if isinstance(database, SqliteDatabase) else PostgresStore
        store: Store = kind(database, topic, self._token, mapping, self._shapes)  # type: ignore[arg-type]
        store.declared = frozenset(self._department.systems[self._system].receives)
        store.stranger = self._stranger
        receives = self._department.systems[self._system].receives
        store.several = {
            dataset: tables_of(receives[dataset], key)
            for dataset, (_, key) in mapping.items()
            if receives[dataset].tables
        }
        folder = Path(self._department.file).parent
        store.keep = lambda kept: keep_values(folder, self._system, kept, store.targets)
        return store

    async def _loop(
        self, store: Store, inbox: Inbox, database: SqliteDatabase | PostgresDatabase
    ) -> None:
        reading: asyncio.Task[Arrived] | None = None
        await self._look_at_parked(store)
        await self._count_days(store)
        stopping = asyncio.create_task(self._stopping.wait())
        checked_at = time.monotonic()
        applied = asyncio.Event()
        committing = asyncio.create_task(_commit_always(store, inbox, applied))
        try:
            while not self._stopping.is_set():
                if reading is None:
                    reading = asyncio.create_task(self._read(store, inbox))
                await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    break
                arrived, reading = reading.result(), None
                if self._follow_policy() and self._changed(store):
                    return  # other datasets: open anew, from the offsets in SQL
                unknown = arrived.others & store.declared
                if unknown:
                    # Left out now they would be lost: the offsets move on.
                    raise ContractUnreadable(
                        f"deliveries of {', '.join(sorted(unknown))} came before the contract "
                        "that has it"
                    )
                if arrived.batch:
                    reading = asyncio.create_task(self._read(store, inbox))
                if not await self._take_requests(store, arrived.requests):
                    break
                for proof in arrived.proofs:
                    self._prove(proof)
                if not await self._take_rebuilds(store, arrived.rebuilds):
                    break
                await self._apply(store, arrived)
                await self._rebuild(store)
                if arrived.batch:
                    applied.set()
                    self._begun_again(store)
                if time.monotonic() - checked_at > _CHECK_SECONDS:
                    # Also who has nothing to apply notices a younger adapter.
                    await fence.check(database, self._token)
                    await inbox.check_identity()
                    if store.unfit and await store.are_mended():
                        return  # opened anew, with the inbox from its beginning for them
                    is_time = time.monotonic() >= self._parked_again
                    if is_time and (store.has_parked or self.parked != {}):
                        await self._look_at_parked(store)
                    self._tell_parked()
                    if self.applied_at_us != self._counted_us:
                        await self._count_days(store)
                    for dataset in await store.look_at_existing():
                        self._log.info("first_load_allowed", dataset=dataset)
                    checked_at = time.monotonic()
                    self._begun_again(store)
        finally:
            await _ended(committing)
            await _ended(reading)
            await _ended(stopping)
        await inbox.commit(store.positions)

    async def _count_days(self, store: Store) -> None:
        self._counted_us = self.applied_at_us
        self.days.take(await store.tallies_since(self.days.since(_now_us())))

    def _begun_again(self, store: Store) -> None:
        """What stopped it is over: it has written, or asked the database."""
        if not self._works:
            self._works = True
            self._log.info("applying_begun", datasets=sorted(store.datasets))

    async def _read(self, store: Store, inbox: Inbox) -> Arrived:
        retry = store.retry_in_seconds(_now_us())
        wait = _IDLE_SECONDS if retry is None else min(retry, _IDLE_SECONDS)
        arrived = await inbox.read(store.batch_limit, wait, store.targets)
        if store.looks_ahead and not store.is_rebuilding:
            arrived.sifted = await store.look_ahead(arrived.batch)
        if self._policy is not None and arrived.policy > self._policy.number:
            # A new schema may have come with it. Without it the rows would be parked for a while.
            with suppress(ContractUnreadable):
                await self._follower.at_least(arrived.policy, _POLICY_SECONDS)
        return arrived

    async def _apply(self, store: Store, arrived: Arrived) -> None:
        retry = store.retry_in_seconds(_now_us())
        if not arrived.batch and (retry is None or retry > 0):
            return
        tried_at = time.monotonic()

        async def once() -> Applied:
            nonlocal tried_at
            tried_at = time.monotonic()
            sifted, arrived.sifted = arrived.sifted, None
            if self.export is None:
                return await store.apply(arrived.batch, _now_us(), sifted)
            async with self.export.applying:
                done = await store.apply(arrived.batch, _now_us(), sifted)
                if done.written:
                    self.export.mark(done.written)
                return done

        applied = await self._between_locks(once)
        if applied is None:
            return
        now_us = _now_us()
        if arrived.batch:
            self.applied_at_us = now_us
        self._count(arrived, applied, time.monotonic() - tried_at, now_us)
        self._tell(applied)
        if self.parked_book.is_retrying and self.parked_book.take(applied, store.next_due_us):
            await self._look_at_parked(store, tried=True)

    async def _between_locks(self, work: Callable[[], Awaitable[Result]]) -> Result | None:
        """Again for as long as somebody in the department holds a lock; None: asked to stop before
        it could be done."""
        pause, began, said = _BUSY_SECONDS[0], time.monotonic(), False
        while True:
            try:
                return await work()
            except DatabaseBusy as error:
                if not said and time.monotonic() - began > 5:
                    self._log.warning("applying_waits_for_a_lock", error=error.what)
                    said = True
                if self._stopping.is_set():
                    return None
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BUSY_SECONDS[1])

    async def _look_at_parked(self, store: Store, *, tried: bool = False) -> None:
        """How many there are, and which, when that may be news: also when they were `tried`."""
        began = time.monotonic()
        before, self.parked = self.parked, await store.parked_rows()
        # Of a whole first load that waits, counting takes a while.
        self._parked_again = time.monotonic() + _LOOK_SHARE * (time.monotonic() - began)
        book, now = self.parked_book, time.monotonic()
        if tried or self.parked != before or now - book.listed_at > _LIST_SECONDS:
            rows = sum(self.parked.values())
            book.take_list(rows, await store.parked_list(LISTED_ROWS) if rows else (), now)

    def _tell_parked(self) -> None:
        if self.parked is not None:
            rows = sum(self.parked.values())
            self._counts.tell("deptbus_parked_rows", (*self._who, "apply"), rows)

    def _count(self, arrived: Arrived, applied: Applied, seconds: float, now_us: int) -> None:
        counts, who = self._counts, self._who
        for tally, deliveries in applied.tallies.items():
            labels = (*who, tally.dataset, tally.direction, tally.outcome)
            counts.add("deptbus_deliveries_total", labels, deliveries)
        for place, times_us in applied.times_us.items():
            counts.histogram("deptbus_end_to_end_seconds", place).observe_ages(times_us, now_us)
        counts.histogram("deptbus_apply_seconds", who).observe(seconds)
        if arrived.batch:
            at = now_us / 1e6
            counts.tell("deptbus_last_apply_timestamp_seconds", who, at, for_good=True)
        for part in arrived.batch.values():
            for unreadable in part.unreadable:
                reason = unreadable.reason
                counts.add("deptbus_unreadable_deliveries_total", (*who, reason), 1)

    def _tell(self, applied: Applied) -> None:
        """One line for all rows of a batch that are parked for the same reason."""
        reasons = Counter(
            (entry.dataset, entry.parked)
            for entry in applied.parked
            if entry.parked != WAITS_FOR_JOIN  # that was said once for all of them
        )
        for (dataset, reason), rows in sorted(reasons.items(), key=str):
            self._log.warning("deliveries_parked", dataset=dataset, reason=reason, rows=rows)

    async def _take_requests(self, store: Store, requests: Sequence[Request]) -> bool:
        """Each is durable when this returns, so that the offsets may move past it; False: not all
        of them, because we are asked to stop."""
        published = self._department.systems[self._system].publishes
        for request in requests:
            if isinstance(request, ParkedRetry):
                if not await self._retry_parked(store, request):
                    return False
            elif request.dataset in published and self._resend is not None:
                await self._resend(request)
        return True

    async def _take_rebuilds(self, store: Store, orders: Sequence[RebuildOrder]) -> bool:
        """As `_take_requests`: before what was read along is applied, so that nothing of it that
        lies behind the order is missed."""
        for order in orders:

            async def once(order: RebuildOrder = order) -> bool:
                if store.rebuilds is not None:
                    await store.rebuilds.take(order, _now_us())
                return True

            if await self._between_locks(once) is None:
                return False
        if orders:
            self._tell_rebuilds(store)
        return True

    async def _rebuild(self, store: Store) -> None:
        """The swap when it is time, and what is left of a second copy some at a time."""
        if store.rebuilds is None:
            return
        if store.rebuilds.due is not None:
            if time.monotonic() < self._swap_at:
                return
            try:
                done = await store.swap(_now_us())
            except DatabaseBusy as error:
                # What comes does not wait for it, as it must for a batch.
                self._swap_at = time.monotonic() + _SWAP_AGAIN_SECONDS
                self._log.warning("swap_waits_for_a_lock", error=error.what)
                return
            if done is not None and done.state == "swapped" and self.export is not None:
                self.export.mark([done.dataset])
            self._tell_rebuilds(store)
        elif store.rebuilds.untidy is not None:
            until = time.monotonic() + _TIDY_SECONDS
            while store.rebuilds.untidy is not None and time.monotonic() < until:
                if await self._between_locks(store.rebuilds.tidy_some) is None:
                    return

    def _tell_rebuilds(self, store: Store) -> None:
        if store.rebuilds is not None:
            self.rebuilds.take(store.rebuilds.last())

    async def _retry_parked(self, store: Store, request: ParkedRetry) -> bool:
        choice = ParkedChoice(request.dataset, request.key, request.refused_for)
        marked = await self._between_locks(lambda: store.retry_now(choice, _now_us()))
        if marked is None:
            return False
        due_us, rows = marked
        self._log.info("parked_retry_begun", request=request.request, rows=rows)
        self.parked_book.begin(Retry(request.request, due_us, rows))
        return True

    def _follow_policy(self) -> bool:
        """Take up the contract in force; whether it is another one than before."""
        if self._policy is not None:
            try:
                policy = self._follower.current()
            except ContractUnreadable:
                return False  # applying what came needs no rights: those were decided before
            if policy.number == self._policy.number:
                return False
        else:
            policy = self._follower.current()
        history = self._follower.history()
        self._contracts = [history[number].contract for number in sorted(history, reverse=True)]
        for contract in self._contracts:
            self._codecs.add_contract(contract)
        if self._shapes is None:
            self._shapes = ContractShapes(policy.contract, self._codecs, self._contracts)
        else:
            self._shapes.replace(policy.contract, self._codecs, self._contracts)
        self._tell_holds(policy)
        self._policy = policy
        missing = [
            name
            for name in self._department.systems[self._system].receives
            if name not in policy.contract.datasets
        ]
        if missing:
            self._log.warning("datasets_not_in_contract", datasets=missing, policy=policy.number)
        return True

    def _tell_holds(self, policy: Policy) -> None:
        """Why nothing comes, and that it does again: once each."""
        received = self._department.systems[self._system].receives
        unit = self._department.unit
        held = sorted(d for d in received if policy.hold_of(unit, d) is not None)
        if held != self._held:
            event = "deliveries_held" if held else "deliveries_resumed"
            self._log.warning(event, datasets=held or self._held, policy=policy.number)
            self._held = held

    def _changed(self, store: Store) -> bool:
        assert self._policy is not None
        wanted = mapping_of(self._department, self._system, self._contracts)
        return wanted.keys() != {*store.datasets, *store.unfit}

    def _tell_unfit(self, store: Store) -> None:
        """Which tables cannot be written, once each, and that they can again."""
        said = {dataset: str(error) for dataset, error in store.unfit.items()}
        for dataset, reason in said.items():
            if self._unfit.get(dataset) != reason:
                self._log.error("table_unfit", dataset=dataset, reason=reason)
        for dataset in self._unfit.keys() - said.keys():
            self._log.info("table_fit_again", dataset=dataset)
        self._unfit = said


async def _commit_always(store: Store, inbox: Inbox, applied: asyncio.Event) -> None:
    """Beside the loop: a batch waits for no commit, and the last of a row is not forgotten."""
    while True:
        await applied.wait()
        applied.clear()
        done = await inbox.commit(store.positions)
        if not done:
            applied.set()
        await asyncio.sleep(_COMMIT_SECONDS if done else _COMMIT_AGAIN_SECONDS)


def _now_us() -> int:
    return time.time_ns() // 1000


async def _ended(task: asyncio.Task[object] | asyncio.Task[None] | None) -> None:
    """Cancel a helper task and wait for its end; its own failure was met elsewhere or is moot."""
    if task is None:
        return
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

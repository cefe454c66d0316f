"""What the publisher does beside live changes: rows wanted afresh, snapshots, resend requests, and
removals that were held and are meant after all.

Everything asked for is written to the database first, so that whoever asked may forget it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from deptbus.department.capture import GONE, RESEND, Capture, RawKey, Sought, Wanted
from deptbus.department.publication import Publication
from deptbus.department.raw import raw_of
from deptbus.department.removal_guard import RELEASE
from deptbus.department.speakers import holder_of
from deptbus.errors import DatabaseBusy

log = structlog.get_logger(__name__)

SNAPSHOT_ROWS = 1_000  # one short transaction: below 10 ms
BACKLOG_ROWS = 8_000  # as many may wait in the outbox: more would not be quicker
# While live changes come, few of a snapshot's rows wait at a time, and when they have left it rests
# for as long as that took: where all stand on one machine the processors are then never wanted
# by more than they can serve. Where that takes no time it goes no quicker than this.
LIVE_PACE_ROWS = 10_000  # a second
LIVE_ROWS = 500  # at a time: with fewer, each costs all behind it half as much again
_MOST_REST_SECONDS = 1.0
_LIVE_SECONDS = 2.0  # after a live change another is likely to come
_IDLE_SECONDS = 1.0
_SCAN_ROWS = 2_000
_RESOLVED_ROWS = 200  # in one short transaction
_RELEASED_KEYS = 4_000  # for which versions are drawn at a time


class Chores:
    """`run` beside the publisher's loop; the rest may be called from any task of that process."""

    def __init__(
        self,
        capture: Capture,
        publications: Mapping[str, Publication],
        token: Callable[[], bytes],
    ) -> None:
        self._capture = capture
        self._token = token
        self._publications = publications
        self._woken = asyncio.Event()
        self._awaits_room = False
        self._live_at = float("-inf")  # when a live change was last seen
        self._sent_at: float | None = None  # when rows of a snapshot were enqueued beside live ones
        # Datasets whose tables cannot be read as they are now: what is wanted of them waits.
        self.rests: Collection[str] = ()

    def wake(self) -> None:
        self._woken.set()

    def passed(self, *, is_live: bool) -> None:
        """Tells that rows have left the outbox, and whether live ones were among them."""
        if is_live:
            self._live_at = time.monotonic()
        if self._awaits_room:
            self._woken.set()

    async def enqueue_resend(self, dataset: str, key: bytes | None, job: str | None = None) -> None:
        """Publish the present state of a key (a delete when it is gone and was ever named), or with
        `key` None of the whole dataset. Returns when the wish is durable."""
        if dataset not in self._publications:
            log.warning("resend_not_ours", dataset=dataset)
            return
        if key is None:
            await self._capture.begin_snapshot(dataset, "resend", job)
        else:
            await self._capture.want([Wanted(dataset, None, key, "resend", job)])
        self.wake()

    async def enqueue_keys(self, dataset: str, keys: Collection[bytes], job: str) -> None:
        """`enqueue_resend` of many keys. Returns when the wish is durable."""
        if dataset not in self._publications:
            log.warning("resend_not_ours", dataset=dataset)
            return
        await self._capture.want_keys(dataset, keys, "resend", job)
        self.wake()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            try:
                busy = await self._work_off()
                busy = await self._advance() or busy
                busy = await self._release() or busy
            except DatabaseBusy:
                busy = False  # somebody holds a lock for long: what is wanted is written down
            if not busy:
                try:
                    async with asyncio.timeout(_IDLE_SECONDS):
                        await self._woken.wait()
                except TimeoutError:
                    continue

    async def _work_off(self) -> bool:
        done, by_key = await self._capture.work_off(100, self.rests)
        datasets = {w.dataset for w in by_key}
        for dataset in datasets:
            await self._find([w for w in by_key if w.dataset == dataset], dataset)
        return done > 0

    async def _find(self, wanted: Sequence[Wanted], dataset: str) -> None:
        """Looks for the rows of bus keys by making the key of every row, chunk by chunk."""
        publication = self._publications.get(dataset)
        if publication is None:
            return
        keys = {w.key for w in wanted if w.key is not None}
        found = await self._rows_of(publication, keys)
        for start in range(0, len(wanted), _RESOLVED_ROWS):
            some = wanted[start : start + _RESOLVED_ROWS]
            known = await self._capture.known([(dataset, w.key) for w in some if w.key is not None])
            sought = []
            for one in some:
                assert one.key is not None
                memory = known.get((dataset, one.key))
                holder = holder_of(memory) if memory is not None else None
                row = raw_of(holder) if holder is not None else found.get(one.key)
                if row is None and memory is None:
                    log.warning("resend_key_unknown", dataset=dataset)
                sought.append(Sought(one, row, memory is not None))
            await self._capture.resolve(dataset, sought)

    async def _rows_of(
        self, publication: Publication, keys: Collection[bytes]
    ) -> dict[bytes, RawKey]:
        found: dict[bytes, RawKey] = {}
        after: RawKey | None = None
        while len(found) < len(keys):
            chunk = await self._capture.keys_after(publication.dataset, after, _SCAN_ROWS)
            if not chunk:
                break
            after = chunk[-1]
            for start in range(0, len(chunk), 100):
                for raw in chunk[start : start + 100]:
                    key = publication.key_of_raw(raw).key
                    if key is not None and key in keys:
                        found.setdefault(key, raw)
                await asyncio.sleep(0)  # making keys takes 4 us each: let live changes pass
        return found

    async def _advance(self) -> bool:
        """The next rows of every open snapshot, unless enough waits already."""
        open_now = [
            s for s in await self._capture.open_snapshots() if s.dataset in self._publications
        ]
        self._awaits_room = False
        if not open_now:
            self._sent_at = None
            return False
        beside_live = time.monotonic() - self._live_at < _LIVE_SECONDS
        rows, room = (LIVE_ROWS, LIVE_ROWS) if beside_live else (SNAPSHOT_ROWS, BACKLOG_ROWS)
        self._awaits_room = True  # before we look: what goes meanwhile must wake us
        waits = await self._capture.backlog(room)
        if waits >= room:
            return False
        if beside_live:
            await self._rest(rows * len(open_now) / LIVE_PACE_ROWS)
            self._sent_at = time.monotonic()
        else:
            self._awaits_room, self._sent_at = False, None
        # Each way to the database and back waits behind what the publisher computes: so as many
        # chunks as there is room for behind one look. Beside live changes, which come between two
        # chunks only, it is one.
        chunks = 1 if beside_live else max(1, (room - waits) // (rows * len(open_now)))
        for snapshot in open_now:
            for _ in range(chunks):
                after = await self._capture.advance_snapshot(snapshot.dataset, rows)
                if after.done:
                    log.info("snapshot_enqueued", dataset=after.dataset, rows=after.enqueued)
                    break
        return not beside_live  # else what leaves the outbox wakes us

    async def _release(self) -> bool:
        """The next keys whose removal was held and is meant: their present state is published."""
        able = self._publications.keys() - self.rests
        some = await self._capture.released(_RELEASED_KEYS, able) if able else []
        if not some:
            return False
        if await self._capture.backlog(BACKLOG_ROWS) >= BACKLOG_ROWS:
            self._awaits_room = True
            return False
        dataset, token, job = some[0].dataset, self._token(), f"{RELEASE}{some[0].hold}"
        known = await self._capture.known([(dataset, one.key) for one in some])
        shared = {key: memory.variants for (_, key), memory in known.items() if memory.variants}
        version = await self._capture.reserve(token, len(some))
        alone = [one for one in some if one.key not in shared]
        for start in range(0, len(alone), _RESOLVED_ROWS):
            part = alone[start : start + _RESOLVED_ROWS]
            await self._capture.publish_released(token, version + start, part, RESEND, job)
        for one in some:
            if one.key in shared:
                raws = {one.raw, *(v.raw for v in shared[one.key] if v.state != GONE)} - {""}
                wanted = [Wanted(dataset, raw, None, RESEND, job) for raw in sorted(raws)]
                await self._capture.want_released(token, [one], wanted)
        return True

    async def _rest(self, least: float) -> None:
        """After the last rows have left, for as long as they took; at the least until so many
        seconds after they were enqueued."""
        if self._sent_at is not None:
            took = time.monotonic() - self._sent_at
            await asyncio.sleep(min(max(took, least - took), _MOST_REST_SECONDS))

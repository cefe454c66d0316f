"""`deptbus department resync`: makes the bus equal to a source that was restored, or missed some.

1. The system is taken over; its numbers are lifted above all that the bus knows, rows that wait
   included; every transaction that is older has then ended.
2. The unit's own `out` is folded: what was published last of each key, and every place that it
   named. The places are remembered, because those of a restored database are behind.
3. Every row is published under a new version; a key that the bus has and the table has not is
   deleted.
4. When all of it is acked, the times that capture gave way before step 1 are forgiven, if `out`
   goes back to its beginning. Else keys whose last change is older than its retention could not be
   looked at: what was deleted of them unseen stays, and status goes on to say so.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from deptbus.change import Change, ChangeOp
from deptbus.connection import Connection
from deptbus.contract.department import Department
from deptbus.department.capture import Capture, Prepared, RawKey, Wanted
from deptbus.department.publisher import Publisher
from deptbus.errors import WireRefused
from deptbus.names import out_topic
from deptbus.stream.log import beginning_offsets, scan_to_end
from deptbus.wire.codecs import Codecs

log = structlog.get_logger(__name__)

JOB = "resync"
_CHUNK = 1_000
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Resynced:
    """What was done. `is_complete`: `out` was there from its beginning, so no key was missed."""

    rows: int
    gone: int
    is_complete: bool


@dataclass(slots=True)
class _Last:
    """What was published last of one key."""

    version: int
    is_there: bool
    places: tuple[str, ...]


async def resync(
    connection: Connection,
    department: Department,
    system: str,
    publisher: Publisher,
    codecs: Codecs,
) -> Resynced:
    """Runs until everything is published. `publisher` is fresh, not started; `codecs` knows every
    policy. Raises what Publisher raises."""
    capture = publisher.capture
    missed = (await capture.state()).gave_way + 1  # the lift counts as one
    await publisher.start(resync=True)
    token = publisher.incarnation.token
    datasets = publisher.datasets
    last, is_complete = await _fold(connection, publisher, codecs, datasets)
    gone = 0
    for dataset in datasets:
        gone += await _remember(capture, token, publisher, dataset, last)
        await capture.begin_snapshot(dataset, "resend", JOB)
    running = asyncio.create_task(publisher.run())
    try:
        while not await _is_done(capture):
            if running.done():
                running.result()
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    if is_complete:
        await capture.forgive(token, missed)
    rows = sum(s.enqueued for s in (await capture.status()).snapshots if s.dataset in datasets)
    log.info("source_resynced", unit=department.unit, system=system, rows=rows, gone=gone)
    return Resynced(rows, gone, is_complete)


async def _fold(
    connection: Connection, publisher: Publisher, codecs: Codecs, datasets: frozenset[str]
) -> tuple[dict[tuple[str, bytes], _Last], bool]:
    """The last change of every key in `out`, by its highest version; whether `out` is whole."""
    topic = out_topic(publisher.unit)
    last: dict[tuple[str, bytes], _Last] = {}
    begins = await beginning_offsets(connection, topic)
    async for records in scan_to_end(connection, topic):
        for record in records:
            try:
                change = codecs.decode_out(record.key, record.value)
            except WireRefused:
                continue
            if not isinstance(change, Change) or change.dataset not in datasets:
                continue
            if change.incarnation.token not in publisher.memory.tokens:
                continue  # another system's, or of nobody that intake accepts
            pair = (change.dataset, change.key)
            before = last.get(pair)
            named = (*change.former_divisions, change.division)
            if before is None:
                last[pair] = _Last(change.version, change.op is ChangeOp.UPSERT, named)
                continue
            before.places = tuple(dict.fromkeys((*before.places, *named)))
            if change.version > before.version:
                before.version = change.version
                before.is_there = change.op is ChangeOp.UPSERT
    return last, not any(begins)


async def _remember(
    capture: Capture,
    token: bytes,
    publisher: Publisher,
    dataset: str,
    last: dict[tuple[str, bytes], _Last],
) -> int:
    """Writes the places of keys that moved or went; wants a delete of those that are not there any
    more. Returns how many of these."""
    there = await _present(capture, publisher, dataset)
    pairs = [p for p in last if p[0] == dataset]
    gone = [p for p in pairs if last[p].is_there and p[1] not in there]
    told = [p for p in pairs if len(last[p].places) > 1 or p[1] not in there]
    for start in range(0, len(told), _CHUNK):
        part = told[start : start + _CHUNK]
        known = await capture.known(part)
        prepared = Prepared()
        for pair in part:
            before = known[pair].places if pair in known else ()
            places = tuple(dict.fromkeys((*before, *last[pair].places)))
            if places != before:
                prepared.places[pair] = places
        await capture.prepare(token, prepared, sends=False)
    await capture.want(Wanted(dataset, None, key, "resend", JOB) for _, key in gone)
    return len(gone)


async def _present(capture: Capture, publisher: Publisher, dataset: str) -> set[bytes]:
    """The bus keys of all rows that are in the table."""
    found: set[bytes] = set()
    after: RawKey | None = None
    while chunk := await capture.keys_after(dataset, after, _CHUNK):
        after = chunk[-1]
        keys = (publisher.key_of_raw(dataset, raw) for raw in chunk)
        found.update(key for key in keys if key is not None)
        await asyncio.sleep(0)
    return found


async def _is_done(capture: Capture) -> bool:
    if await capture.open_snapshots() or await capture.backlog(1):
        return False
    return (await capture.status()).wanted == 0

"""A source is restored from a backup, and made equal to the bus again: `department resync`.

What the bus has is folded, told and compared by the product's own pure parts; the steps between
them are those of `department/resync.py`, and a kill between any two of them has to be made good by
running it again.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deptbus.change import Change, Incarnation
from deptbus.department.capture import Known, OutboxRow, RawKey, Wanted
from deptbus.department.comparison import Comparison, Differences, Held
from deptbus.department.judge import find_keys
from deptbus.department.raw import raw_text
from deptbus.errors import Fenced
from deptbus.names import data_topic, out_topic
from deptbus.operations.inventory import Holdings
from deptbus.stream.data import decode_data
from deptbus.stream.log import Outgoing
from deptbus.wire.control import Marker, encode_control

from .county import CODECS, DATASET, FIELDS
from .simulation import step

if TYPE_CHECKING:
    from .source import SourceDatabase
    from .world import World

_CAUSE, _JOB = "resend", "resync"
_DURABLE = (
    *("rows", "outbox", "position", "incarnation", "publication", "known", "parked", "wanted"),
    *("cursor", "missed"),
)


@dataclass
class Backup:
    """What was committed at one moment."""

    state: dict[str, Any]


def back_up(source: SourceDatabase) -> None:
    source.backup = Backup(deepcopy({name: getattr(source, name) for name in _DURABLE}))


def restore(source: SourceDatabase) -> None:
    """Who has a transaction open loses it."""
    assert source.backup is not None
    source.open.clear()
    for name, value in deepcopy(source.backup.state).items():
        setattr(source, name, value)


async def resync(world: World, source: SourceDatabase, mine: Incarnation) -> None:
    """Behind the announcement of `mine`, before it publishes anything else."""
    bus, unit = world.bus, source.unit
    published = bus.published[unit]
    top = source.lift(mine.token, bus.highest[unit])
    await _older_ended(source)
    await step()
    source.renumber(mine.token, top, published)
    await step()
    marker = Marker(f"resync/main/{mine.number}", "resync", unit, "main", mine, 0)
    offset = bus.append(Outgoing(out_topic(unit), 0, None, encode_control(marker)))
    held = await _told(world, unit, marker, offset)
    await step()
    version = source.reserve(mine.token, len(held))
    await _older_ended(source)
    publication = source.publications[DATASET]
    comparison = Comparison(publication, held, frozenset(raw for _, raw in source.parked))
    after: RawKey | None = None
    while chunk := _rows_after(source, after, world.chance.randint(1, 3)):
        await step()
        after = chunk[-1].raw
        found = find_keys(source.publications, chunk)
        known = {key: remembered for (_, key), remembered in source.known.items()}
        differences = comparison.rows(zip(chunk, found, strict=True), known)
        await step()
        _act(source, mine.token, differences, version)
    for key in comparison.left:
        await step()
        known = {key: remembered for (_, key), remembered in source.known.items()}
        differences = comparison.rest(known, [key])
        if world.bugs.resync_without_deletes:
            differences.delete.clear()
        _act(source, mine.token, differences, version)
        version += len(differences.delete)
    await step()
    _act(source, mine.token, Differences(enqueue=comparison.gone_holders()), version)
    await step()
    source.check(mine.token)
    source.missed = False


async def _older_ended(source: SourceDatabase) -> None:
    older = list(source.open)
    while any(transaction in source.open for transaction in older):
        await step()


async def _told(world: World, unit: str, marker: Marker, offset: int) -> dict[bytes, Held]:
    """What operations tells: all that lies before the marker in the canonical topic."""
    holdings, topic = Holdings(unit), data_topic(DATASET)
    position, is_met = 0, world.bugs.resync_without_marker
    while True:
        await step()
        is_refused = world.bus.committed["intake", out_topic(unit)] > offset
        records = world.bus.read(topic, position, 50)
        for record in records:
            position = record.offset + 1
            found = decode_data(CODECS, record.key, record.value)
            if isinstance(found, Change):
                holdings.add(found)
            elif found == marker:
                is_met = True
                break
        if is_refused and not records and not is_met:
            raise Fenced("the marker did not come through: it is run again")
        if is_met and (not records or not world.bugs.resync_without_marker):
            break
    held = {}
    for chunk in holdings.chunks("", "", DATASET, 0):
        rows = zip(chunk.keys, chunk.versions, chunk.digests, chunk.places, strict=True)
        for key, version, digest, places in rows:
            held[key] = Held(version, digest, tuple(places.split(",")))
    return held


def _rows_after(source: SourceDatabase, after: RawKey | None, limit: int) -> list[OutboxRow]:
    raws = sorted(raw for raw in source.rows if after is None or raw > after)[:limit]
    return [
        OutboxRow(
            *(0, DATASET, "u", "live", None, 0, None, None, raw),
            FIELDS,
            [source.rows[raw][f] for f in FIELDS],
        )
        for raw in raws
    ]


def _act(source: SourceDatabase, token: bytes, differences: Differences, version: int) -> None:
    """Whatever of it is done is right, so a kill between two of these costs nothing."""
    source.check(token)
    for key, places in differences.places.items():
        before = source.known.get((DATASET, key), Known())
        made = tuple(dict.fromkeys((*before.places, *places)))
        source.known[DATASET, key] = Known(made, before.variants)
    source.want(
        *(
            Wanted(DATASET, raw_text(raw), None, _CAUSE, _JOB)
            for raw in (*differences.enqueue, *differences.moved)
        )
    )
    for number, key in enumerate(differences.delete, version):
        source.outbox[number] = OutboxRow(number, DATASET, "d", _CAUSE, _JOB, number, None, key, ())

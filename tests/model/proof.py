"""Sources are proved against the canonical topic while everything goes on: `reconcile`, its leg
`source`.

Rows and records are judged by the product's own pure parts; the steps between them are those of
`department/cuts.py` and `operations/reconcile_source.py`. No clerk of the model writes behind his
capture's back, so that no difference is a true one, but for records that nobody could read.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deptbus.change import Change, Incarnation
from deptbus.department.capture import Known, OutboxRow, RawKey
from deptbus.department.judge import find_keys
from deptbus.department.proof_rows import TableRows
from deptbus.department.raw import raw_of
from deptbus.names import data_topic, out_topic, proof_marker
from deptbus.operations.source_told import UnitFold, unequal
from deptbus.proof.item import Item, item_from_bytes
from deptbus.stream.data import decode_data
from deptbus.stream.log import Outgoing
from deptbus.wire.control import Marker, encode_control

from .county import CODECS, DATASET, FIELDS
from .simulation import Instance, rest, step

if TYPE_CHECKING:
    from .source import SourceDatabase
    from .world import World


@dataclass
class View:
    """A source's database at one moment."""

    rows: dict[RawKey, dict[str, Any]]
    known: dict[bytes, Known]
    parked: dict[str, str]
    waiting: set[bytes]  # keys that are not proved by this cut


@dataclass
class Cut:
    unit: str
    marker: Marker
    offset: int  # in `out`
    view: View
    compactions: int  # so far: a proof takes less than the two days that nothing is compacted


def look(source: SourceDatabase) -> View:
    publication = source.publications[DATASET]
    waiting = {publication.key_of(row).key for row in source.outbox.values()}
    for one in source.wanted:
        named = one.key if one.raw is None else publication.key_of_raw(raw_of(one.raw)).key
        waiting.add(named)
    return View(
        deepcopy(source.rows),
        {key: known for (_, key), known in source.known.items()},
        {raw: reason for (_, raw), reason in source.parked.items()},
        {key for key in waiting if key is not None},
    )


def mark(world: World, source: SourceDatabase, mine: Incarnation, view: View) -> None:
    world.counter += 1
    name = proof_marker("main", DATASET)
    marker = Marker(name, "cut", source.unit, "main", mine, world.counter)
    offset = world.bus.append(Outgoing(out_topic(source.unit), 0, None, encode_control(marker)))
    world.cuts.append(Cut(source.unit, marker, offset, view, world.compactions))


async def prove(world: World, me: Instance) -> None:
    """The office: one cut after the other."""
    while True:
        await (step() if world.cuts else rest())
        if not world.cuts:
            continue
        cut = world.cuts.pop(0)
        fold = await _folded(world, cut)
        if fold is not None and cut.compactions == world.compactions:
            world.proved += 1
            world.wrong += differing(world, cut, fold)


async def _folded(world: World, cut: Cut) -> UnitFold | None:
    """None when the marker was refused: its adapter was fenced."""
    fold, topic, position = UnitFold(cut.unit), data_topic(DATASET), 0
    while True:
        await step()
        is_taken_in = world.bus.committed["intake", out_topic(cut.unit)] > cut.offset
        records = world.bus.read(topic, position, 50)
        for record in records:
            position = record.offset + 1
            found = decode_data(CODECS, record.key, record.value)
            if isinstance(found, Change):
                fold.add(found)
            elif found == cut.marker and not world.bugs.proof_without_marker:
                return fold
        if is_taken_in and not records:
            return fold if world.bugs.proof_without_marker else None


def differing(world: World, cut: Cut, fold: UnitFold) -> list[str]:
    """Each difference that the proof names, in one line; none is a true one."""
    waiting = set() if world.bugs.proof_of_what_waits else cut.view.waiting
    table, refused = _items(world, cut.unit, cut.view)
    apart = waiting | _unreadable(world, cut)
    items = {item_from_bytes(raw) for raws in fold.items(apart) for raw in raws}
    found = unequal(
        [i for i in table if i.key not in apart and i not in items], items - set(table), refused
    )
    return [f"{cut.unit}: proved to differ: {one}" for one in found]


def _items(world: World, unit: str, view: View) -> tuple[list[Item], dict[bytes, str]]:
    source = world.sources[unit]
    rows = TableRows(source.publications[DATASET], view.parked)
    own = [
        OutboxRow(
            *(0, DATASET, "u", "live", None, 0, None, None, raw),
            FIELDS,
            [values[f] for f in FIELDS],
        )
        for raw, values in sorted(view.rows.items())
    ]
    found = find_keys(source.publications, own)
    told = rows.rows(zip(own, found, strict=True), view.known)
    told += rows.rest({key for key, raw in rows.plain.items() if raw in view.rows})
    return [item_from_bytes(raw) for raw in told], {one.key: one.reason for one in rows.refused}


def _unreadable(world: World, cut: Cut) -> set[bytes]:
    """Keys of records before the cut that nobody can read: the bus lacks them until they are sent
    again. Not those of the notes: the marker goes on before intake has written the note."""
    topic = out_topic(cut.unit)
    return {
        world.bus.record(place, offset).key or b""
        for place, offset in world.bus.mangled
        if place == topic and offset < cut.offset
    }

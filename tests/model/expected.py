"""What each recipient should hold in the end, worked out from the sources' tables and the contract.

Entitlement is asked of the naive second implementation, not of routing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import naive_routing

from deptbus.change import Cause, Change, ChangeOp, Incarnation

from .county import DATASET, FIELDS, PLACES
from .source import SourceDatabase

if TYPE_CHECKING:
    from .world import World

Row = tuple[Any, ...]


def differences(world: World) -> list[str]:
    """Each difference of each copy in one line; empty when all copies are equal."""
    found = []
    entitled: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
    for source in world.sources.values():
        for place in {values["place"] for values in source.rows.values()}:
            entitled[source.unit, place] = _fields_by_unit(world, source, place)
    for unit, database in world.recipients.items():
        should = _expected(world, unit, entitled)
        has = {values[0]: tuple(values) for values in database.rows.values()}
        found += [
            f"{unit} {number!r}: {has.get(number)} should be {should.get(number)}"
            for number in sorted(should.keys() | has.keys())
            if should.get(number) != has.get(number)
        ]
    return found


def _expected(
    world: World, unit: str, entitled: dict[tuple[str, str], dict[str, tuple[str, ...]]]
) -> dict[str, Row]:
    claims: dict[str, list[tuple[tuple[str, bytes], Row]]] = {}
    for source in world.sources.values():
        for raw, values in source.rows.items():
            fields = entitled[source.unit, values["place"]].get(unit)
            if fields and source.speaks(raw):
                row = tuple(values[f] if f in fields else None for f in FIELDS)
                claimant = source.unit, source.key_of(raw) or b""
                claims.setdefault(values["id"], []).append((claimant, row))
    # Of the records that map to one row the least (source unit, key) holds it.
    return {number: min(found)[1] for number, found in claims.items()}


def _fields_by_unit(world: World, source: SourceDatabase, place: str) -> dict[str, tuple[str, ...]]:
    policy = world.bus.newest
    if place not in PLACES[source.unit]:
        return {}
    change = Change(
        dataset=DATASET,
        key=bytes(16),
        op=ChangeOp.UPSERT,
        reason=None,
        source_unit=source.unit,
        incarnation=Incarnation(1, bytes(8)),
        version=1,
        source_time_us=0,
        publication=1,
        division=place,
        former_divisions=(),
        cause=Cause.LIVE,
        job=None,
        policy=policy.number,
        schema_version=1,
        record=(),
    )
    found = naive_routing.route(policy, change, world.now)
    return {unit: fields for unit, op, _, _, _, fields in found if op == "upsert"}

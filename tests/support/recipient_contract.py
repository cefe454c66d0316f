"""A small contract and deliveries with real Avro bytes, for tests of the recipient's databases."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from deptbus.change import Cause, DeliveryOp, Direction, Received
from deptbus.contract.department import Receive
from deptbus.contract.model import Contract, Dataset, Line, Sharing, Unit
from deptbus.wire.codecs import Codecs

SOURCE = "police@330106"
UNIT = "housing@330106"

_PERSON = {
    "type": "record",
    "name": "Person",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "name", "type": "string"},
        {"name": "sex", "type": {"type": "enum", "name": "Sex", "symbols": ["male", "female"]}},
        {"name": "born", "type": {"type": "int", "logicalType": "date"}},
        {"name": "seen_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {
            "name": "income",
            "type": [
                "null",
                {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2},
            ],
            "default": None,
        },
        {"name": "phone", "type": ["null", "string"], "default": None},
        {"name": "house", "type": ["null", "string"], "default": None},
        {"name": "children", "type": ["null", "int"], "default": None},
        {"name": "score", "type": ["null", "double"], "default": None},
        {"name": "active", "type": ["null", "boolean"], "default": None},
    ],
}
_HOUSE = {
    "type": "record",
    "name": "House",
    "fields": [{"name": "id", "type": "string"}, {"name": "address", "type": "string"}],
}
SCHEMAS: dict[str, dict[str, Any]] = {"person.v1": _PERSON, "house.v1": _HOUSE}


def contract() -> Contract:
    def dataset(name: str) -> Dataset:
        fields = [f["name"] for f in SCHEMAS[f"{name}.v1"]["fields"]]
        return Dataset(
            title=name,
            title_zh=name,
            line="police",
            levels=("county",),
            schema_version=1,
            key=("id",),
            division="id",
            sharing=dict.fromkeys(fields, Sharing.UNCONDITIONAL),
        )

    return Contract(
        territories={"330106": "Xihu"},
        lines={n: Line(title=n, title_zh=n) for n in ("police", "housing")},
        units=tuple(
            Unit(unit=u, title=u, title_zh=u, owner="x", systems=("main",)) for u in (SOURCE, UNIT)
        ),
        datasets={"person": dataset("person"), "house": dataset("house")},
        grants=(),
        schemas=SCHEMAS,
    )


CONTRACT = contract()
CODECS = Codecs(CONTRACT)
ALL = tuple(f["name"] for f in _PERSON["fields"])

LI: dict[str, Any] = {
    "id": "330106199001010017",
    "name": "李雷",
    "sex": "male",
    "born": date(1990, 1, 1),
    "seen_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    "income": Decimal("1234.50"),
    "phone": "13800000000",
    "house": None,
    "children": 2,
    "score": 0.5,
    "active": True,
}


def person(
    key: int | bytes,
    version: int = 1,
    *,
    without: tuple[str, ...] = (),
    dataset: str = "person",
    policy: int = 1,
    unit: str = SOURCE,
    cause: Cause = Cause.LIVE,
    **values: Any,
) -> Received:
    """An upsert of LI with other values; `id` follows an integer key unless it is given."""
    base: Mapping[str, Any] = LI if dataset == "person" else {"id": "", "address": "文三路 1 号"}
    record = {**base, **({"id": f"id{key:06}"} if isinstance(key, int) else {}), **values}
    names = [f["name"] for f in SCHEMAS[f"{dataset}.v1"]["fields"]]
    fields = tuple(n for n in names if n not in without)
    codec = CODECS.record_codec(dataset, 1, fields)
    return Received(
        dataset=dataset,
        key=_key(key),
        op=DeliveryOp.UPSERT,
        source_unit=unit,
        version=version,
        source_time_us=1_700_000_000_000_000 + version,
        policy=policy,
        direction=Direction.HORIZONTAL,
        rule="rule",
        grants=(),
        cause=cause,
        job=None,
        fields=fields,
        record=codec.encode({n: record[n] for n in fields}),
        schema_version=1,
    )


def gone(
    key: int | bytes,
    version: int,
    *,
    op: DeliveryOp = DeliveryOp.WITHDRAW,
    dataset: str = "person",
    unit: str = SOURCE,
) -> Received:
    return Received(
        dataset=dataset,
        key=_key(key),
        op=op,
        source_unit=unit,
        version=version,
        source_time_us=1_700_000_000_000_000 + version,
        policy=1,
        direction=Direction.HORIZONTAL,
        rule="rule",
        grants=(),
        cause=Cause.LIVE,
        job=None,
        fields=(),
        record=None,
        schema_version=1,
    )


def _key(key: int | bytes) -> bytes:
    return key.to_bytes(16, "big") if isinstance(key, int) else key


def mapping(
    person_words: Mapping[str, Any] | None = None, house: bool = True
) -> dict[str, tuple[Receive, tuple[str, ...]]]:
    """Person and house under their own names, changed by `person_words`."""
    words: dict[str, Any] = {"table": "people", "columns": {n: n for n in ALL}}
    words |= person_words or {}
    receive = Receive(**words)
    found = {"person": (receive, receive.key or (receive.columns["id"],))}
    if house:
        own = Receive(table="houses", columns={"id": "id", "address": "address"})
        found["house"] = (own, ("id",))
    return found

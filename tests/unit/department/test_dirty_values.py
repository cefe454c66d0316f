"""Golden cases of dirty values: each has its stated outcome, the long way and the quick one.

`golden/dirty_values.yml` is added to when a department brings a new one, and never thinned out.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from dirty_values import GOLDEN, value_of
from source_world import PLACES, SECRET, UNIT, Desk, contract

from deptbus.change import ChangeOp, Reason
from deptbus.contract.department import Publish
from deptbus.contract.model import Check, Sharing
from deptbus.department.publication import Publication
from deptbus.department.values import ColumnKind, Refusal, converter
from deptbus.wire.codec import RecordCodec
from deptbus.wire.keys import KeyMaker


def _maybe(kind: Any) -> dict[str, Any]:
    return {"type": ["null", kind], "default": None}


FIELDS: list[dict[str, Any]] = [
    {"name": "number", "type": "string"},
    {"name": "place", "type": "string"},
    {"name": "name", "type": "string"},
    {"name": "sex", "type": {"type": "enum", "name": "Sex", "symbols": ["male", "female"]}},
    {"name": "born", **_maybe({"type": "int", "logicalType": "date"})},
    {"name": "floor", **_maybe("int")},
    {
        "name": "rent",
        **_maybe({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
    },
    {"name": "married", **_maybe("boolean")},
    {"name": "since", **_maybe({"type": "long", "logicalType": "timestamp-micros"})},
    {"name": "score", **_maybe("double")},
    {"name": "opens", **_maybe({"type": "int", "logicalType": "time-millis"})},
    {"name": "company", **_maybe("string")},
]
SCHEMA = {"type": "record", "name": "Person", "fields": FIELDS}
NAMES = tuple(field["name"] for field in FIELDS)
CLEAN = {"number": "330106199003072001", "place": PLACES[0], "name": "李", "sex": "1"}


def publication() -> Publication:
    agreed = contract(UNIT)
    person = agreed.datasets["person"].model_copy(
        update={
            "key": ("number",),
            "sharing": dict.fromkeys(NAMES, Sharing.UNCONDITIONAL),
            "checks": {
                "number": Check.RESIDENT_ID,
                "place": Check.DIVISION,
                "company": Check.CREDIT_CODE,
            },
        }
    )
    agreed = agreed.model_copy(
        update={"datasets": {"person": person}, "schemas": {"person.v1": SCHEMA}}
    )
    publish = Publish(
        table="people",
        columns={name: name for name in NAMES},
        values={"sex": {"1": "male", "2": "female", "男": "male", "女": "female"}},
    )
    return Publication(UNIT, "person", publish, agreed, SECRET)


PUBLICATION, CODEC = publication(), RecordCodec(SCHEMA)
PUBLISHED = [(n, *case) for n, case in enumerate(GOLDEN["published"])]
RECEIVED = [(n, *case) for n, case in enumerate(GOLDEN["received"])]


def test_there_are_sixty_and_more() -> None:
    told = [repr(case[:2]) for case in (*GOLDEN["published"], *GOLDEN["received"])]
    assert len(told) == len(set(told)) >= 60


@pytest.mark.parametrize(("n", "field", "own", "outcome"), PUBLISHED)
def test_what_is_published_of_a_dirty_value(n: int, field: str, own: Any, outcome: Any) -> None:
    desk = Desk(PUBLICATION)
    values = {name: CLEAN.get(name) for name in NAMES} | {field: value_of(own)}
    row = desk.row("u", values["number"])
    row = row._replace(columns=tuple(values), cells=tuple(values.values()))
    batch = desk.judge(row)
    (verdict,) = outcome.items()
    if verdict[0] == "parked":
        assert batch.changes == []
        (parked,) = batch.prepared.park
        assert (parked.reason, parked.column) == (verdict[1], field)
        return
    (change,) = batch.changes
    if verdict[0] == "moved_out":
        assert (change.op, change.reason) == (ChangeOp.DELETE, Reason.MOVED_OUT)
        return
    assert change.record is not None
    record = CODEC.decode(change.record)
    if verdict[0] == "key":
        assert change.key == KeyMaker(SECRET, "person").key([verdict[1]])
        assert record[field] == str(value_of(own))
    else:
        assert (record[field], type(record[field])) == (
            value_of(verdict[1]),
            type(value_of(verdict[1])),
        )
    quick = PUBLICATION.quick(row.columns)
    assert quick is not None
    short = quick(row.raw, row.cells)  # None: only the rules can judge it
    assert short is None or (short[0], short[2]) == (change.key, b"".join(change.record))


@pytest.mark.parametrize(("n", "kind", "value", "outcome"), RECEIVED)
def test_what_a_column_keeps_of_a_value(n: int, kind: str, value: Any, outcome: Any) -> None:
    named = re.fullmatch(r"(\w+)(?:\((\d)\))?", kind)
    assert named is not None
    convert = converter(ColumnKind(named[1]), int(named[2]) if named[2] else None)
    if "refused" in outcome:
        with pytest.raises(Refusal, match=re.escape(outcome["refused"])):
            convert(value_of(value))
        return
    found, expected = convert(value_of(value)), value_of(outcome["is"])
    assert (found, type(found)) == (expected, type(expected))
    if isinstance(found, Decimal):
        assert found.as_tuple() == expected.as_tuple()


def test_a_case_whose_outcome_is_another_is_seen() -> None:
    """Planted: the cases can fail."""
    with pytest.raises(AssertionError):
        test_what_is_published_of_a_dirty_value(0, "floor", "3", {"is": 4})
    with pytest.raises(pytest.fail.Exception):
        test_what_a_column_keeps_of_a_value(0, "integer", "7", {"refused": "not"})

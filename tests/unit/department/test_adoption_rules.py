"""Which row a record adopts, and why it is parked otherwise; what a row gets whose record goes."""

from __future__ import annotations

from datetime import datetime, time
from decimal import Decimal
from typing import Any

import pytest
from recipient_contract import ALL, CODECS, CONTRACT, person

from deptbus.contract.department import Receive
from deptbus.department.adoption import Found, Looked, Rivals, match_of, verdict
from deptbus.department.kept_rows import left_behind, typed_over
from deptbus.department.ledger import WAITS_FOR_JOIN, Prepared, RecordId, Unfit, entry_of
from deptbus.department.target import Column, ContractShapes, MappedTarget
from deptbus.department.values import ColumnKind, Refusal
from deptbus.wire.digest import encode_values

RID, OTHER = RecordId("person", "a@1", b"1" * 16), RecordId("person", "a@1", b"2" * 16)
KEY = encode_values(("id1",))
FIT = Prepared(KEY, ("id1", "李雷"), b"")


def target(had_rows: bool = True, **words: Any) -> MappedTarget:
    kinds = {"children": ColumnKind.INTEGER}
    catalogue = {
        n: Column(n, kinds.get(n, ColumnKind.TEXT), "text") for n in (*ALL, "state", "own")
    }
    receive = Receive(table="people", **{"columns": {"id": "id", "name": "name"}, **words})
    shapes = ContractShapes(CONTRACT, CODECS)
    key = receive.key or ("id",)
    return MappedTarget("person", receive, key, catalogue, shapes, had_rows=had_rows)


def found(n: int, row: bytes = KEY) -> Found:
    return Found((n,), row, ("id1", "x"))


def looked(*matching: Found, bearing: Any = (), holders: Any = None) -> Looked:
    return Looked(matching, bearing, holders or {})


@pytest.mark.parametrize(
    ("seen", "words", "said"),
    [
        (looked(), {}, None),
        (looked(found(1)), {}, found(1)),
        (looked(found(1), found(1)), {}, found(1)),  # by two spellings
        (looked(found(1), holders={KEY: RID}), {}, found(1)),
        (looked(found(1), holders={KEY: RID}), {"existing": "park"}, found(1)),
        (looked(found(1), holders={KEY: OTHER}), {}, "another record holds"),
        (looked(found(1), found(2)), {}, "several rows"),
        (looked(found(1)), {"existing": "park"}, "a row of people matches"),
        (looked(bearing=[found(2)]), {}, "has its key"),
        (looked(found(1), bearing=[found(1)]), {}, found(1)),
        (looked(found(1), bearing=[found(2)]), {}, "has its key"),
    ],
)
def test_verdict(seen: Looked, words: dict[str, Any], said: Any) -> None:
    got = verdict(RID, FIT, target(**words), seen, is_contested=False)
    if isinstance(said, str):
        assert isinstance(got, Unfit)
        assert said in got.reason
    else:
        assert got == said


def test_a_contested_row_and_a_bound_key() -> None:
    one = target()
    assert isinstance(verdict(RID, FIT, one, looked(found(1)), is_contested=True), Unfit)
    assert verdict(RID, FIT, one, looked(), is_contested=True) is None
    other = found(1, encode_values(("ID1",)))
    assert verdict(RID, FIT, one, looked(other), is_contested=False) == other
    one.has_bound_key = True
    assert isinstance(verdict(RID, FIT, one, looked(other), is_contested=False), Unfit)


def test_rivals_are_rivals_until_one_leaves() -> None:
    third = RecordId("person", "a@1", b"3" * 16)
    rivals = Rivals()
    for rid, match, row in ((RID, b"a", b"1"), (third, b"b", b"3"), (OTHER, b"b", b"2")):
        rivals.enter(rid, match, row)
    rivals.enter(RID, b"a", b"1")
    assert [rivals.contest(match) for match in (b"a", b"b", b"c")] == [False, True, False]
    rivals.leave(OTHER)
    assert not rivals.contest(b"b")
    rivals.enter(RID, b"b", b"1")
    assert rivals.contest(b"b")
    rivals.enter(OTHER, b"a", b"2")  # nobody but itself
    assert not rivals.contest(b"a")
    rivals.enter(RID, b"b", b"3")  # of one own key: claimants
    assert not rivals.contest(b"b")


@pytest.mark.parametrize(
    ("now", "same"),
    [(("id1", float("nan")), True), (("id1", Decimal("NaN")), True), (("id1", 1.0), False)],
)
def test_what_is_no_number_is_no_change(now: tuple[Any, ...], same: bool) -> None:
    before = Found((1,), KEY, ("id1", float("nan")), ("s",))
    assert before.still_is(Found((1,), KEY, now, ("s",))) is same
    assert not before.still_is(before._replace(marks=("t",)))
    assert not before.still_is(before._replace(place=(2,)))
    assert not before.still_is(None)


def test_a_match_needs_a_value() -> None:
    one = target(match=("name",))
    assert match_of(one, ("id1", "李雷")) == ("李雷",)
    assert isinstance(match_of(one, ("id1", None)), Unfit)


def test_nothing_is_prepared_while_it_waits() -> None:
    one = target()
    one.waits = True
    item = person(1)
    assert one.take(item) is None
    assert one.prepare(entry_of(item, 0), item.record) == Unfit(WAITS_FOR_JOIN)
    assert isinstance(one.prepare_always(entry_of(item, 0), item.record), Prepared)


def test_what_becomes_of_rows_by_default() -> None:
    assert (target().on_remove, target().keeps) == ("mark", True)
    ours = target(had_rows=False)
    assert (ours.on_remove, ours.keeps) == ("delete", False)
    assert target(on_remove="park", keeps=False).on_remove == "park"


def test_left_behind() -> None:
    one = target()
    assert left_behind(one, ("id1", "x"), {"id": "ID1", "name": "y"}) == ["ID1", "y"]
    assert left_behind(one, ("id1", "x"), None) == [None, None]
    fixed = target(defaults={"name": "-"})
    fixed.columns = (fixed.columns[0].__class__("id", ColumnKind.TEXT, "text", not_null=True),
                     fixed.columns[1])  # fmt: skip
    assert left_behind(fixed, ("id1", "x"), None) == ["id1", "-"]


def test_typed_over() -> None:
    one = target()
    assert typed_over(one, ("id1", "x"), ("id1", "y")) == {"name": "x"}
    assert typed_over(one, ("id1", "x  "), ("id1", "x")) == {}  # a column of fixed width


@pytest.mark.parametrize(
    ("now", "then", "is_typed"),
    [
        ("2026-01-02T03:04:06+00:00", "2026-01-02T03:04:05.678901+00:00", False),
        ("2026-01-02T11:04:05.679+08:00", "2026-01-02T03:04:05.678901+00:00", False),
        ("2026-01-02T03:04:05", "2026-01-02T03:04:05.5", False),
        ("2026-01-02T03:04:05", "2026-01-02T03:04:05.678901", True),  # nothing rounds it so
        ("2026-01-02T03:04:05.679", "2026-01-02T03:04:05.677901", True),
        ("2026-01-02T03:04:06", "2026-01-02T03:04:05", True),
        ("2026-01-02T03:04:05.678901", "2026-01-02T03:04:05.678902", True),
        ("2026-01-02T03:04:06", "2026-01-02T03:04:05.678901+00:00", True),
        ("03:04:06", "03:04:05.678901", False),
        ("03:04:05.6", "03:04:05.678901", True),
        ("03:04:06", "04:04:05.678901", True),
    ],
)
def test_a_time_that_its_column_rounds_is_not_typed_over(
    now: str, then: str, is_typed: bool
) -> None:
    """PostgreSQL: `timestamp(0)`, `timestamptz(3)`, `time(0)`."""
    read = (datetime if "T" in now else time).fromisoformat
    assert bool(typed_over(target(), ("id1", read(now)), ("id1", read(then)))) is is_typed


def test_own_values_are_read_by_codes_and_forms() -> None:
    one = target(
        columns={"id": "id", "sex": "sex", "born": "born", "children": "children"},
        values={"sex": {"1": "male", "2": "female"}},
        also={"sex": {"男": "male"}},
        forms={"id": "narrow", "born": "date YYYYMMDD"},
    )
    read = [one.own_reading(at) for at in range(4)]
    assert [read[0]("１２"), read[1]("男"), read[1](" 2 "), read[2]("1990/1/2"), read[3]("3")] == [
        "12", "1", "2", "19900102", 3,
    ]  # fmt: skip
    for at, value in ((1, "9"), (2, "?"), (3, "x")):
        with pytest.raises(Refusal):
            read[at](value)

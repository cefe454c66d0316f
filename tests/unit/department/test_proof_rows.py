"""A source's rows as items of a proof, one test for each rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from source_world import PLACES, PUBLICATION, Desk

from deptbus.department.capture import GONE, HOLDS, PARKED, Known, OutboxRow, Variant
from deptbus.department.judge import find_keys
from deptbus.department.proof_rows import Refused, TableRows
from deptbus.department.raw import raw_text
from deptbus.proof.item import Item, item_from_bytes
from deptbus.proof.leaves import leaf_of
from deptbus.wire.digest import record_digest

A, B, C = PLACES
COLUMNS = ("身份证", "area", "姓名", "sex", "born", "firm")


def values(number: Any, **own: Any) -> dict[str, Any]:
    return {
        "身份证": number,
        "area": A,
        "姓名": "李",
        "sex": 1,
        "born": None,
        "firm": None,
    } | own


def key(number: Any) -> bytes:
    found = PUBLICATION.key_of_raw((number,)).key
    assert found is not None
    return found


def item(number: Any, **own: Any) -> Item:
    """By the judgement of live rows."""
    desk = Desk()
    (change,) = desk.judge(desk.row("u", number, **values(number, **own))).changes
    assert change.record is not None
    return Item(change.key, 0, record_digest("person", change.schema_version, change.record))


def walk(
    table: Sequence[Mapping[str, Any]],
    known: Mapping[bytes, Known] | None = None,
    *,
    parked: Mapping[str, str] | None = None,
    apart: Collection[bytes] = (),
    borne: Collection[bytes] = (),
    leaves: Collection[int] = (),
) -> tuple[set[Item], TableRows]:
    rows = TableRows(PUBLICATION, parked or {}, frozenset(apart), leaves, 12)
    own = [
        OutboxRow(0, "person", "u", "live", None, 0, None, None, (row["身份证"],), COLUMNS, cells)
        for row in table
        if (cells := tuple(row.values()))
    ]
    found = find_keys({"person": PUBLICATION}, own)
    told = rows.rows(zip(own, found, strict=True), known or {})
    told += rows.rest(frozenset(borne))
    items = [item_from_bytes(raw) for raw in told]
    assert len(set(items)) == len(items)
    return set(items), rows


def test_a_row_is_what_would_be_published() -> None:
    items, rows = walk([values("1"), values("2", 姓名="王", born="1990-01-02")])
    assert items == {item("1"), item("2", 姓名="王", born="1990-01-02")}
    assert not rows.reasons


@pytest.mark.parametrize("field", ["area", "姓名", "sex", "born", "firm"])
def test_no_column_is_skipped(field: str) -> None:
    other = {
        "area": B,
        "姓名": "王",
        "sex": 2,
        "born": "1990-01-02",
        "firm": "91110000600037341L",
    }[field]
    assert walk([values("1")])[0] != walk([values("1", **{field: other})])[0]


def test_a_row_that_has_moved_out_is_none() -> None:
    items, rows = walk([values("1", area="330105001001")])
    assert not items
    assert not rows.reasons


def test_a_refused_row_is_told_with_its_reason() -> None:
    table = [values("1", sex=9), values(None), values("3", area="nowhere"), values("4")]
    items, rows = walk(table, parked={raw_text(("3",)): "bad_division"})
    assert items == {item("4")}
    assert rows.refused == [Refused(key("1"), "unknown_code"), Refused(key("3"), "bad_division")]
    assert rows.reasons == {"unknown_code": 1, "no_key": 1, "bad_division": 1}


def test_a_row_whose_change_was_too_large_is_refused_though_it_can_be_encoded() -> None:
    items, rows = walk([values("1")], parked={raw_text(("1",)): "too_large"})
    assert not items
    assert rows.refused == [Refused(key("1"), "too_large")]


def test_a_row_that_was_mended_behind_our_back_is_an_item_though_it_is_parked() -> None:
    items, rows = walk([values("1")], parked={raw_text(("1",)): "bad_division"})
    assert items == {item("1")}
    assert not rows.refused


def test_of_several_rows_with_one_key_the_holder_is_an_item() -> None:
    known = {key("A1"): Known((), (Variant('["A1"]', HOLDS), Variant('["a1"]', PARKED)))}
    for table in ([values("A1"), values("a1")], [values("a1"), values("A1"), values(" A1")]):
        items, rows = walk(table, known)
        assert items == {item("A1")}
        assert rows.duplicates == [Refused(key("A1"), "duplicate")] * (len(table) - 1)
        assert rows.reasons == {"duplicate": len(table) - 1}


def test_a_holder_that_is_gone_leaves_no_item() -> None:
    known = {key("A1"): Known((), (Variant('["A1"]', HOLDS), Variant('["a1"]', PARKED)))}
    items, rows = walk([values("a1")], known)
    assert not items
    assert rows.duplicates == [Refused(key("A1"), "duplicate")]


@pytest.mark.parametrize("variants", [(), (Variant('["A1"]', GONE),)])
def test_a_variant_that_nobody_has_looked_at_speaks_where_no_row_holds_the_key(
    variants: tuple[Variant, ...],
) -> None:
    known = {key("A1"): Known((), variants)} if variants else {}
    items, rows = walk([values("a1", 姓名="王")], known)
    assert items == {item("a1", 姓名="王")}
    assert rows.plain == {key("A1"): ("A1",)}
    items, rows = walk([values("a1"), values(" a1")], known)
    assert items == {item(" a1")}  # the least
    assert rows.duplicates == [Refused(key("A1"), "duplicate")]
    items, rows = walk([values("a1"), values("A1", sex=2)], borne=[key("A1")])
    assert items == {item("A1", sex=2)}
    assert rows.duplicates == [Refused(key("A1"), "duplicate")]


def test_keys_that_are_looked_at_apart_are_no_items() -> None:
    table = [values("1"), values("2"), values("3", area="330105001001"), values("4", sex=9)]
    items, rows = walk(table, apart=[key("2"), key("3"), key("4"), key("5")])
    assert items == {item("1")}
    assert rows.found == {key("2"): item("2").digest, key("3"): b""}
    assert rows.refused == [Refused(key("4"), "unknown_code")]


def test_leaves_that_were_not_asked_for_are_left_out() -> None:
    table = [values(str(n)) for n in range(50)] + [values("x", sex=9), values(None)]
    wanted = leaf_of(key("7"), 12)
    items, rows = walk(table, leaves=[wanted])
    assert items == {item(str(n)) for n in range(50) if leaf_of(key(str(n)), 12) == wanted}
    assert not rows.reasons

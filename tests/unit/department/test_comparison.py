"""Which rows differ from what the bus has of them, one test for each rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from source_world import PLACES, PUBLICATION, Desk

from deptbus.change import Change
from deptbus.department.capture import GONE, HOLDS, PARKED, Known, OutboxRow, Variant
from deptbus.department.comparison import Comparison, Differences, Held
from deptbus.department.judge import find_keys
from deptbus.department.raw import raw_text
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


def held(change: Change) -> Held:
    digest = (
        record_digest(change.dataset, change.schema_version, change.record)
        if change.record is not None
        else b""
    )
    return Held(change.version, digest, (*change.former_divisions, change.division))


def published(*rows: Mapping[str, Any]) -> dict[bytes, Held]:
    """What the bus has once these rows were published."""
    desk = Desk()
    batch = desk.judge(*[desk.row("u", row["身份证"], **row) for row in rows])
    return {change.key: held(change) for change in batch.changes}


def key(number: Any) -> bytes:
    found = PUBLICATION.key_of_raw((number,)).key
    assert found is not None
    return found


def compare(
    bus: dict[bytes, Held],
    table: Sequence[Mapping[str, Any]],
    known: Mapping[bytes, Known] | None = None,
    parked: Sequence[Any] = (),
) -> tuple[Differences, Differences, list[Any]]:
    """(of the rows, of the rest, holders that are gone)."""
    comparison = Comparison(PUBLICATION, dict(bus), frozenset(raw_text((n,)) for n in parked))
    remembered = known or {}
    rows = [
        OutboxRow(0, "person", "u", "live", None, 0, None, None, (row["身份证"],), COLUMNS, cells)
        for row in table
        if (cells := tuple(row.values()))
    ]
    found = find_keys({"person": PUBLICATION}, rows)
    of_rows = comparison.rows(zip(rows, found, strict=True), remembered)
    of_rest = comparison.rest(remembered, comparison.left)
    assert comparison.left == []
    return of_rows, of_rest, comparison.gone_holders()


def test_equal_rows_are_left_alone() -> None:
    table = [values("1"), values("2", 姓名="王")]
    assert compare(published(*table), table) == (Differences(equal=2), Differences(), [])


@pytest.mark.parametrize(
    "own",
    [{"姓名": "王"}, {"sex": 2}, {"born": "1990-01-02"}, {"firm": None, "sex": 2}],
)
def test_a_row_that_differs_is_published(own: dict[str, Any]) -> None:
    rows, rest, gone = compare(published(values("1")), [values("1", **own)])
    assert (rows.enqueue, rows.equal) == ([("1",)], 0)
    assert (rest.delete, gone) == ([], [])


def test_a_row_that_the_bus_has_not_or_has_as_deleted_is_published() -> None:
    rows, _, _ = compare({}, [values("1")])
    assert rows.enqueue == [("1",)]
    rows, rest, _ = compare({key("1"): Held(9, b"", (A,))}, [values("1")])
    assert rows.enqueue == [("1",)]
    assert rest == Differences()


def test_a_row_in_another_schema_version_differs() -> None:
    bus = published(values("1"))
    before = bus[key("1")]
    batch = Desk().judge
    record = batch(Desk().row("u", "1")).changes[0].record
    assert record is not None
    assert before.digest == record_digest("person", 1, record)
    bus[key("1")] = before._replace(digest=record_digest("person", 2, record))
    assert compare(bus, [values("1")])[0].enqueue == [("1",)]


def test_a_row_that_moved_out_is_deleted_once() -> None:
    out = values("1", area="330102001001")
    rows, _, _ = compare(published(values("1")), [out])
    assert rows == Differences(moved=[("1",)], places={key("1"): (A,)})
    rows, _, _ = compare({key("1"): Held(9, b"", (A,))}, [out], {key("1"): Known((A,))})
    assert rows == Differences(equal=1)


def test_a_row_that_is_not_where_the_bus_has_it_is_told_apart() -> None:
    """With where that is, also where the place is known: it has to be known as the last."""
    moved = [values("1", area=B, 姓名="王")]
    rows, rest, _ = compare(published(values("1")), moved)
    assert rows == Differences(moved=[("1",)], places={key("1"): (A,)})
    assert rest == Differences()
    known = {key("1"): Known((A, B))}
    rows, _, _ = compare(published(values("1")), moved, known)
    assert rows == Differences(moved=[("1",)], places={key("1"): (A,)})
    rows, _, _ = compare({key("1"): Held(9, b"", (A,))}, moved, known)
    assert rows.enqueue == [("1",)], "nobody has it"


def test_a_refused_row_stays_as_it_was_published() -> None:
    wrong = values("1", area="nowhere")
    rows, rest, _ = compare(published(values("1")), [wrong])
    assert rows.enqueue == [("1",)]  # nobody has parked it yet
    assert rest.delete == []
    rows, rest, _ = compare(published(values("1")), [wrong], parked=["1"])
    assert (rows.enqueue, rest.delete) == ([], [])
    # Where it is now is not known, so the place that it was published at is.
    assert rows.places == {key("1"): (A,)}


def test_a_row_without_a_key_is_parked_once() -> None:
    assert compare({}, [values(None)])[0].enqueue == [(None,)]
    assert compare({}, [values(None)], parked=[None])[0].enqueue == []


def test_a_key_that_no_row_bears_is_deleted() -> None:
    rows, rest, _ = compare(published(values("1"), values("2", area=B)), [values("1")])
    assert rows.equal == 1
    assert rest.delete == [key("2")]
    assert rest.places == {key("2"): (B,)}


def test_a_key_that_was_deleted_is_deleted_again_where_its_delete_may_not_have_been_told() -> None:
    bus = {key("1"): Held(9, b"", (B, A))}
    assert compare(bus, [])[1] == Differences(places={key("1"): (B, A)}, delete=[key("1")])
    assert compare(bus, [], {key("1"): Known((A, B))})[1] == Differences()
    one_place = {key("1"): Held(9, b"", (A,))}
    assert compare(one_place, [])[1] == Differences(places={key("1"): (A,)})


def test_an_equal_row_with_a_place_that_nobody_knew_is_published_once_more() -> None:
    """A restored database may not know where a record was since, and neither may the change that
    went out of its outbox before anybody asked."""
    bus = {k: h._replace(places=(B, C, A)) for k, h in published(values("1")).items()}
    rows, _, _ = compare(bus, [values("1")])
    assert rows == Differences(enqueue=[("1",)], places={key("1"): (B, C, A)})
    rows, _, _ = compare(bus, [values("1")], {key("1"): Known((C, B))})
    assert rows == Differences(equal=1)


class TestVariants:
    """Several rows of one bus key."""

    def known(self, **states: str) -> dict[bytes, Known]:
        variants = tuple(Variant(raw_text((raw,)), state) for raw, state in states.items())
        return {key("k"): Known((), variants)}

    def test_the_holder_is_compared_and_the_parked_one_is_left(self) -> None:
        table = [values("K", 姓名="holds"), values("k", 姓名="parked")]
        bus = published(values("K", 姓名="holds"))
        known = self.known(K=HOLDS, k=PARKED)
        for order in (table, table[::-1]):
            rows, rest, gone = compare(bus, order, known)
            assert (rows.enqueue, rows.equal) == ([], 1)
            assert (rest.delete, gone) == ([], [])

    def test_a_holder_that_is_gone_is_looked_at(self) -> None:
        """Then its heir takes the key."""
        bus = published(values("K"))
        rows, rest, gone = compare(bus, [values("k")], self.known(K=HOLDS, k=PARKED))
        assert (rows.enqueue, rest.delete, gone) == ([], [], [("K",)])
        # Also where the bus has nothing of the key.
        assert compare({}, [values("k")], self.known(K=HOLDS, k=PARKED))[2] == [("K",)]

    def test_a_holder_without_heirs_that_is_gone(self) -> None:
        assert compare(published(values("K")), [], self.known(K=HOLDS))[2] == [("K",)]

    def test_one_that_nobody_knows_is_looked_at(self) -> None:
        bus = published(values("K"))
        rows, _, gone = compare(bus, [values("K"), values("k")], self.known(K=HOLDS, k=GONE))
        assert (rows.enqueue, rows.equal, gone) == ([("k",)], 1, [])

    def test_two_rows_that_nobody_saw(self) -> None:
        rows, rest, _ = compare(published(values("K")), [values("K"), values("k")])
        assert (rows.enqueue, rows.equal, rest.delete) == ([("k",)], 1, [])

    def test_places_are_remembered_where_a_new_variant_lies_at_the_last_one(self) -> None:
        """It is parked behind the plain row, which has moved: only the bus told of the place."""
        rows, _, _ = compare(published(values("K")), [values("k"), values("K", area=B)])
        assert rows.places == {key("K"): (A,)}
        assert rows.enqueue == [("k",), ("K",)]

"""Which rows a repair may touch: rules 1 to 4 of `department.repairs`, and planted mistakes."""

from __future__ import annotations

from deptbus.department.ledger import Row
from deptbus.department.repairs import (
    DELIVER,
    FORGET,
    REMOVE,
    Looked,
    Order,
    OrderId,
    Repairs,
    orders_in,
    weigh,
)
from deptbus.department.seen import Line, row_digest, seen_of
from deptbus.wire.control import RepairOrder
from deptbus.wire.digest import values_digest

ID = OrderId("repair-1", "person", b"k" * 16)
WRITTEN = ("1", "Ann")
LINE = Line(
    "police@330106", ID.key, 3, "upsert", b"row", True, b"d" * 16, values_digest(WRITTEN), None,
    1, "id,name",
)  # fmt: skip
ROW = Row("person", b"row")


def weighed(
    seen: Looked, now: Looked, action: str = DELIVER, *, overwrite: bool = False
) -> Repairs:
    order = Order(ID, seen_of(seen.line, seen.values), action, overwrite)
    return weigh({ID: order}, {ID: now})


AS_WRITTEN = Looked(LINE, b"row", WRITTEN)
EDITED = Looked(LINE, b"row", ("1", "typed"))
NOTHING = Looked(None, None, None)
STRANGER = Looked(None, b"row", ("9", "nobody"))


def test_a_row_as_it_was_seen_may_be_delivered_and_is_guarded() -> None:
    found = weighed(AS_WRITTEN, AS_WRITTEN)
    assert found.allowed == {ID}
    assert found.guards == {ROW: row_digest(WRITTEN)}
    assert (found.kept, found.left) == ([], 0)


def test_whatever_changed_since_leaves_the_row_alone() -> None:
    for now in (
        Looked(LINE._replace(version=4), b"row", WRITTEN),
        Looked(LINE._replace(policy=2), b"row", WRITTEN),
        Looked(LINE._replace(delivered=b"e" * 16), b"row", WRITTEN),
        Looked(LINE._replace(parked="too long"), b"row", WRITTEN),
        Looked(LINE._replace(held=False), None, None),
        Looked(LINE, b"row", ("1", "typed since")),
        Looked(LINE, b"row", None),
        NOTHING,
    ):
        for action in (DELIVER, FORGET):
            found = weighed(AS_WRITTEN, now, action, overwrite=True)
            assert (found.allowed, found.forgets, found.guards) == (set(), {}, {}), now
            assert found.left == 1
            assert found.done == {ID}


def test_a_missing_record_may_come_and_one_that_came_meanwhile_may_not() -> None:
    assert weighed(NOTHING, NOTHING).allowed == {ID}
    assert weighed(NOTHING, AS_WRITTEN).allowed == set()


def test_local_edits_stay_unless_they_may_go_and_then_they_are_kept_first() -> None:
    assert weighed(EDITED, EDITED).allowed == set()
    found = weighed(EDITED, EDITED, overwrite=True)
    assert found.allowed == {ID}
    assert [kept.values for kept in found.kept] == [("1", "typed")]


def test_a_line_that_the_bus_does_not_know_becomes_a_tombstone_of_no_version() -> None:
    found = weighed(AS_WRITTEN, AS_WRITTEN, FORGET)
    (entry,) = found.tombstones(5)
    assert (entry.version, entry.policy, entry.op, entry.row) == (0, 0, "delete", None)
    assert [kept.values for kept in found.kept] == [WRITTEN]


def test_only_a_row_that_no_line_holds_is_removed() -> None:
    found = weighed(STRANGER, STRANGER, REMOVE)
    assert [remove.row for remove in found.removes.values()] == [ROW]
    assert [kept.values for kept in found.kept] == [("9", "nobody")]
    assert weighed(STRANGER, Looked(None, None, None), REMOVE).removes == {}
    assert weighed(STRANGER, Looked(LINE, b"row", STRANGER.values), REMOVE).removes == {}


def test_rows_that_changed_under_the_lock_are_taken_back() -> None:
    found = weighed(EDITED, EDITED, overwrite=True)
    found.without([ROW])
    assert (found.allowed, found.guards, found.left) == (set(), {}, 1)


def test_orders_are_read_key_by_key() -> None:
    record = RepairOrder(
        "repair-1", "person", (b"a" * 16, b"b" * 16), (b"1", b"2"), (DELIVER, FORGET), True, 1
    )
    found = orders_in([record])
    assert found[OrderId("repair-1", "person", b"b" * 16)].action == FORGET
    assert [order.seen for order in found.values()] == [b"1", b"2"]

"""What a source tells, what the bus has, and where they differ; one test for each rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
from source_world import UNIT, Desk

from deptbus.change import Change
from deptbus.errors import Exit, WireRefused
from deptbus.operations.leg import Finding, LegResult
from deptbus.operations.reconcile import Reconciled, document
from deptbus.operations.source_told import (
    EXTRA,
    MISSING,
    PARKED,
    WRONG,
    Settled,
    Told,
    Unequal,
    UnitFold,
    unequal,
    unequal_apart,
)
from deptbus.proof.certificate import HELD
from deptbus.proof.item import Item, item_bytes, item_from_bytes
from deptbus.proof.leaves import Leaves
from deptbus.wire.control import ProofAnswer, ProofPart, ProofRows

A, B, C, D = (letter * 16 for letter in (b"a", b"b", b"c", b"d"))
X, Y = b"x" * 16, b"y" * 16
HEAD = ("r1", UNIT, "main", "source", "person")


def answer(state: str, *, parts: int = 0, cut_us: int = 0, reason: str = "") -> ProofAnswer:
    return ProofAnswer(
        *HEAD,  # type: ignore[arg-type]
        state,  # type: ignore[arg-type]
        reason,
        parts,
        3,
        (),
        (),
        ("no_key", "duplicate"),
        (2, 1),
        cut_us,
        9,
    )


def rows(part: int, *told: tuple[bytes, str, int, bytes, str]) -> ProofRows:
    keys, states, cuts, digests, reasons = zip(*told, strict=True)
    empty = (b"",) * len(told)
    return ProofRows(*HEAD, part, keys, states, cuts, digests, empty, ("",) * len(told), reasons)  # type: ignore[arg-type]


def part(number: int, kind: str, content: bytes) -> ProofPart:
    return ProofPart(*HEAD, number, kind, content)  # type: ignore[arg-type]


def told(*records: ProofAnswer | ProofPart | ProofRows) -> Told:
    made = Told("r1", "person")
    for record in records:
        assert made.take(record, 10)
    return made


def test_what_is_held_is_told_apart_and_no_difference() -> None:
    made = told(
        rows(0, (A, "held", 70, b"", "12"), (B, "refused", 70, b"", "bad_value")),
        rows(1, (A, "refused", 70, b"", "bad_value")),
    )
    assert unequal([Item(A, 0, X)], [Item(B, 0, X), Item(C, 0, X)], made.refused) == [
        Unequal(C, EXTRA)
    ]
    assert [made.kept(key) for key in (A, B)] == [
        Unequal(A, HELD, "12"), Unequal(B, PARKED, "bad_value"),
    ]  # fmt: skip
    counts = {HELD: 1, PARKED: 1}
    findings = tuple(Finding(*made.kept(key)) for key in made.refused)
    leg = LegResult("source", UNIT, "main", "person", by_class=counts, findings=findings)
    assert (leg.differences, leg.held, leg.holds) == (1, 1, ("12",))
    only = Reconciled((replace(leg, by_class={HELD: 1}),), (), 0.0)
    assert (only.differences, only.exit_code, document(only)["held"]) == (0, Exit.ANSWER_IS_NO, 1)


def test_one_answer_from_its_beginning_to_its_end() -> None:
    leaves = Leaves()
    leaves.add(Item(A, 0, X))
    made = told(
        answer("working"),
        rows(0, (B, "apart", 0, b"", ""), (C, "apart", 0, b"", "")),
        answer("working", cut_us=70),
        answer("working"),
        part(1, "leaves", leaves.to_bytes()[:100]),
        part(2, "leaves", leaves.to_bytes()[100:]),
        part(3, "items", item_bytes(Item(A, 0, X))),
        rows(4, (B, "found", 80, Y, ""), (C, "found", 70, b"", "")),
        rows(5, (D, "refused", 70, b"", "bad_value"), (A, "duplicate", 70, b"", "duplicate")),
    )
    assert made.end is None
    assert (made.cut_us, made.apart, made.system) == (70, {B, C}, "main")
    assert made.take(answer("done", parts=6, cut_us=70), 10)
    assert made.found == {B: Settled(80, Y), C: Settled(70, b"")}
    assert list(made.items()) == [Item(A, 0, X)]
    assert made.leaves().root() == leaves.root()
    assert made.parked() == [
        Unequal(D, PARKED, "bad_value"),
        Unequal(A, PARKED, "duplicate"),
        Unequal(b"", PARKED, "no_key"),
        Unequal(b"", PARKED, "no_key"),
    ]
    assert made.bytes == 60


def test_what_belongs_to_another_answer_is_passed_over() -> None:
    made = Told("r2", "person")
    assert not made.take(answer("done"), 10)
    assert made.end is None


@pytest.mark.parametrize(
    "records",
    [
        [part(1, "leaves", b"")],
        [part(0, "leaves", b""), part(2, "leaves", b"")],
        [part(0, "leaves", b""), answer("done", parts=2)],
    ],
)
def test_an_answer_with_a_hole_is_none(records: list[ProofAnswer | ProofPart]) -> None:
    with pytest.raises(WireRefused):
        told(*records)


def test_a_system_that_has_no_such_table_says_so() -> None:
    made = told(answer("not_here"))
    assert (made.not_here, made.end, made.has_begun) == ({"main"}, None, False)


def test_what_the_one_or_the_other_has() -> None:
    table = [Item(A, 0, X), Item(B, 0, X), Item(D, 0, X)]
    bus = [Item(B, 0, Y), Item(C, 0, X)]
    found = unequal(table, bus, {D: "bad_value"})
    assert sorted(found) == [Unequal(A, MISSING), Unequal(B, WRONG), Unequal(C, EXTRA)]
    assert unequal([Item(A, 0, X), Item(A, 0, Y)], [], {}) == [Unequal(A, WRONG)]


@pytest.mark.parametrize(
    ("table", "bus", "kind"),
    [
        (X, X, None),
        (b"", b"", None),
        (X, Y, WRONG),
        (X, b"", MISSING),
        (b"", X, EXTRA),
    ],
)
def test_a_key_that_is_proved_apart(table: bytes, bus: bytes, kind: str | None) -> None:
    found = unequal_apart(A, Settled(1, table), bus)
    assert found == (None if kind is None else Unequal(A, kind))


def changes() -> tuple[Change, Change, Change, Change]:
    desk = Desk()
    first = desk.judge(desk.row("u", "1")).changes[0]
    second = desk.judge(desk.row("u", "1", 姓名="王")).changes[0]
    gone = desk.judge(desk.row("d", "1")).changes[0]
    other = desk.judge(desk.row("u", "2")).changes[0]
    return first, second, gone, other


def items_of(fold: UnitFold, **but: set[bytes]) -> list[Item]:
    return [item_from_bytes(raw) for raws in fold.items(**but) for raw in raws]


def test_a_partition_holds_the_highest_version_of_each_key() -> None:
    first, second, gone, other = changes()
    fold, right = UnitFold(UNIT), UnitFold(UNIT)
    for change in (first, second, first, other):  # a stopped worker's late send
        fold.add(change)
    right.add(other)
    right.add(second)
    assert set(items_of(fold)) == set(items_of(right))
    assert len(fold) == 2
    assert fold.digest(first.key) == right.digest(first.key) != b""
    assert [item.key for item in items_of(fold, but={first.key})] == [other.key]
    for change in (gone, second):
        fold.add(change)
    assert [item.key for item in items_of(fold)] == [other.key]
    assert fold.digest(gone.key) == b""
    fold.keep({gone.key})
    assert items_of(fold) == []
    fold.add(first)  # what is gone is not forgotten: an older version stays older
    assert items_of(fold) == []


def test_another_units_records_are_none_of_it() -> None:
    fold = UnitFold("other@330106")
    for change in changes():
        fold.add(change)
    assert len(fold) == 0

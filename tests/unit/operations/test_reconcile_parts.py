"""The pure parts of proving and repairing copies: what is expected, what counts as an answer, what
may be mended."""

from __future__ import annotations

import os
from typing import Any

import pytest
from wire_samples import KEY, VALUES, change, contract, delivery

from deptbus.change import Change, DeliveryOp
from deptbus.department.ledger import entry_of
from deptbus.department.proof_copy import item_of
from deptbus.department.seen import Line
from deptbus.operations.copy_asking import Answered
from deptbus.operations.copy_expected import Entitled, Expected
from deptbus.operations.leg import Finding, LegResult
from deptbus.operations.logs import Span
from deptbus.operations.reconcile import Reconciled
from deptbus.operations.reconcile_classes import DELETED, GIVEN, WITHHELD, Class, Given
from deptbus.operations.reconcile_copy import Seen, size_of
from deptbus.operations.reconcile_repair import Wishes, action_of
from deptbus.proof.item import Item, item_bytes
from deptbus.proof.leaves import BITS
from deptbus.proof.tally import Tally
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import ProofAnswer, ProofPart

CODECS = Codecs(contract())
CHANGE = change(CODECS.record_codec("person", 1).encode(VALUES))


class Owes:
    """Stands in for `carrier.Owed`: one answer for every change."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def delivery(self, change: Change) -> Any:
        return self.answer


class Library:
    codecs = CODECS


def entitled(answer: Any) -> Entitled:
    return Entitled(Library(), Owes(answer))  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [("name",), ("name", "address"), ("phone", "name")])
def test_what_is_expected_is_what_a_recipient_notes_of_the_delivery(
    fields: tuple[str, ...],
) -> None:
    ordered = tuple(f for f in CODECS.record_codec("person", 1).names if f in fields)
    given = delivery(*ordered)
    (value,) = CODECS.encode_deliveries(CHANGE, [given], 3)
    entry = entry_of(CODECS.decode_inbox(KEY, value), 0)
    line = Line(
        entry.source_unit, entry.key, entry.version, entry.op, entry.row, entry.held,
        entry.delivered, entry.written, entry.parked, entry.policy, entry.fields,
    )  # fmt: skip
    expected = entitled(given).of(CHANGE)
    assert item_of(line) == Item(KEY, expected.version, expected.digest)
    assert (expected.kind, expected.fields) == (GIVEN, ordered)


def test_what_is_not_given_has_no_item() -> None:
    assert entitled(None).of(CHANGE).kind == WITHHELD
    assert entitled(delivery(op=DeliveryOp.WITHDRAW)).of(CHANGE).kind == WITHHELD
    assert entitled(delivery(op=DeliveryOp.DELETE)).of(CHANGE) == Given(
        DELETED, CHANGE.version, b"", ()
    )


class Logs:
    """Canonical partitions as lists of (key, version)."""

    def __init__(self, *partitions: list[tuple[bytes, int]]) -> None:
        self.partitions = partitions

    async def read(self, dataset: str, partition: int, span: Span) -> Any:
        yield [
            _Record(key, version)
            for key, version in self.partitions[partition][span.start : span.end]
        ]

    async def decode(self, record: Any) -> Any:
        return record


class _Record:
    def __init__(self, key: bytes, version: int) -> None:
        self.key, self.version = key, version
        self.value = b""


class AllGiven:
    """Version 0 is a delete. Nothing is known to the quick pass."""

    def span(self) -> None:
        return None

    def fold_pass(self, dataset: str, frame: bytes) -> None:
        return None

    def of(self, record: Any) -> Given:
        if record.version % 100 == 0:
            return Given(DELETED, record.version, b"", ())
        return Given(GIVEN, record.version, _digest(record.key, record.version), ("name",))


def _digest(key: bytes, version: int) -> bytes:
    return bytes(8) + version.to_bytes(8, "big")


KEYS = [os.urandom(16) for _ in range(4)]


async def test_keys_delivered_behind_the_cut_are_expected_at_the_version_that_was_given() -> None:
    a, b, c, d = KEYS
    # The late send of version 1 does not count; `d` was deleted.
    first = [(a, 1), (a, 3), (a, 2), (b, 1), (d, 7), (d, 100)]
    tail = [(a, 4), (a, 5), (b, 2), (c, 1), (d, 101)]
    logs: Any = Logs([*first, *tail])
    cut = len(first)
    with Expected(logs, AllGiven(), "person", Tally(200, bytes(16))) as expected:  # type: ignore[arg-type]
        await expected.fold([Span(0, cut)])
        assert expected.rows == 2
        other = expected.copy()
        # `a` got 4 and not 5 yet; `b` nothing; `d` came back; what nobody has is not expected.
        await expected.move({a: 4, d: 101, c: 9}, [Span(cut, cut + len(tail))])
        assert {k: g.version for k, g in expected.given_of(KEYS).items()} == {
            a: 4, b: 1, c: 1, d: 101,
        }  # fmt: skip
        wanted = Tally(200, bytes(16))
        wanted.add_all(Item(k, v, _digest(k, v)) for k, v in ((a, 4), (b, 1), (c, 1), (d, 101)))
        assert expected.tally.leaves.to_bytes() == wanted.leaves.to_bytes()
        assert expected.tally.sketch.to_bytes() == wanted.sketch.to_bytes()
        assert expected.tally.root.root() == wanted.root.root()
        assert expected.items_of(range(1 << BITS), BITS) == {
            item_bytes(Item(k, v, _digest(k, v))) for k, v in ((a, 4), (b, 1), (c, 1), (d, 101))
        }
        # Another copy of the same unit stands where it was.
        assert {k: g.version for k, g in other.given_of(KEYS).items()} == {a: 3, b: 1, d: 100}


def answer(state: str, parts: int) -> ProofAnswer:
    return ProofAnswer(
        "q",
        "housing@330106",
        "main",
        "copy",
        "person",
        state,
        "",
        parts,
        0,
        (),
        (),
        (),
        (),
        0,
        0,  # type: ignore[arg-type]
    )


def part(number: int, content: bytes) -> ProofPart:
    return ProofPart("q", "housing@330106", "main", "copy", "person", number, "items", content)


def test_an_answer_counts_when_its_end_and_every_part_are_there() -> None:
    found = Answered("main")
    found.take(answer("working", 0), 1)
    found.take(part(0, b"old"), 1)
    assert not found.is_whole
    found.take(answer("done", 2), 1)
    assert not found.is_whole  # a hole
    found.take(part(1, b"x"), 1)
    found.take(part(0, b"new"), 1)  # an adapter that began anew sends all of it anew
    assert found.is_whole
    assert found.content("items") == b"new"
    found.take(part(7, b"left over"), 1)
    assert [n for n, _ in found._counted()] == [0, 1]


def test_items_of_an_answer_are_whole_or_none() -> None:
    items = [item_bytes(Item(key, 3, bytes(16))) for key in KEYS]
    found = Answered("main")
    for number, some in enumerate((items[:1], items[1:])):
        found.take(part(number, b"".join(some)), 1)
    found.take(answer("done", 2), 1)
    assert found.items() == set(items)
    found.take(part(1, items[1][:-1]), 1)
    with pytest.raises(ValueError, match="cut short"):
        found.items()


def seen(word: Class, **more: Any) -> Seen:
    on_bus = more.pop("on_bus", True)
    return Seen(Finding(KEY, word, "", on_bus), b"s", **more)


NOTHING, ALL = Wishes("test"), Wishes("test", max_delete=9, overwrite_local=True)
ACTIONS = [
    (seen(Class.MISSING), NOTHING, "deliver"),
    (seen(Class.STALE), NOTHING, "deliver"),
    (seen(Class.STALE, is_edited=True), NOTHING, None),
    (seen(Class.STALE, is_edited=True), ALL, "deliver"),
    (seen(Class.WRONG), NOTHING, "deliver"),
    (seen(Class.UNENTITLED), NOTHING, "deliver"),
    (seen(Class.EDITED_LOCALLY, is_edited=True), NOTHING, None),
    (seen(Class.EDITED_LOCALLY, is_edited=True), ALL, "deliver"),
    (seen(Class.EXTRA), NOTHING, None),
    (seen(Class.EXTRA), ALL, "deliver"),
    (seen(Class.EXTRA, is_known=False), ALL, "forget"),
    (seen(Class.EXTRA, is_known=False, on_bus=False), NOTHING, None),
    (seen(Class.EXTRA, is_known=False, on_bus=False), ALL, "remove"),
    (seen(Class.PARKED), ALL, None),
    (seen(Class.CLAIMED), ALL, None),
]


@pytest.mark.parametrize(("one", "wishes", "action"), ACTIONS)
def test_what_may_be_mended(one: Seen, wishes: Wishes, action: str | None) -> None:
    found, why = action_of(one, wishes)
    assert found == action
    assert (why == "") == (action is not None)


def test_exit_codes() -> None:
    equal = LegResult("copy", "u", "main", "d")
    differs = LegResult("copy", "u", "main", "d", by_class={"stale": 1})
    untold = LegResult("copy", "u", "main", "d", could_not_tell="no sign")
    absent = LegResult("copy", "u", "", "d", absent="no table")
    for results, code in (
        ((equal,), 0), ((equal, absent), 0), ((differs, equal), 1), ((untold, equal), 2),
        ((untold, differs), 1), ((), 2), ((absent,), 2),
    ):  # fmt: skip
        assert Reconciled(results, (), 0.0).exit_code == code


def test_few_records_need_little_and_many_no_more_than_enough() -> None:
    assert size_of([Span(0, 20), Span(5, 15)])[0] == 4
    bits, cells = size_of([Span(0, 1_000_000)])
    assert bits == BITS
    assert cells * 56 < 400_000
    assert size_of([Span(0, 30)])[1] < cells / 10

"""Every recipient ends alike, whatever the order, the batches and the duplicates."""

from __future__ import annotations

import random
from itertools import groupby

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from recipient_world import CLEARED, POISON, PlainTarget, Recipient, received, row

from deptbus.change import Cause, DeliveryOp, Received
from deptbus.department.decide import Write
from deptbus.department.ledger import RecordId

_NUMBERS = st.sampled_from(["r1", "r2", "r3"])
_KEYS = st.tuples(
    st.sampled_from(["police@330106", "police@330105"]), st.sampled_from([b"a", b"b"])
)


@st.composite
def _record(draw: st.DrawFn, poison: bool) -> dict[str, str] | None:
    if draw(st.integers(0, 3)) == 0:
        return None
    record = {"number": draw(_NUMBERS), "name": f"n{draw(st.integers(0, 9))}"}
    if draw(st.booleans()):
        record["phone"] = "p" + record["name"]
    if poison and draw(st.integers(0, 4)) == 0:
        record["name"] = POISON
    return record


@st.composite
def _deliveries(draw: st.DrawFn, poison: bool = False) -> list[Received]:
    """For each record some versions, each with one content; every (version, policy) once."""
    found = []
    for unit, key in draw(st.sets(_KEYS, min_size=1, max_size=4)):
        pairs = draw(
            st.sets(st.tuples(st.integers(1, 4), st.integers(1, 2)), min_size=1, max_size=5)
        )
        for version, policy in sorted(pairs):
            record = draw(_record(poison))
            op = draw(st.sampled_from([DeliveryOp.DELETE, DeliveryOp.WITHDRAW]))
            found.append(
                received(key, version, record, policy=policy, unit=unit, op=None if record else op)
            )
    return found


def _expected(deliveries: list[Received]) -> dict[str, tuple[str, ...]]:
    """Said plainly: the newest of each record; the least of those that name a row has it."""
    newest: dict[RecordId, Received] = {}
    for d in deliveries:
        rid = RecordId(d.dataset, d.source_unit, d.key)
        if rid not in newest or (d.version, d.policy) > (newest[rid].version, newest[rid].policy):
            newest[rid] = d
    table: dict[str, tuple[str, ...]] = {}
    for _, d in sorted(newest.items()):
        if d.record is not None:
            values = {f: s.decode().strip('"') for f, s in zip(d.fields, d.record, strict=True)}
            if values["name"] != POISON:
                table.setdefault(values["number"], (values["name"], values.get("phone", CLEARED)))
    return table


def _arrival(deliveries: list[Received], seed: int) -> list[list[Received]]:
    """A random order with duplicates, cut into random batches."""
    chance = random.Random(seed)
    stream = deliveries + chance.choices(deliveries, k=chance.randint(0, 5))
    chance.shuffle(stream)
    return [list(g) for _, g in groupby(stream, key=lambda _: chance.random() < 0.4)]


@given(deliveries=_deliveries(), seed=st.integers(0, 10**6))
@settings(max_examples=examples(400), deadline=None)
def test_any_order_ends_in_the_one_table(deliveries: list[Received], seed: int) -> None:
    recipient = Recipient()
    for batch in _arrival(deliveries, seed):
        recipient.apply(batch)
    assert recipient.table() == _expected(deliveries)
    _ledger_is_sound(recipient)


@given(deliveries=_deliveries(), seed=st.integers(0, 10**6))
@settings(max_examples=examples(200), deadline=None)
def test_replaying_all_of_it_changes_nothing(deliveries: list[Received], seed: int) -> None:
    recipient = Recipient()
    for batch in _arrival(deliveries, seed):
        recipient.apply(batch)
    before = recipient.table()
    for batch in _arrival(deliveries, seed + 1):
        assert recipient.apply(batch).actions == []
    assert recipient.table() == before


@given(deliveries=_deliveries(), seed=st.integers(0, 10**6), edited=_NUMBERS)
@settings(max_examples=examples(200), deadline=None)
def test_repair_restores_what_was_edited(
    deliveries: list[Received], seed: int, edited: str
) -> None:
    recipient = Recipient()
    for batch in _arrival(deliveries, seed):
        recipient.apply(batch)
    recipient.rows.pop(row(edited), None)
    newest = {
        (d.source_unit, d.key): d for d in sorted(deliveries, key=lambda d: (d.version, d.policy))
    }
    recipient.apply(
        [
            received(
                d.key, d.version, None if d.record is None else _values(d), policy=d.policy,
                unit=d.source_unit, op=d.op, cause=Cause.REPAIR,
            )
            for d in newest.values()
        ]
    )  # fmt: skip
    assert recipient.table() == _expected(deliveries)


@given(deliveries=_deliveries(poison=True), seed=st.integers(0, 10**6))
@settings(max_examples=examples(400), deadline=None)
def test_parked_records_disturb_nobody_and_keep_nothing_closed(
    deliveries: list[Received], seed: int
) -> None:
    recipient = Recipient()
    for batch in _arrival(deliveries, seed):
        recipient.apply(batch)
    table, expected = recipient.table(), _expected(deliveries)
    remnants = {e.row: e for e in recipient.ledger.values() if e.parked is not None and e.held}
    for number, values in table.items():
        if number in expected:
            assert values == expected[number]
        else:
            remnant = remnants[row(number).key]
            assert "phone" in remnant.field_names or values[1] == CLEARED
    assert expected.keys() <= table.keys()
    _ledger_is_sound(recipient)


@given(
    deliveries=_deliveries(),
    seed=st.integers(0, 10**6),
    hated=st.sets(_NUMBERS, max_size=2),
)
@settings(max_examples=examples(300), deadline=None)
def test_what_the_database_refuses_is_parked_and_comes_with_the_retry(
    deliveries: list[Received], seed: int, hated: set[str]
) -> None:
    recipient = Recipient()
    recipient.refuse = {(Write, row(number)) for number in hated}
    for batch in _arrival(deliveries, seed):
        recipient.apply(batch)
        _ledger_is_sound(recipient)
    assert recipient.table().keys().isdisjoint(hated)
    recipient.refuse = set()
    recipient.apply([], retry=True)
    assert recipient.table() == _expected(deliveries)
    assert not any(e.parked for e in recipient.ledger.values())


@pytest.mark.parametrize("planted", ["no version check", "no claims"])
def test_planted_bugs_are_caught(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very same comparison finds a recipient that applies whatever comes last, and one that
    lets any claimant have the row."""
    words = {}
    if planted == "no version check":
        words["is_newer"] = lambda pair, cause, known: True
    else:
        monkeypatch.setattr("deptbus.department.decide.least_claimant", lambda live: live[0])
    a = received(b"a", 1, {"number": "r1", "name": "old"})
    b = received(b"a", 2, {"number": "r1", "name": "new"})
    c = received(b"b", 1, {"number": "r2", "name": "one"}, unit="police@330105")
    d = received(b"c", 1, {"number": "r2", "name": "other"}, unit="police@330106")
    wrong = 0
    for seed in range(30):
        recipient = Recipient()
        for batch in _arrival([a, b, c, d], seed):
            recipient.apply(batch, **words)
        wrong += recipient.table() != _expected([a, b, c, d])
    assert wrong


def _values(d: Received) -> dict[str, str]:
    assert d.record is not None
    return {f: s.decode().strip('"') for f, s in zip(d.fields, d.record, strict=True)}


def _ledger_is_sound(recipient: Recipient) -> None:
    """Each row has one holder, each holder a row; a live holder's digest is that of its row."""
    held = [e for e in recipient.ledger.values() if e.held]
    assert len({e.row for e in held}) == len(held)
    assert {e.row for e in held} == {r.key for r in recipient.rows}
    target = PlainTarget()
    for entry in held:
        if entry.parked is None:
            fit = target.prepare(entry)
            assert entry.written == fit.written

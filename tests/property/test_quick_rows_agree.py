"""The quick way from an outbox row to bytes gives what the rules give, for any row in any order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from source_world import PLACES, SECRET, UNIT, contract

from deptbus.change import Incarnation
from deptbus.contract.department import Publish
from deptbus.contract.model import Check, Contract, Sharing
from deptbus.department.capture import Known, OutboxRow
from deptbus.department.judge import Judge, find_keys
from deptbus.department.publication import Batch, KeyOf, Publication, Stamp
from deptbus.department.quick_rows import QuickRow
from deptbus.wire.codecs import Codecs
from deptbus.wire.guard import MAX_RECORD_BYTES

FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "string"},
    {"name": "number", "type": "long"},
    {"name": "place", "type": "string"},
    {"name": "name", "type": "string"},
    {"name": "nick", "type": ["string", "null"], "default": ""},
    {"name": "sex", "type": {"type": "enum", "name": "Sex", "symbols": ["male", "female"]}},
    {"name": "kind", "type": ["null", "string"], "default": None},
    {"name": "born", "type": ["null", {"type": "int", "logicalType": "date"}], "default": None},
    {"name": "floors", "type": ["null", "int"], "default": None},
    {"name": "is_open", "type": ["null", "boolean"], "default": None},
    {"name": "area", "type": ["null", "double"], "default": None},
    {
        "name": "rent",
        "type": [
            "null",
            {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2},
        ],
        "default": None,
    },
    {
        "name": "seen",
        "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}],
        "default": None,
    },
    {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
    {"name": "resident", "type": ["null", "string"], "default": None},
    {"name": "company", "type": ["null", "string"], "default": None},
    {"name": "from_place", "type": ["null", "string"], "default": None},
    {"name": "fixed_word", "type": "string"},
    {"name": "unmapped", "type": "int", "default": 7},
]
CHECKS = {
    "place": Check.DIVISION,
    "from_place": Check.DIVISION,
    "resident": Check.RESIDENT_ID,
    "company": Check.CREDIT_CODE,
}
COLUMNS = tuple(f["name"] for f in FIELDS[:-2])
AGREED = contract(UNIT)
OUTSIDE, MISTYPED = "330105008051", "330106999"


def agreed_on(key: tuple[str, ...]) -> Contract:
    person = AGREED.datasets["person"].model_copy(
        update={
            "key": key,
            "checks": CHECKS,
            "sharing": {f["name"]: Sharing.UNCONDITIONAL for f in FIELDS},
        }
    )
    schema = {"type": "record", "name": "Person", "fields": FIELDS}
    return AGREED.model_copy(
        update={"datasets": {"person": person}, "schemas": {"person.v1": schema}}
    )


def publish(place: str | None = None) -> Publish:
    """Own columns are called as the fields; with a `place` the unit has no column for it."""
    constants = {"fixed_word": "word"} | ({} if place is None else {"place": place})
    return Publish(
        table="people",
        columns={c: c for c in COLUMNS if place is None or c != "place"},
        values={
            "sex": {"1": "male", "2": "female"},
            "kind": {"a": "first", "": "none", "1": "one"},
        },
        constants=constants,
    )


class RulesOnly(Publication):
    def quick(self, columns: tuple[str, ...]) -> QuickRow | None:
        return None


class Source:
    """What one way of judging leaves behind, batch by batch."""

    def __init__(self, publication: Publication, codecs: Codecs) -> None:
        self.publication, self.codecs = publication, codecs
        self.known: dict[tuple[str, bytes], Known] = {}
        self.parked: set[tuple[str, str]] = set()
        self.batches = 0
        self.plain = 0

    def judge(self, rows: Sequence[OutboxRow]) -> Any:
        self.batches += 1
        found = find_keys({"person": self.publication}, rows)
        self.plain += sum(not isinstance(f, KeyOf) for f in found)
        borne = {
            (r.dataset, k.key): len(k.raw) % 2 == 0
            for r, k in zip(rows, found, strict=True)
            if isinstance(k, KeyOf) and k.plain is not None and k.key is not None
        }
        stamp = Stamp(Incarnation(3, b"t" * 8), self.batches, 7)
        batch = Batch({"person": self.publication}, stamp, self.known, borne, self.parked)
        judge = Judge(batch, self.codecs)
        judge.take(rows, found)
        return judge.ready, judge.prepared, dict(self.known), set(self.parked)


def both(key: tuple[str, ...] = ("id",), place: str | None = None) -> tuple[Source, Source]:
    agreed = agreed_on(key)
    codecs = Codecs(agreed)
    made = [
        kind(UNIT, "person", publish(place), agreed, SECRET) for kind in (Publication, RulesOnly)
    ]
    return Source(made[0], codecs), Source(made[1], codecs)


@cache
def _made_once(key: tuple[str, ...], place: str | None) -> tuple[Source, Source]:
    return both(key, place)


def afresh(key: tuple[str, ...] = ("id",), place: str | None = None) -> tuple[Source, Source]:
    """As `both`, where nothing is patched: the functions need not be written for each example."""
    quick, rules = _made_once(key, place)
    return Source(quick.publication, quick.codecs), Source(rules.publication, rules.codecs)


def plain(position: int, own_key: Any = "A1", **values: Any) -> OutboxRow:
    state: dict[str, Any] = {
        "id": own_key,
        "number": "12",
        "place": PLACES[0],
        "name": "李",
        "nick": None,
        "sex": "1",
        "kind": "a",
        "born": "1990-01-02",
        "floors": "3",
        "is_open": "t",
        "area": "1.5",
        "rent": "12.50",
        "seen": "2026-01-02 03:04:05",
        "tags": "[]",
        "resident": "11010519491231002X",
        "company": "91110000600037341L",
        "from_place": OUTSIDE,
    } | values
    cells = tuple(state.values())
    return OutboxRow(
        position, "person", "u", "live", None, 1000, None, None, (own_key,), tuple(state), cells
    )


OWN_KEYS = st.sampled_from(
    ["A1", "a1 ", "Ａ１", "B-2", "7", 7, 7.0, "07", "", None, b"x", "\udce6"]
)
TEXTS = st.text(max_size=70) | st.sampled_from(
    ["", "1", "2", "a", " a", "male", "t", "是", "\udce6"]
)
NUMBERS = st.integers(-(2**63) - 1, 2**63) | st.sampled_from([0, 1, True, False, 1.0, 2.5, 2.0**60])
NUMERALS = st.sampled_from(
    ["0", "007", "-3", "+4", "63", "64", "2147483647", "2147483648", "9" * 18, "9" * 19, "٣", "1.0"]
)
DAYS = st.sampled_from(["1990-01-02", "1990/1/2", "19900102", "1990-02-30", "1990-01-02 00:00:00"])
NUMBERED = ("11010519491231002X", "11010519491231002x", "110105194912310021")
CREDITED = ("91110000600037341L", "91110000600037341l", "91110000600037341M")
CODES = st.sampled_from([*PLACES, OUTSIDE, MISTYPED, "330106", *NUMBERED, *CREDITED])
JSON = st.sampled_from(["[]", '["a"]', '["\\ud800"]', "{}", "[" * 3000])
ANY = st.none() | TEXTS | NUMBERS | NUMERALS | DAYS | CODES | JSON | st.binary(max_size=3)


@st.composite
def rows_of(draw: st.DrawFn, keys: int = 1) -> list[list[OutboxRow]]:
    batches, position = [], 0
    for _ in range(draw(st.integers(1, 3))):
        rows = []
        for _ in range(draw(st.integers(1, 6))):
            position += 1
            row = plain(position, draw(OWN_KEYS))
            state = row.values
            for name in draw(st.lists(st.sampled_from(COLUMNS), max_size=2)):
                state[name] = draw(ANY)
            if draw(st.booleans()):
                state["place"] = draw(CODES)
            op = draw(st.sampled_from("uuuuud"))
            rows.append(
                row._replace(
                    op=op,
                    cause=draw(st.sampled_from(["live", "live", "snapshot", "resend"])),
                    job=draw(st.sampled_from([None, "job"])),
                    source_time_us=draw(st.sampled_from([1000, 1001, 1_764_000_000_123_456])),
                    was=draw(st.sampled_from([None, None, None, *PLACES, OUTSIDE, 3])),
                    raw=(row.raw[0], state["number"])[:keys],
                    columns=row.columns if op == "u" else (),
                    cells=tuple(state.values()) if op == "u" else (),
                )
            )
        batches.append(rows)
    return batches


def differences(batches: list[list[OutboxRow]], sources: tuple[Source, Source]) -> list[str]:
    quick, rules = sources
    return [
        f"batch {n}: {left!r} != {right!r}"
        for n, rows in enumerate(batches)
        for left, right in zip(quick.judge(rows), rules.judge(rows), strict=True)
        if left != right
    ]


@given(rows_of())
@settings(max_examples=examples(400), deadline=None)
def test_one_text_key(batches: list[list[OutboxRow]]) -> None:
    assert differences(batches, afresh()) == []


@given(rows_of(keys=2))
@settings(max_examples=examples(150), deadline=None)
def test_a_key_of_text_and_number(batches: list[list[OutboxRow]]) -> None:
    assert differences(batches, afresh(("id", "number"))) == []


@given(rows_of(), st.sampled_from([PLACES[1], OUTSIDE, MISTYPED]))
@settings(max_examples=examples(100), deadline=None)
def test_a_unit_without_a_column_for_the_place(batches: list[list[OutboxRow]], place: str) -> None:
    assert differences(batches, afresh(place=place)) == []


def test_plain_rows_go_the_quick_way() -> None:
    source, _ = both()
    ready, prepared, *_ = source.judge([plain(n, f"K{n}") for n in range(1, 50)])
    assert source.plain == len(ready) == 49
    assert prepared.version == 49
    assert not prepared.needs_writing


def test_what_is_remembered_of_a_key_is_named_by_plain_rows_too() -> None:
    sources = both()
    moved = plain(1)._replace(was=PLACES[1])
    assert differences([[moved, plain(2)], [plain(3)]], sources) == []
    ((_, _, value),) = sources[0].judge([plain(4)])[0]
    change = sources[0].codecs.decode_change(sources[0].judge([plain(5)])[0][0].key, value)
    assert change.former_divisions == (PLACES[1],)


def test_a_mended_row_is_no_longer_parked() -> None:
    sources = both()
    assert differences([[plain(1, sex="9")], [plain(2)]], sources) == []
    assert not sources[0].parked


def test_a_record_above_the_cap_is_parked() -> None:
    sources = both()
    huge = plain(1, name="x" * (MAX_RECORD_BYTES + 1))
    assert differences([[huge, plain(2, "B")], [plain(3)]], sources) == []
    assert sources[0].batches == 2


def test_a_number_that_lost_its_digits_is_no_key() -> None:
    """A column of floating point numbers gives whole ones, and ends no adapter by it."""
    sources = both(("id", "number"))
    lost = plain(1, number=2.0**60)._replace(raw=("A1", 2.0**60))
    assert differences([[lost, plain(2, "B")._replace(raw=("B", "12"))]], sources) == []
    assert sources[0].parked == {("person", '["A1",1.152921504606847e+18]')}


@pytest.mark.parametrize(
    ("wrong", "row"),
    [
        ("place", plain(1, place=OUTSIDE)),
        ("check", plain(1, company="91110000600037341M")),
        ("known", plain(2)),
        ("parked", plain(2)),
    ],
)
def test_a_quick_way_that_leaves_out_a_rule_is_found(
    wrong: str, row: OutboxRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "place":
        monkeypatch.setattr(Publication, "_place_bytes", lambda self, place: b"\x18" + b"3" * 12)
    if wrong == "check":
        known = Publication._quick_field

        def unchecked(self: Publication, i: int, columns: tuple[str, ...]) -> Any:
            field = known(self, i, columns)
            return field if isinstance(field, bytes) else field._replace(check=None)

        monkeypatch.setattr(Publication, "_quick_field", unchecked)
    quick, rules = both()
    before = {"known": plain(1)._replace(was=PLACES[1]), "parked": plain(1, sex="9")}.get(wrong)
    if before is not None:
        rules.judge([before])
        quick.batches += 1  # and remembers nothing
    assert differences([[row]], (quick, rules))

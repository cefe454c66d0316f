"""The short ways give what the long ones give: forms what `prepare` gives, plain records what the
whole rule gives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from datetime import UTC
from typing import Any

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore
from recipient_contract import ALL, CODECS, CONTRACT, person
from recipient_world import POISON, received

from deptbus.change import Cause, DeliveryOp, Received
from deptbus.contract.department import Receive
from deptbus.department.decide import Write
from deptbus.department.ledger import Prepared, Row, entry_of
from deptbus.department.store import PartitionBatch
from deptbus.department.target import Column, ContractShapes, MappedTarget
from deptbus.department.values import ColumnKind
from deptbus.errors import SourceRefused
from deptbus.wire.control import PolicyMarker
from deptbus.wire.digest import encode_values

SHAPES = ContractShapes(CONTRACT, CODECS)

_TEXT = st.text(st.characters(codec="utf-8"), max_size=80)
_VALUES = st.fixed_dictionaries(
    {
        "id": _TEXT,
        "name": _TEXT | st.sampled_from(["1", "0", "true", "2026-01-01", "李" * 40]),
        "sex": st.sampled_from(["male", "female"]),
        "born": st.dates(),
        "seen_at": st.datetimes(timezones=st.just(UTC)),
        "income": st.none() | st.decimals(-(10**9), 10**9, places=2),
        "phone": st.none() | _TEXT,
        "house": st.none() | _TEXT,
        "children": st.none() | st.integers(-(2**31), 2**31 - 1),
        "score": st.none() | st.floats(allow_nan=False),
        "active": st.none() | st.booleans(),
    }
)
_KINDS = [k for k in ColumnKind if k is not ColumnKind.OTHER]


@st.composite
def _targets(draw: st.DrawFn) -> MappedTarget:
    catalogue = {}
    for name in ALL:
        kind = draw(st.sampled_from(_KINDS)) if draw(st.booleans()) else ColumnKind.TEXT
        scale = draw(st.none() | st.just(1)) if kind is ColumnKind.NUMERIC else None
        catalogue[name] = Column(name, kind, "x", not_null=draw(st.booleans()), scale=scale)
    words: dict[str, Any] = {"table": "people", "columns": {n: n for n in ALL}}
    if draw(st.booleans()):
        words["values"] = {"sex": {"1": "male", "2": "female"}}
    if draw(st.booleans()):
        words["defaults"] = {"phone": "none"}
        catalogue["phone"] = Column("phone", ColumnKind.TEXT, "x", not_null=True)
    keys = draw(st.sampled_from([("id",), ("id", "born"), ("phone",)]))
    return MappedTarget("person", Receive(**words), keys, catalogue, SHAPES)


@given(target=_targets(), values=st.lists(_VALUES, min_size=1, max_size=3), seed=st.integers(0, 9))
@settings(max_examples=examples(300), deadline=None)
def test_a_form_gives_what_prepare_gives(
    target: MappedTarget, values: list[dict[str, Any]], seed: int
) -> None:
    hidden = tuple(random.Random(seed).sample(ALL[3:], seed % 4))
    for words in values:
        item = person(b"k" * 16, without=hidden, **words)
        fit, taken = target.prepare(entry_of(item, 0), item.record), target.take(item)
        if isinstance(fit, Prepared):
            assert taken == (fit.row, fit.written, fit.values)
            assert [type(v) for v in taken[2]] == [type(v) for v in fit.values]
        else:
            assert taken is None


def test_a_field_of_many_values_is_left_to_prepare() -> None:
    """Where the generated function would have to guess there is none."""
    columns = {"$key": "bus", "name": "name"}
    catalogue = {n: Column(n, ColumnKind.TEXT, "text") for n in columns.values()}
    receive = Receive(table="people", columns=columns, key=("bus",))
    target = MappedTarget("person", receive, ("bus",), catalogue, SHAPES)
    item = person(1)
    assert target.take(item) is None
    assert isinstance(target.prepare(entry_of(item, 0)), Prepared)


def test_a_default_that_does_not_fit_its_column_is_told_with_its_mend() -> None:
    columns = {"id": "id", "name": "count"}
    catalogue = {n: Column(n, ColumnKind.INTEGER, "int") for n in columns.values()}
    for words in ({"columns": columns}, {"columns": {"id": "id"}}):
        receive = Receive(table="people", defaults={"count": "none"}, **words)  # type: ignore[arg-type]
        with pytest.raises(SourceRefused, match=r"people\.count: its default does not fit"):
            MappedTarget("person", receive, ("id",), catalogue, SHAPES)


# -- plain records against the whole rule --------------------------------------------------------

_KEYS = st.tuples(
    st.sampled_from(["police@330106", "police@330105"]), st.sampled_from([b"a", b"b", b"c"])
)


@st.composite
def _delivery(draw: st.DrawFn) -> Received | PolicyMarker:
    unit, key = draw(_KEYS)
    if draw(st.integers(0, 19)) == 0:
        return PolicyMarker(policy=draw(st.integers(1, 2)), datasets=("resident",), job="j")
    record: dict[str, str] | None = None
    if draw(st.integers(0, 4)):
        name = POISON if draw(st.integers(0, 9)) == 0 else f"n{draw(st.integers(0, 9))}"
        record = {"number": draw(st.sampled_from(["r1", "r2", "r3", "r4"])), "name": name}
        if draw(st.booleans()):
            record["phone"] = "p"
    return received(
        key, draw(st.integers(1, 9)), record, policy=draw(st.integers(1, 2)), unit=unit,
        op=None if record else draw(st.sampled_from([DeliveryOp.DELETE, DeliveryOp.WITHDRAW])),
        cause=draw(st.sampled_from([Cause.LIVE, Cause.LIVE, Cause.REPLAY, Cause.SNAPSHOT])),
    )  # fmt: skip


_BATCHES = st.lists(st.lists(_delivery(), min_size=1, max_size=6), min_size=1, max_size=12)
_HATED = st.lists(st.sampled_from(["r1", "r2", "r3", "r4"]), max_size=1)


def _play(
    batches: Iterable[list[Received | PolicyMarker]],
    hated: list[str],
    seed: int,
    plain_from: int,
    *,
    presumes: bool = False,
) -> MemoryStore:
    store = MemoryStore(plain_from, presumes=presumes)
    chance = random.Random(seed)

    async def run() -> None:
        for now, batch in enumerate(batches, 1):
            refuses = bool(hated) and chance.random() < 0.5
            store.refuse = {
                (Write, Row("resident", encode_values([number]))) for number in hated if refuses
            }
            cut = chance.randint(0, len(batch))
            parts = {
                number: PartitionBatch(store.positions[number].next_offset + len(items), items)
                for number, items in ((1, batch[cut:]), (0, batch[:cut]))
                if items
            }
            await store.apply(parts, now * 1_000_000)

    asyncio.run(run())
    return store


def _differs(batches: list[Any], hated: list[str], seed: int) -> bool:
    short, long = (_play(batches, hated, seed, plain_from) for plain_from in (1, 10**9))
    bold = _play(batches, hated, seed, 1, presumes=True)
    assert (long.plain, short.presumed) == (0, 0)
    ends = [(s.ledger, s.rows, s.tallies, s.positions) for s in (long, short, bold)]
    return ends[1] != ends[0] or ends[2] != ends[0]


@given(batches=_BATCHES, hated=_HATED, seed=st.integers(0, 10**6))
@settings(max_examples=examples(500), deadline=None)
def test_plain_records_end_as_by_the_whole_rule(
    batches: list[list[Received | PolicyMarker]], hated: list[str], seed: int
) -> None:
    assert not _differs(batches, hated, seed)


def test_most_records_are_plain() -> None:
    """Or the test above would compare the long way with itself."""
    record = {"number": "r1", "name": "n"}
    batches = [[received(b"a", n, record), received(b"b", n, record | {"number": "r2"})]
               for n in range(1, 4)]  # fmt: skip
    assert _play(batches, [], 0, 1).plain == 6
    assert _play(batches, [], 0, 1, presumes=True).presumed == 4


@pytest.mark.parametrize("planted", ["row of another", "old news", "named rows", "two for one row"])
def test_planted_bugs_are_caught(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    r1, r2 = {"number": "r1", "name": "n"}, {"number": "r2", "name": "n"}
    batches: list[list[Any]] = {
        "row of another": [[received(b"a", 1, r1)], [received(b"a", 2, r2)]],
        "old news": [[received(b"a", 2, r1)], [received(b"a", 1, r1 | {"name": "old"})]],
        "named rows": [[received(b"a", 1, r1)], [received(b"b", 1, r1 | {"name": "other"})]],
        "two for one row": [[received(b"a", 1, r1), received(b"b", 1, r2)],
                            [received(b"a", 2, r1), received(b"a", 3, r1 | {"name": "newest"})]],
    }[planted]  # fmt: skip
    assert not _differs(batches, [], 0)
    if planted == "row of another":
        _plant_every_row_is_its_own(monkeypatch)
    elif planted == "old news":
        monkeypatch.setattr("deptbus.department.plain.newer", lambda *_: True)
    elif planted == "two for one row":
        monkeypatch.setattr("deptbus.department.store.presume", _plant_the_last_one_holds_it)
    else:
        monkeypatch.setattr("deptbus.department.store.fresh_rows", lambda *_: [])
    assert _differs(batches, [], 0)


def _plant_the_last_one_holds_it(sifted: Any) -> Any:
    """Those that go the long way are left out of what is presumed."""
    from deptbus.department import plain

    return plain.judge(sifted, None, ())


def _plant_every_row_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that moves to another row is taken for one that stays."""
    from deptbus.department import plain

    def careless(sifted: Any, known: Any, named: Any, existing: Any) -> Any:
        moved = {
            sender: {
                key: (*g[:4], sifted.keys[sender][key][1][0], g[5])
                for key, g in glimpses.items()
                if sifted.keys[sender][key]
            }
            for sender, glimpses in known.items()
        }
        return plain.judge(sifted, moved, named, existing)

    monkeypatch.setattr("deptbus.department.store.judge", careless)

"""The quick fold of a proof against the slow one: the same lines, sums and rows, whatever lies in
the topic; and digests of rows column by column against row by row."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
import stream_town as town
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_passage_agrees import town_batch

from deptbus.change import Change, Delivery
from deptbus.errors import WireRefused
from deptbus.operations.copy_expected import Entitled, Expected
from deptbus.operations.logs import Span
from deptbus.operations.quick_fold import QuickFold
from deptbus.operations.source_told import UnitFold
from deptbus.proof.tally import Tally
from deptbus.routing import Router
from deptbus.stream.data import decode_data
from deptbus.stream.log import LogRecord
from deptbus.wire import fold_pass
from deptbus.wire.codecs import Codecs
from deptbus.wire.digest import values_digest, values_digests

NOW = datetime(2026, 6, 1, tzinfo=UTC)
UNITS = (town.HOUSING, town.CITY_POLICE, town.TOWN_POLICE, town.OTHER_POLICE)


class SlowCodecs(Codecs):
    """Without the quick pass: every record is decoded."""

    def fold_pass(self, head: bytes, dataset: str) -> None:
        return None


class Library:
    def __init__(self, codecs: Codecs) -> None:
        self.codecs = codecs


class Owed:
    """What the newest policy gives; there is no older one."""

    def __init__(self, unit: str) -> None:
        self.unit, self.router = unit, Router(town.policy())

    def delivery(self, change: Change) -> Delivery | None:
        return self.router.route_for(change, self.unit, NOW)

    def span(self) -> object:
        return self.router.span(NOW)


class Logs:
    """One partition as a list, read in small batches; counts what had to be decoded."""

    def __init__(self, codecs: Codecs, records: list[LogRecord]) -> None:
        self.codecs, self.records, self.decoded = codecs, records, 0

    async def read(self, dataset: str, partition: int, span: Span) -> Any:
        for start in range(0, len(self.records), 70):
            yield self.records[start : start + 70]

    async def decode(self, record: LogRecord) -> Change | None:
        self.decoded += 1
        try:
            found = decode_data(self.codecs, record.key, record.value)
        except WireRefused:
            return None
        return found if isinstance(found, Change) else None


def records_of(seed: int) -> list[LogRecord]:
    """Several batches of a town, late sends among them; some come twice."""
    pairs = [pair for n in range(5) for pair in town_batch(seed + n)]
    random.Random(seed).shuffle(pairs)
    return [LogRecord("data.resident", 0, at, 0, *pair) for at, pair in enumerate(pairs * 2)]


async def expected_of(codecs: Codecs, seed: int, unit: str) -> tuple[Logs, Any]:
    logs = Logs(codecs, records_of(seed))
    entitled = Entitled(Library(codecs), Owed(unit))  # type: ignore[arg-type]
    with Expected(logs, entitled, "resident", Tally(200, bytes(16))) as found:  # type: ignore[arg-type]
        await found.fold([Span(0, len(logs.records))])
        keys = {record.key for record in logs.records if record.key}
        tally = found.tally
        told = tally.leaves.to_bytes(), tally.sketch.to_bytes(), tally.root.root()
        return logs, (found.rows, told, found.given_of(keys))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("seed", range(6))
async def test_a_copy_is_expected_alike_with_and_without_the_quick_pass(
    seed: int, unit: str
) -> None:
    quick, found = await expected_of(Codecs(town.contract()), seed, unit)
    slow, right = await expected_of(SlowCodecs(town.contract()), seed, unit)
    assert found == right
    assert quick.decoded < slow.decoded == len(slow.records)


async def fold_of(codecs: Codecs, seed: int) -> UnitFold:
    logs, fold = Logs(codecs, records_of(seed)), UnitFold(town.POLICE)
    quick = QuickFold(lambda frame: codecs.fold_pass(frame, "resident"))

    async def other(record: LogRecord) -> bool:
        change = await logs.decode(record)
        if change is not None:
            fold.add(change)
            quick.learn(record, change, lambda: fold.way(change))
        return False

    await quick.fold(logs.records, fold.kept, other)
    return fold


@pytest.mark.parametrize("seed", range(6))
async def test_a_source_is_folded_alike_with_and_without_the_quick_pass(seed: int) -> None:
    quick = await fold_of(Codecs(town.contract()), seed)
    slow = await fold_of(SlowCodecs(town.contract()), seed)
    assert quick.kept == slow.kept
    assert len(quick)
    assert town.OTHER_POLICE in {
        change.source_unit for change in map(_decoded, records_of(seed)) if change is not None
    }


def _decoded(record: LogRecord) -> Change | None:
    try:
        found = decode_data(Codecs(town.contract()), record.key, record.value)
    except WireRefused:
        return None
    return found if isinstance(found, Change) else None


async def test_planted_a_late_send_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = fold_pass._FOLD.replace("held is None or held[:8] <= version", "True")
    monkeypatch.setattr(fold_pass, "_FOLD", told)
    for seed in range(6):
        quick = await fold_of(Codecs(town.contract()), seed)
        if quick.kept != (await fold_of(SlowCodecs(town.contract()), seed)).kept:
            return
    pytest.fail("the planted bug was not found")


async def test_planted_a_field_is_left_out_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    real = UnitFold.way

    def cut_short(self: UnitFold, change: Change) -> fold_pass.FoldWay:
        way = real(self, change)
        cut = way.cut
        return way if cut is None else way._replace(cut=lambda v, p: cut(v, p)[:-1])

    monkeypatch.setattr(UnitFold, "way", cut_short)
    quick = await fold_of(Codecs(town.contract()), 0)
    assert quick.kept != (await fold_of(SlowCodecs(town.contract()), 0)).kept


VALUES = st.one_of(
    st.none(),
    st.text(max_size=70),
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.binary(max_size=9),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.dates(),
    st.times(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
)


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 5), st.integers(0, 6), st.data())
def test_rows_are_digested_alike_by_columns_and_one_by_one(
    width: int, count: int, data: st.DataObject
) -> None:
    kinds = [data.draw(st.sampled_from([VALUES, st.text(), st.dates()])) for _ in range(width)]
    rows = [tuple(data.draw(kind) for kind in kinds) for _ in range(count)]
    assert values_digests(rows) == [values_digest(row) for row in rows]


def test_null_and_nothing_keep_apart_by_columns() -> None:
    rows = [("a", None), ("a", ""), (None, "a"), ("", "a"), ("a", "<null>")]
    assert values_digests(rows) == [values_digest(row) for row in rows]
    assert len(set(values_digests(rows))) == len(rows)
    mixed = [(True, Decimal("1.0")), (1, Decimal("1.00")), (1.0, time(1)), ("1", date(1, 1, 1))]
    assert values_digests(mixed) == [values_digest(row) for row in mixed]
    assert len(set(values_digests(mixed))) == len(mixed)

"""What PostgreSQL tells of a row is what Python encodes of it, byte for byte, or nobody's row."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from dirty_values import GOLDEN, value_of

from deptbus.department import postgres_encoded
from deptbus.department.connect import PostgresDatabase, target_of
from deptbus.department.layout import quoted
from deptbus.department.postgres_encoded import COLLATIONS, IS_UTF8, decoded_key, encoded_row
from deptbus.department.postgres_table import read_columns
from deptbus.department.target import Column
from deptbus.department.values import STAGED
from deptbus.wire.digest import encode_values
from tests.pairs.rows import COLUMNS, row

pytestmark = pytest.mark.service

Told = list[tuple[bytes, bytes]]  # by Python and by the server
_FIRST, _LAST = (
    datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
    datetime(2033, 5, 18, 3, 33, 20, tzinfo=UTC),
)
_MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
async def session(postgres: Callable[[], str]) -> AsyncIterator[asyncpg.Connection]:
    """As the adapter opens one."""
    database = await PostgresDatabase.open(target_of(postgres()))
    assert await database.connection.fetchval(IS_UTF8)
    yield database.connection
    await database.close()


async def columns_of(session: asyncpg.Connection) -> list[Column]:
    found = (await read_columns(session, "t")).values()
    return sorted(found, key=lambda column: (len(column.name), column.name))


async def told(session: asyncpg.Connection, columns: Sequence[Column]) -> Told:
    """Of each row of the table `t`, in its order."""
    values = ", ".join(f"t.{quoted(c.name)}::{STAGED[c.kind]}" for c in columns)
    found = await session.fetch(f"SELECT {encoded_row(columns)}, {values} FROM t ORDER BY ctid")
    return [(encode_values(values), encoded) for encoded, *values in found]


async def filled(session: asyncpg.Connection, kinds: Sequence[str], rows: Sequence[Any]) -> None:
    names = ", ".join(f"c{at} {kind}" for at, kind in enumerate(kinds))
    await session.execute(f"CREATE TABLE t ({names})")
    await session.copy_records_to_table("t", records=rows)


async def test_drawn_rows_are_told_as_python_tells_them(session: asyncpg.Connection) -> None:
    chance = random.Random(2026)
    await filled(session, COLUMNS, [row(chance) for _ in range(20_000)])
    columns = await columns_of(session)
    assert [one for one in await told(session, columns) if one[0] != one[1]] == []
    # And in another order, where bytes stand between texts; with columns that are never null.
    columns = sorted(columns, key=lambda c: c.kind)
    assert [one for one in await told(session, columns) if one[0] != one[1]] == []
    await session.execute("DELETE FROM t WHERE num_nulls(c0, c1, c2, c3, c4, c5, c6, c7) > 0")
    for name in ("c0", "c2", "c3", "c6", "c7"):
        await session.execute(f"ALTER TABLE t ALTER {name} SET NOT NULL")
    columns = await columns_of(session)
    assert sum(c.not_null for c in columns) == 5
    found = await told(session, columns)
    assert len(found) > 1000
    assert [one for one in found if one[0] != one[1]] == []


async def test_every_dirty_value_is_told_as_python_tells_it(session: asyncpg.Connection) -> None:
    cases = [value_of(own) for _, own, _ in GOLDEN["published"]]
    for _, own, outcome in GOLDEN["received"]:
        cases += [value_of(own), *([value_of(outcome["is"])] if "is" in outcome else [])]
    kinds = {
        str: "text", bool: "boolean", int: "bigint", float: "float8", bytes: "bytea",
        Decimal: "numeric", date: "date", time: "time", datetime: "timestamptz",
    }  # fmt: skip
    place = {kind: at for at, kind in enumerate(kinds)}
    rows, kept = [], 0
    for value in cases:
        if value is None or (isinstance(value, str) and not _is_storable(value)):
            continue
        if type(value) is int and not -(1 << 63) <= value < 1 << 63:
            continue
        if isinstance(value, datetime) and value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        cells: list[Any] = [None] * len(kinds)
        cells[place[type(value)]] = value
        rows.append(tuple(cells))
        kept += 1
    assert len(GOLDEN["published"]) + len(GOLDEN["received"]) >= 90
    assert kept >= 85
    await filled(session, list(kinds.values()), rows)
    assert [n for n in await told(session, await columns_of(session)) if n[0] != n[1]] == []


def _is_storable(text: str) -> bool:
    """In a database that keeps UTF-8."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


async def test_times_are_told_to_the_microsecond(session: asyncpg.Connection) -> None:
    chance = random.Random(7)
    span = (_LAST - _FIRST) // _MICROSECOND
    near = [_FIRST + chance.randrange(span) * _MICROSECOND for _ in range(20_000)]
    edges = [
        edge + n * _MICROSECOND
        for edge in (
            _FIRST,
            _LAST,
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(2000, 1, 1, tzinfo=UTC),
        )
        for n in range(-3, 4)
    ]
    # The driver takes the very first and the very last for infinity.
    ends = [
        datetime.min.replace(tzinfo=UTC) + _MICROSECOND,
        datetime.max.replace(tzinfo=UTC) - _MICROSECOND,
    ]
    far = [
        ends[0] + chance.randrange((ends[1] - ends[0]) // _MICROSECOND) * _MICROSECOND for _ in near
    ]
    moments = [*near, *edges, *ends, *far, None]
    rows = [(m, m and m.replace(tzinfo=None), m and m.time()) for m in moments]
    await filled(session, ("timestamptz", "timestamp", "time"), rows)
    assert [n for n in await told(session, await columns_of(session)) if n[0] != n[1]] == []


ODD = {
    "varchar(9)": ("'a'", "'a '", "''", "'é'", "'é'"),
    "char(5)": ("'a'", "'a   '", "'  '"),
    "smallint": ("-32768", "0"),
    "integer": ("2147483647", "-1"),
    "real": ("0.1", "'-0'", "'NaN'", "'Infinity'", "1e-45"),
    "double precision": ("0.1", "'-0'", "0", "'NaN'", "'-Infinity'", "5e-324", "1e308"),
    "numeric": ("0", "1.0", "1.00", "'NaN'", "12345678901234567890.5", "-0.000001"),
    "numeric(20,6)": ("0", "0.000001", "-12.5"),
    "boolean": ("true", "false"),
    "date": ("'0001-01-01'", "'9999-12-31'"),
    "uuid": ("'00000000-0000-0000-0000-00000000000a'",),
    "jsonb": ("'{\"b\": 1, \"a\": [1, 2]}'", "'null'"),
    "text[]": ("'{}'", "'{a,NULL,\"b,c\"}'"),
    "interval": ("'1 day 02:03:04.5'",),
    "mood": ("'glad'",),
    "code": ("'x'",),
    "bit(3)": ("B'101'",),
    "bytea": ("''", "'\\x00ff'"),
}  # fmt: skip


async def test_types_of_every_kind_are_told(session: asyncpg.Connection) -> None:
    await session.execute("CREATE TYPE mood AS ENUM ('glad'); CREATE DOMAIN code AS text")
    names = [f"c{at}" for at in range(len(ODD))]
    typed = ", ".join(f"{name} {kind}" for name, kind in zip(names, ODD, strict=True))
    await session.execute(f"CREATE TABLE t ({typed})")
    for name, literals in zip(names, ODD.values(), strict=True):
        await session.execute(f"INSERT INTO t ({name}) VALUES ({'), ('.join(literals)})")
    found = await told(session, await columns_of(session))
    assert [n for n in found if n[0] != n[1]] == []
    assert len(found) == sum(map(len, ODD.values()))


async def test_more_columns_than_a_function_takes(session: asyncpg.Connection) -> None:
    await filled(session, ["text", "bigint"] * 100, [("a", None) * 100, (None, 7) * 100])
    assert [n for n in await told(session, await columns_of(session)) if n[0] != n[1]] == []


async def test_what_python_cannot_hold_is_told_as_nobodys(session: asyncpg.Connection) -> None:
    """Each is unlike every row that an adapter could have written, and unlike the others."""
    values = {
        "date": ("infinity", "-infinity", "0044-03-15 BC", "10000-01-01", "5874897-12-31"),
        "timestamptz": ("infinity", "-infinity", "0044-03-15 BC", "10000-01-01 00:00:00+00"),
        "timestamp": ("infinity", "-infinity", "0044-03-15 BC", "294276-12-31 23:59:59.999999"),
        "time": ("24:00:00",),
    }
    seen: set[bytes] = set()
    for kind, texts in values.items():
        await session.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t (a {kind}, b text)")
        for text in texts:
            await session.execute(f"INSERT INTO t VALUES ('{text}', 'x')")
        columns = await columns_of(session)
        for (encoded,) in await session.fetch(f"SELECT {encoded_row(columns)} FROM t"):
            assert encoded not in seen
            seen.add(encoded)
            first, second = struct.unpack_from(">II", encoded, 4)
            body = encoded[12 : 12 + first]
            assert (encoded[12 + first :], second) == (b"x", 1)  # lengths are its own
            assert not _is_written(kind, body)


def _is_written(kind: str, body: bytes) -> bool:
    """Whether Python has a value of the kind that is encoded so."""
    text = body.decode()
    try:
        if kind == "date":
            return date.fromisoformat(text).isoformat() == text
        if kind == "time":
            return time.fromisoformat(text).isoformat() == text
        datetime(1970, 1, 1, tzinfo=UTC) + int(text) * _MICROSECOND
    except (ValueError, OverflowError):
        return False
    return True


async def test_own_keys_are_read_back(session: asyncpg.Connection) -> None:
    await session.execute("CREATE TYPE mood AS ENUM ('glad', '王 ''a'''); SET jit = off")
    await session.execute("CREATE TABLE t (a text, b bigint, c date, d mood, e varchar(9))")
    rows = [
        ("a", 7, date(2026, 1, 2), "glad", "é"),
        ("", -(2**63), date(1, 1, 2), "王 'a'", ""),
        ("a" * 300, 0, date(9999, 12, 30), "glad", "王" * 9),
    ]
    await session.execute("CREATE TABLE l (n int, row_key bytea)")
    for at, values in enumerate(rows):
        await session.execute("INSERT INTO t VALUES ($1, $2, $3, $4, $5)", *values)
        await session.execute("INSERT INTO l VALUES ($1, $2)", at, encode_values(values))
    columns = await columns_of(session)
    for some in (columns, columns[:1], columns[1:3]):
        places = [columns.index(column) for column in some]
        await session.execute("DELETE FROM l WHERE n < 0 OR row_key IS NULL")
        for at, values in enumerate(rows):
            key = encode_values([values[place] for place in places])
            await session.execute("UPDATE l SET row_key = $2 WHERE n = $1", at, key)
        # Made for other columns, or for no row.
        others = [(-1, encode_values(["x", "y"])), (-2, None), (-3, encode_values([True]))]
        await session.executemany("INSERT INTO l VALUES ($1, $2)", others)
        collations = dict(map(tuple, await session.fetch(COLLATIONS, "t")))
        key = decoded_key(some, "l.row_key", collations)
        assert key is not None
        match = " AND ".join(f"t.{c.name} = {own}" for c, own in zip(some, key, strict=True))
        found = await session.fetch(f"SELECT n, t.a FROM l LEFT JOIN t ON {match} ORDER BY n")
        assert [n for n, a in found if a is None] == [-3, -2, -1]
        assert [a for _, a in found if a is not None] == [values[0] for values in rows]
    await session.execute("CREATE TABLE u (a numeric)")
    assert decoded_key(list((await read_columns(session, "u")).values()), "l.row_key", {}) is None


@pytest.mark.parametrize("kind", ["text", 'text COLLATE "C"', "varchar(20)", "char(5)", "bigint"])
async def test_rows_are_found_by_the_index_of_their_keys(
    session: asyncpg.Connection, kind: str
) -> None:
    await session.execute(
        f"CREATE TABLE t (a {kind} PRIMARY KEY, b text); CREATE TABLE l (row_key bytea); "
        "INSERT INTO t SELECT n, n FROM generate_series(1, 5000) n; "
        "INSERT INTO l VALUES ('\\x00'); ANALYZE t; ANALYZE l"
    )
    columns = [(await read_columns(session, "t"))["a"]]
    collations = dict(map(tuple, await session.fetch(COLLATIONS, "t")))
    (own,) = decoded_key(columns, "l.row_key", collations) or ()
    found = await session.fetch(f"EXPLAIN SELECT FROM l, t WHERE t.a = {own}")
    plan = " ".join(line for (line,) in found)
    assert "t_pkey" in plan
    assert "Seq Scan on t" not in plan


async def test_a_form_without_nulls_or_lengths_is_found_out(
    session: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(2026)
    await filled(session, COLUMNS, [row(chance) for _ in range(200)])
    columns = await columns_of(session)
    head, lengths = postgres_encoded._head, postgres_encoded._lengths
    mistakes: list[tuple[str, Any]] = [
        ("_head", lambda values: head([v._replace(null="") for v in values])),
        ("_lengths", lambda told: lengths(["0"] * len(told))),
        ("_micros", lambda name, staged: ("16", f"extract(epoch FROM {name})::bigint::text")),
    ]
    for name, mistake in mistakes:
        with monkeypatch.context() as planted:
            planted.setattr(postgres_encoded, name, mistake)
            assert any(a != b for a, b in await told(session, columns)), name

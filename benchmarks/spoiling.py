"""Spoils a copy in PostgreSQL by SQL, in every way that a proof has a word for.

Rows are named by their numbers (`n`, as the clerk counts them) and lie far apart, none in the
second half of the register, where the traffic is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from benchmarks import county
from benchmarks.town import COPY
from deptbus.wire.digest import encode_values

# What the copy has no column for by itself: a dense number by which rows are found.
NUMBERED = (
    f"ALTER TABLE {COPY} ADD COLUMN n bigint GENERATED ALWAYS AS "
    "(substr(household_id, 2)::bigint) STORED",
    f"CREATE UNIQUE INDEX ON {COPY} (n)",
)
EXTRA_FIRST = 900_000_000  # numbers of rows that nobody delivered
NEVER = 1 << 60  # microseconds
_OTHER = "decode(md5(encode(key, 'hex')), 'hex')"
_LINES = f"dataset = '{county.DATASET}' AND key = ANY($1::bytea[])"
# What is done to lines of the bookkeeping -> the class that comes of it.
_TO_LINES = {
    "stale": "version = version - 1",
    "wrong": f"delivered = {_OTHER}",
    "unentitled": f"fields = fields || ',phone', delivered = {_OTHER}",
    "parked": (
        "parked = 'value: copies.address: put there by hand', parked_since_us = 1, "
        f"retry_at_us = {NEVER}"
    ),
    "claimed": "held = false, written = NULL",
}
# What is done to a row: two ways to be missing, and one row that somebody typed into.
_KINDS = ("line_gone", "row_gone", "edited", *_TO_LINES)
WAYS = len(_KINDS) + 2  # a stranger, and the record in whose favour a row is claimed


@dataclass(slots=True)
class Spoilt:
    """`keys`: class -> the bus's keys in hexadecimal. `strangers`: rows whose keys nobody knows."""

    keys: dict[str, set[str]] = field(default_factory=dict)
    strangers: int = 0
    numbers: set[int] = field(default_factory=set)

    @property
    def by_class(self) -> dict[str, int]:
        found = Counter({word: len(keys) for word, keys in self.keys.items()})
        found["extra"] += self.strangers
        return dict(found)

    def add(self, word: str, keys: Sequence[bytes]) -> None:
        self.keys.setdefault(word, set()).update(key.hex() for key in keys)


def numbers_of(rows: int, each: int) -> Mapping[str, list[int]]:
    """Kind -> numbers."""
    step = rows // 2 // (each * len(_KINDS))
    return {
        kind: [(at * len(_KINDS) + place) * step for at in range(each)]
        for place, kind in enumerate(_KINDS)
    }


async def keys_of(c: asyncpg.Connection, numbers: Sequence[int]) -> list[bytes]:
    """The bus's keys of these rows."""
    found = await c.fetch(f"SELECT resident_id FROM {COPY} WHERE n = ANY($1::bigint[])", numbers)
    rows = [encode_values((row[0],)) for row in found]
    lines = await c.fetch(
        "SELECT key FROM deptbus.ledger WHERE row_key = ANY($1::bytea[]) AND row_key IS NOT NULL",
        rows,
    )
    return [bytes(line[0]) for line in lines]


async def spoil(c: asyncpg.Connection, rows: int, each: int) -> Spoilt:
    """`each` rows in each of WAYS ways."""
    spoilt = Spoilt(strangers=each)
    chosen = numbers_of(rows, each)
    keys = {kind: await keys_of(c, numbers) for kind, numbers in chosen.items()}
    spoilt.numbers = {n for numbers in chosen.values() for n in numbers}
    await _put_strangers(c, each)
    gone = [*chosen["line_gone"], *chosen["row_gone"]]
    await c.execute(f"DELETE FROM {COPY} WHERE n = ANY($1::bigint[])", gone)
    await c.execute(f"DELETE FROM deptbus.ledger WHERE {_LINES}", keys["line_gone"])
    spoilt.add("missing", [*keys["line_gone"], *keys["row_gone"]])
    await c.execute(
        f"UPDATE {COPY} SET address = address || '!' WHERE n = ANY($1::bigint[])", chosen["edited"]
    )
    spoilt.add("edited_locally", keys["edited"])
    spoilt.add("extra", await _put_claimants(c, keys["claimed"]))
    for word, change in _TO_LINES.items():
        await c.execute(f"UPDATE deptbus.ledger SET {change} WHERE {_LINES}", keys[word])
        spoilt.add(word, keys[word])
    await c.execute(f"ANALYZE {COPY}")
    return spoilt


async def _put_strangers(c: asyncpg.Connection, each: int) -> None:
    """Rows that no record stands for."""
    made = {
        "resident_id": "'X' || n",
        "household_id": f"'H' || ({EXTRA_FIRST} - 1 + row_number() OVER (ORDER BY n))",
    }
    values = ", ".join(made.get(name, name) for name in county.MOST)
    await c.execute(
        f"INSERT INTO {COPY} ({', '.join(county.MOST)}) SELECT {values} FROM "
        f"(SELECT * FROM {COPY} ORDER BY n LIMIT {each}) AS first_ones"
    )


async def _put_claimants(c: asyncpg.Connection, keys: Sequence[bytes]) -> list[bytes]:
    """Lines of records that the bus does not know; each holds the row of one of `keys`."""
    columns = [
        row[0]
        for row in await c.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'deptbus.ledger'::regclass "
            "AND attnum > 0 AND NOT attisdropped"
        )
    ]
    # A lesser key: of several claimants it is the one that holds the row.
    other = "decode('00000000' || substr(md5(encode(key, 'hex')), 1, 24), 'hex')"
    values = ", ".join(other if name == "key" else name for name in columns)
    made = await c.fetch(
        f"INSERT INTO deptbus.ledger ({', '.join(columns)}) SELECT {values} FROM deptbus.ledger "
        f"WHERE {_LINES} RETURNING key",
        keys,
    )
    return [bytes(row[0]) for row in made]


def named_otherwise(spoilt: Spoilt, output: str) -> str:
    """What a document of `deptbus reconcile` names otherwise than it is; nothing when it is right,
    key by key."""
    told = json.loads(output)
    found: dict[str, set[str]] = {}
    for one in told["keys"]:
        found.setdefault(one["class"], set()).add(one["key"])
    counts = {word: count for word, count in told["by_class"].items() if count}
    if counts != spoilt.by_class:
        return f"named are {counts}, and {spoilt.by_class} differ"
    for word in found.keys() | spoilt.keys.keys():
        right, mine = spoilt.keys.get(word, set()), found.get(word, set())
        if right - mine or len(mine - right) != (spoilt.strangers if word == "extra" else 0):
            return f"{len(right - mine)} of {word} are not named, {len(mine - right)} wrongly"
    return ""

"""Plain records into PostgreSQL: one binary COPY into a temporary table, two statements from there.

Rows arrive as bytes that `form` made of the delivery's own; the ledger's columns that many records
have in common come as arrays, by the place that each staged row names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from struct import Struct

import asyncpg

from deptbus.department.bookkeeping import (
    COLUMN_LIST,
    ENTRY_COLUMNS,
    POSTGRES_TYPES,
    UPDATED_COLUMNS,
    entry_types,
    newer_lines,
)
from deptbus.department.plain import Lot, Terms
from deptbus.department.postgres_binary import COPY_END, COPY_HEAD

_OWN = (
    "term int, key bytea, version bigint, source_time_us bigint, delivered bytea, written bytea, "
    "record bytea, row_key bytea"
)
_FIELDS_BEFORE = 8
# Field count; then length and value of each of `_OWN` up to the record, whose length comes last.
_HEAD = Struct(">Hiii16siqiqi16si16si").pack
_TERM_TYPES = {"policy": "bigint", "schema_version": "bigint"}
_STATED = {
    "op": "'upsert'",
    "held": "true",
    "parked": "NULL",
    "parked_since_us": "NULL",
    "attempts": "0",
    "retry_at_us": "NULL",
}


class PlainStage:
    """The temporary table of one dataset; empty again with every commit."""

    def __init__(self, number: int, columns: Iterable[tuple[str, str]]) -> None:
        self.name = f"deptbus_stage_{number}"
        values = ", ".join(f"{column} {kind}" for column, kind in columns)
        self._make = (
            f"CREATE TEMP TABLE IF NOT EXISTS {self.name} ({_OWN}, {values}) ON COMMIT DELETE ROWS"
        )
        self._fields = _FIELDS_BEFORE + values.count(", ") + 1
        self._made = False

    async def make(self, connection: asyncpg.Connection) -> None:
        """Outside of a transaction that may be taken back."""
        if not self._made:
            await connection.execute(self._make)
            self._made = True

    def pack(self, lot: Lot) -> bytes:
        """The lot as COPY takes it."""
        count = self._fields
        parts: list[bytes] = [COPY_HEAD]
        for one, place in zip(lot.plain, lot.places, strict=True):
            row, key, version, time, record, delivered, written, payload, _ = one
            parts.append(
                _HEAD(
                    count, 4, place + 1, 16, key, 8, version, 8, time, 16, delivered, 16, written,
                    len(record),
                )
            )  # fmt: skip
            parts += (record, len(row).to_bytes(4, "big"), row, payload)
        parts.append(COPY_END)
        return b"".join(parts)

    async def fill(self, connection: asyncpg.Connection, packed: bytes) -> None:
        async def whole() -> AsyncIterator[bytes]:
            # A file is read in a thread, which waits for the interpreter's lock while other batches
            # are prepared.
            yield packed

        await connection.copy_to_table(
            self.name, schema_name="pg_temp", source=whole(), format="binary"
        )

    def write_books(self, first: int) -> str:
        """The ledger's lines of all that is staged; the argument `first` is the time, those behind
        it are the columns of the terms."""
        return into_ledger(f"SELECT {_books_of(ENTRY_COLUMNS, first)} FROM {self.name} s")

    def renew_books(self, first: int) -> str:
        """As `write_books`, of those lines only that are older and hold the staged row."""
        columns = [c for c in UPDATED_COLUMNS if c not in ("row_key", "held")]
        values = _books_of(columns, first)
        return (
            f"UPDATE deptbus.ledger l SET ({', '.join(columns)}) = ROW({values}) "
            f"FROM {self.name} s WHERE l.dataset = {_of_terms('dataset', first)} "
            f"AND l.source_unit = {_of_terms('source_unit', first)} AND l.key = s.key "
            "AND l.version < s.version AND l.held AND l.row_key = s.row_key"
        )


def _of_terms(name: str, first: int) -> str:
    at = first + 1 + Terms._fields.index(name)
    return f"(${at}::{_TERM_TYPES.get(name, 'text')}[])[s.term]"


def _books_of(columns: Iterable[str], first: int) -> str:
    """These columns of the ledger for what is staged as `s`."""

    def source(column: str) -> str:
        if column in _STATED:
            return _STATED[column]
        if column == "applied_at_us":
            return f"${first}::bigint"
        return _of_terms(column, first) if column in Terms._fields else f"s.{column}"

    return ", ".join(map(source, columns))


def write_entries(first: int) -> str:
    """The ledger's lines as one array for each column, the arguments from `first` on."""
    arrays = ", ".join(f"${n}::{t}[]" for n, t in enumerate(entry_types(POSTGRES_TYPES), first))
    return into_ledger(f"SELECT * FROM unnest({arrays})")


def into_ledger(source: str) -> str:
    return (
        f"INSERT INTO deptbus.ledger ({COLUMN_LIST}) {source} "
        f"ON CONFLICT (dataset, source_unit, key) DO UPDATE SET {newer_lines('ledger')}"
    )


WRITE_ENTRIES = write_entries(1)


def along(books: str, write: str) -> str:
    """Both in one statement: rows and their ledger in one way there and back."""
    more = f", {write[5:]}" if write.startswith("WITH ") else f" {write}"
    return f"WITH books AS ({books}){more}"

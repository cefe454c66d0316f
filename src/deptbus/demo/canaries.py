"""Hunts the canaries: values of fields that are never shared must be in no place but their own.

A canary is a unique string; each source keeps its own in columns that no mapping may name. Searched
are the broker's files and every log as raw bytes, every other department's database and files, and
(by the witness, because batches are compressed on disk) every record of every topic.
"""

from __future__ import annotations

from collections.abc import Iterator

from deptbus.demo.county import CANARY, OWNER_DIGITS, County, Department, canary_owner

MARK = CANARY.encode()


def hunt(county: County) -> str | None:
    """The first place where a canary is that is not its own; None when there is none."""
    homes = {d.folder: canary_owner(unit).encode() for unit, d in county.departments.items()}
    for path in sorted(county.folder.rglob("*")):
        if not path.is_file() or path.is_relative_to(county.folder / "postgres" / "cluster"):
            continue
        home = next((homes[folder] for folder in path.parents if folder in homes), None)
        if any(owner != home for owner in _owners(path.read_bytes())):
            return str(path)
    for unit, department in county.departments.items():
        for table, text in _postgres_rows(department):
            if any(owner != homes[department.folder] for owner in _owners(text.encode())):
                return f"{unit}, table {table}"
    return None


def _owners(content: bytes) -> Iterator[bytes]:
    """Whose canaries are in some bytes (one that was cut is nobody's, so it counts as found)."""
    start = content.find(MARK)
    while start >= 0:
        start += len(MARK)
        yield content[start : start + OWNER_DIGITS]
        start = content.find(MARK, start)


def _postgres_rows(department: Department) -> Iterator[tuple[str, str]]:
    """Every row of every table of a department in PostgreSQL, as (table, text)."""
    if not department.database.startswith("postgresql://"):
        return
    desk = department.desk()
    tables = desk.rows(
        "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables "
        "WHERE table_schema IN ('public', 'deptbus') AND table_type = 'BASE TABLE'"
    )
    for (table,) in tables:
        for (text,) in desk.rows(f"SELECT x::text FROM {table} x"):
            yield table, text
    desk.close()

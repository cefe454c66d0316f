"""Hunts the canaries: values of fields that are never shared must be in no place but their own.

A canary is a unique string; each source keeps its own in columns that no mapping may name. Searched
are the broker's files and every log as raw bytes, every other department's database and files, and
(by the witness, because batches are compressed on disk) every record of every topic.
"""

from __future__ import annotations

from collections.abc import Iterator

from deptbus.demo.county import County, Department

MARK = b"canary-"


def hunt(county: County) -> str | None:
    """The first place where a canary is that is not its own; None when there is none."""
    owners = {c.encode(): unit for unit, own in county.canaries.items() for c in own}
    homes = {d.folder: unit for unit, d in county.departments.items()}
    for path in sorted(county.folder.rglob("*")):
        if not path.is_file() or path.is_relative_to(county.folder / "postgres" / "cluster"):
            continue
        home = next((homes[folder] for folder in path.parents if folder in homes), None)
        if any(owners.get(canary) != home for canary in _canaries(path.read_bytes())):
            return str(path)
    for unit, department in county.departments.items():
        for table, text in _postgres_rows(department):
            if any(owners.get(canary) != unit for canary in _canaries(text.encode())):
                return f"{unit}, table {table}"
    return None


def _canaries(content: bytes) -> Iterator[bytes]:
    """Every canary in some bytes (one that was cut is nobody's, so it counts as found)."""
    start = content.find(MARK)
    while start >= 0:
        yield content[start : start + len(MARK) + 16]
        start = content.find(MARK, start + 1)


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

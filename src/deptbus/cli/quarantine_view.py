"""How `deptbus quarantine` shows cases: a document for machines, tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deptbus.cli.options import instant
from deptbus.operations.parked import ParkedRecord, ParkedRows
from deptbus.operations.parked_desk import Outcome
from deptbus.operations.quarantine import Case, place_text
from deptbus.stream.quarantine import REASONS as STREAM_REASONS
from deptbus.wire.guard import REASONS as WIRE_REASONS


def document(case: Case) -> dict[str, Any]:
    """Unknown is null: of what could not be looked up nothing is claimed."""
    note, resolution = case.note, case.resolution
    return {
        "place": place_text(case.place),
        "last_offset": note.last_offset,
        "reason": note.reason,
        "owner": note.owner,
        "unit": case.unit or None,
        "dataset": note.dataset or None,
        "key": note.key.hex() if note.key is not None else None,
        "version": note.version,
        "since": instant(note.noted_at_us),
        "state": case.state.value,
        "superseded": case.superseded,
        "resolved": None
        if resolution is None
        else {
            "outcome": resolution.outcome,
            "by": resolution.operator,
            "at": instant(resolution.resolved_at_us),
            "reason": resolution.reason,
            "act": resolution.act,
            "request": resolution.request or None,
        },
    }


def parked_document(row: ParkedRows) -> dict[str, Any]:
    """Rows of one reason."""
    return {
        "unit": row.unit,
        "owner": row.owner,
        "system": row.system,
        "dataset": row.dataset,
        "reason": row.reason,
        "rows": row.rows,
        "told_at": instant(row.told_at_us),
    }


def record_document(row: ParkedRecord) -> dict[str, Any]:
    """One row, by its record's name on the bus."""
    return {
        "unit": row.unit,
        "owner": row.owner,
        "system": row.system,
        "dataset": row.dataset,
        "source_unit": row.source_unit,
        "key": row.key.hex(),
        "version": row.version,
        "reason": row.reason,
        "since": instant(row.parked_at_us),
        "attempts": row.attempts,
        "told_at": instant(row.told_at_us),
    }


def print_parked(groups: Sequence[ParkedRows], rows: Sequence[ParkedRecord], limit: int) -> None:
    """Nothing where there is nothing: most buses have none."""
    console = Console()
    if groups:
        table = Table(title="parked by recipients: their adapters try again by themselves")
        for head in ("unit", "dataset", "rows", "reason", "owner", "told"):
            table.add_column(head, overflow="fold")
        for group in groups[:limit]:
            cells = (group.unit, group.dataset, str(group.rows), group.reason, group.owner)
            table.add_row(*map(escape, (*cells, instant(group.told_at_us))))
        console.print(table)
        if len(groups) > limit:
            console.print(f"and {len(groups) - limit} more")
    if rows:
        table = Table(title="the parked rows that wait the longest")
        for head in ("unit", "dataset", "key", "reason", "since", "tried"):
            table.add_column(head, overflow="fold")
        for row in rows[:limit]:
            table.add_row(
                *map(escape, (row.unit, row.dataset, row.key.hex(), row.reason)),
                instant(row.parked_at_us),
                str(row.attempts),
            )
        console.print(table)
        if len(rows) > limit:
            console.print(f"and {len(rows) - limit} more")


def outcome_line(outcome: Outcome) -> str:
    """What came of a retry at one recipient."""
    place, told = f"{outcome.ask.unit}, {outcome.system}", outcome.told
    if told is None:
        return f"{place}: its adapter has not answered yet; it tries them when it runs"
    if not told.is_done:
        return f"{place}: {told.rows} rows are being tried"
    line = f"{place}: {told.rows} rows tried, {told.written} written, {told.still_parked} refused"
    overtaken = told.rows - told.written - told.still_parked
    return f"{line}, {overtaken} overtaken by newer ones" if overtaken else line


def print_cases(cases: Sequence[Case], limit: int, *, is_whole: bool) -> None:
    console = Console()
    if not cases:
        console.print("nothing")
    else:
        table = Table()
        for head in ("place", "reason", "unit", "owner", "key", "since", "state", "by"):
            table.add_column(head, overflow="fold")
        for case in cases[:limit]:
            table.add_row(*map(escape, _cells(case)))
        console.print(table)
    if len(cases) > limit:
        counts = Counter((case.unit, case.note.reason) for case in cases)
        console.print(f"{len(cases)} in all, of which {limit} are shown:")
        for (unit, reason), count in counts.most_common():
            console.print(f"  {count} {reason} {unit}", markup=False, highlight=False)
    if not is_whole:
        console.print("Not every canonical topic was read to its end: give more --seconds")


def _cells(case: Case) -> tuple[str, ...]:
    note = case.note
    return (
        place_text(case.place),
        note.reason,
        case.unit,
        note.owner,
        note.key.hex() if note.key is not None else "",
        instant(note.noted_at_us),
        case.state.value,
        case.resolution.operator if case.resolution is not None else "",
    )


def print_case(case: Case, record: dict[str, Any] | None) -> None:
    console = Console()

    def line(name: str, value: object) -> None:
        if value not in (None, "", []):
            console.print(f"{name:<16} {value}", markup=False, highlight=False)

    found = document(case)
    resolved = found.pop("resolved")
    for name, value in found.items():
        line(name, value)
    meaning = (WIRE_REASONS | STREAM_REASONS).get(case.note.reason)
    line("meaning", meaning)
    for name, value in (resolved or {}).items():
        line(f"resolved {name}", value)
    if record is None:
        line("record", "gone: retention or compaction has taken it")
        return
    change = record.pop("change", None) or {}
    fields = change.pop("fields", None) or {}
    for name, value in {**record, **change}.items():
        line(name, value)
    for name, value in fields.items():
        line(f"  {name}", value)

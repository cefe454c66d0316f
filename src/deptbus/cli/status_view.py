"""How `deptbus status` shows its document to people: red lines first, each with the next step."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Console

from deptbus.cli.hold import hold_line
from deptbus.cli.lag_view import UNKNOWN, duration, number, verdict
from deptbus.contract.model import Hold
from deptbus.operations.advice import HELD_PAGE, PROOFS_PAGE
from deptbus.operations.proofs import NEEDS_A_PERSON, ProofState
from deptbus.operations.stages import Stage

_NAMES_SHOWN = 6
_REASONS_SHOWN = 3
_RED_SHOWN = 7  # three lines each: it has to be one screen


def status_screen(document: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    counts = ", ".join(f"{count} {word}" for word, count in sorted(document["units"].items()))
    heading = {0: "all is well", 1: "something needs a person", 2: "it could not be told"}
    console.print(f"{document['at']}  {heading[document['exit_code']]}  ({counts})")
    for row in document["red"][:_RED_SHOWN]:
        _red(console, row)
    if len(document["red"]) > _RED_SHOWN:
        more = len(document["red"]) - _RED_SHOWN
        console.print(f"[bold]and {more} more[/]  type `deptbus lag --only-bad`")
    for row in document["parked"]:
        _parked(console, row)
    _late(console, document.get("late", ()))
    _notes(console, document.get("quarantine", ()))
    _proofs(console, document.get("proofs", ()))
    if document["closed"]:
        shown = ", ".join(row["unit"] for row in document["closed"][:_NAMES_SHOWN])
        more = len(document["closed"]) - _NAMES_SHOWN
        console.print(f"closed  {shown}{f' and {more} more' if more > 0 else ''}")
    _not_joined(console, document["not_joined"])
    for hold in document["holds"]:
        line = hold_line(Hold.model_validate(hold))
        console.print(f"{line}; `deptbus resume` lets them go on", markup=False)
    if not document["is_whole"]:
        console.print("A broker did not answer: the groups that it has may be missing here.")


def _red(console: Console, row: dict[str, Any]) -> None:
    what = f"{verdict(row['verdict'])} at {row['stage']} since {row['since']}"
    lag = f"{duration(row['lag_seconds'])}, {number(row['lag_records'])} records"
    reason = f", {row['reason']}" if row["reason"] else ""
    console.print(f"[bold]{row['unit']}[/]  {what}  ({lag}{reason})")
    console.print(f"    ring {row['owner']}; {row['advice']}")
    console.print(f"    {_safe(row['safe_until'])}")


def _parked(console: Console, row: dict[str, Any]) -> None:
    where = "their source" if row["stage"] == Stage.OUTBOX else "their recipient"
    console.print(
        f"[yellow]{row['unit']}[/]  {row['rows']} rows are parked at {where}; ring "
        f"{row['owner']}; type `deptbus department status --config FILE`"
    )
    for one in row["reasons"][:_REASONS_SHOWN]:
        line = f"    {one['rows']} of {one['dataset']}: {one['reason']}"
        console.print(line, markup=False)


def _late(console: Console, rows: list[dict[str, Any]] | None) -> None:
    if rows is None:
        console.print(f"whether sources keep their promises: {UNKNOWN}")
        return
    for row in rows[:_RED_SHOWN]:
        since = "never refreshed" if row["due"] is None else f"since {row['due']}"
        console.print(
            f"[yellow]{row['unit']}[/]  {row['dataset']} is {row['state']}, {since}; ring "
            f"{row['owner']}; {row['advice']}"
        )
    if len(rows) > _RED_SHOWN:
        console.print(f"[bold]and {len(rows) - _RED_SHOWN} more[/]  type `deptbus freshness`")


def _notes(console: Console, rows: list[dict[str, Any]] | None) -> None:
    if rows is None:
        console.print(f"what was not accepted: {UNKNOWN}")
        return
    for row in rows[:_RED_SHOWN]:
        unit = row["unit"] or "of nobody known"
        asked = f", {row['resend_asked']} asked to be resent" if row["resend_asked"] else ""
        console.print(
            f"[yellow]{unit}[/]  {row['open']} notes of quarantine are open{asked}, since "
            f"{row['since']}; ring {row['owner']}; type `deptbus quarantine ls`"
        )
    if len(rows) > _RED_SHOWN:
        console.print(f"[bold]and {len(rows) - _RED_SHOWN} more[/]  type `deptbus quarantine ls`")


def _proofs(console: Console, rows: list[dict[str, Any]] | None) -> None:
    """One line for those that are equal; one for each that needs a person."""
    if rows is None:
        console.print(f"what was proved: {UNKNOWN}")
        return
    bad = [row for row in rows if row["state"] in NEEDS_A_PERSON]
    for row in bad[:_RED_SHOWN]:
        console.print(
            f"[yellow]{row['unit']}[/]  {row['dataset']} as {row['leg']}: {_proof(row)}; type "
            f"`deptbus reconcile --unit {row['unit']} --dataset {row['dataset']} "
            f"--leg {row['leg']}`. See "
            f"{HELD_PAGE if row['state'] == ProofState.HELD else PROOFS_PAGE}"
        )
    if len(bad) > _RED_SHOWN:
        console.print(f"[bold]and {len(bad) - _RED_SHOWN} more[/] that differ or are not proved")
    equal = [row for row in rows if row["state"] == ProofState.EQUAL]
    if equal:
        oldest = max(row["age_seconds"] for row in equal)
        console.print(
            f"proved equal  {len(equal)} of {len(rows)} tables, the oldest {duration(oldest)} ago"
        )


def _proof(row: dict[str, Any]) -> str:
    if row["age_seconds"] is None:
        return "was never proved"
    ago = f"{duration(row['age_seconds'])} ago"
    if row["state"] == ProofState.LATE:
        return f"was proved {ago}"
    if row["state"] == ProofState.HELD:
        return f"{row['held']} removals are held at the source, as was seen {ago}"
    named = ", ".join(f"{count} {name}" for name, count in sorted(row["by_class"].items()) if count)
    return f"{row['differences']} differences {ago} ({named})"


def _not_joined(console: Console, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    shown = ", ".join(row["unit"] for row in rows[:_NAMES_SHOWN])
    more = f" and {len(rows) - _NAMES_SHOWN} more" if len(rows) > _NAMES_SHOWN else ""
    until = [row["safe_until"] for row in rows]
    first = min((u for u in until if u not in (None, "for_ever")), default=None)
    console.print(f"[yellow]never began[/]  {shown}{more}: what waits for them is kept")
    console.print(f"    {_safe(first)}; type `deptbus department run --config FILE` there")


def _safe(until: str | None) -> str:
    if until is None:
        return f"until when it is safe to wait: {UNKNOWN}"
    if until == "for_ever":
        return "nothing is lost by waiting"
    local = datetime.fromisoformat(until).astimezone()
    return f"it is safe to wait until {local:%Y-%m-%d %H:%M}"

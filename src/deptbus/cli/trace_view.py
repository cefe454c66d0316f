"""How `deptbus trace` shows a record's way: a document for machines, tables for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deptbus.cli.options import instant
from deptbus.operations.trace import Arrival, Seen, Trace, Version

_STAGES = {
    "intake": "waits in its outbox for intake",
    "routing": "waits in the canonical topic for the agents",
    "inbox": "waits in the inbox for the adapter",
    "held": "is held back",
    "missing": "was not delivered, or its delivery is gone: a job may be due",
    "quarantine": "was refused and not replaced",
}


def document(found: Trace) -> dict[str, Any]:
    """Names of fields and no values; unknown is null."""
    return {
        "dataset": found.dataset,
        "key": found.key.hex(),
        "versions": [_version(version) for version in found.versions],
        "deliveries": [_arrival(arrival) for arrival in found.arrivals],
        "waits": [asdict(wait) for wait in found.waits],
        "not_looked_at": found.not_looked_at,
    }


def _version(version: Version) -> dict[str, Any]:
    change = version.change
    return {
        "source_unit": change.source_unit,
        "version": change.version,
        "op": change.op.value,
        "reason": change.reason.value if change.reason is not None else None,
        "source_time": instant(change.source_time_us),
        "cause": change.cause.value,
        "job": change.job,
        "policy": change.policy,
        "out": _seen(version.out),
        "data": _seen(version.data),
        "refused": version.refused,
    }


def _arrival(arrival: Arrival) -> dict[str, Any]:
    received = arrival.received
    return {
        "unit": arrival.unit,
        "source_unit": received.source_unit,
        "version": received.version,
        "policy": received.policy,
        "op": received.op.value,
        "direction": received.direction.value,
        "rule": received.rule,
        "grants": list(received.grants),
        "fields": list(received.fields),
        "cause": received.cause.value,
        "job": received.job,
        "in": _seen(arrival.seen),
    }


def _seen(seen: Seen | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return {
        "place": f"{seen.topic}/{seen.partition}/{seen.offset}",
        "at": instant(seen.written_at_ms * 1000),
        "is_read": seen.is_read,
    }


def print_trace(found: Trace) -> None:
    console = Console()
    console.print(f"{found.dataset} {found.key.hex()}", markup=False, highlight=False)
    if found.versions:
        console.print(_versions(found))
    else:
        console.print("no version is left on the bus")
    if found.arrivals:
        console.print(_deliveries(found))
    for wait in found.waits:
        whose = f"{wait.unit}: " if wait.unit else ""
        why = f" ({wait.why})" if wait.why else ""
        line = f"{whose}version {wait.version} {_STAGES[wait.stage]}{why}"
        console.print(line, markup=False, highlight=False)
    if found.not_looked_at:
        topics = ", ".join(found.not_looked_at)
        console.print(f"not looked at, or not to the end: {topics}", markup=False, highlight=False)
    elif found.versions and not found.waits:
        console.print("it waits nowhere")


def _versions(found: Trace) -> Table:
    table = Table(title="versions", title_justify="left")
    for head in ("version", "source", "op", "at", "cause", "policy", "state"):
        table.add_column(head, overflow="fold")
    for version in found.versions:
        change = version.change
        state = "accepted" if version.data is not None else "no longer in the canonical topic"
        if version.data is None and version.out is not None and not version.out.is_read:
            state = "not taken in yet"
        state = f"refused: {version.refused}" if version.refused else state
        cells = (
            str(change.version),
            change.source_unit,
            change.op.value,
            instant(change.source_time_us),
            change.cause.value,
            str(change.policy),
            state,
        )
        table.add_row(*map(escape, cells))
    return table


def _deliveries(found: Trace) -> Table:
    table = Table(title="deliveries", title_justify="left")
    for head in ("unit", "version", "op", "direction", "by", "fields", "at", "read"):
        table.add_column(head, overflow="fold")
    for arrival in found.arrivals:
        received = arrival.received
        cells = (
            arrival.unit,
            str(received.version),
            received.op.value,
            received.direction.value,
            ", ".join((received.rule, *received.grants)),
            ", ".join(received.fields),
            instant(arrival.seen.written_at_ms * 1000),
            {True: "yes", False: "not yet", None: "not known"}[arrival.seen.is_read],
        )
        table.add_row(*map(escape, cells))
    return table

"""How `deptbus department status` shows one system: a document for machines, a table for people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from deptbus.contract.department import Department


_PUBLISHING_WORDS = {
    "stalled": "publishing has stalled",
    "stopped": "publishing was stopped",
    "not_seen": "its adapter does not run",
    "never_seen": "its adapter has never run",
}


async def document(department: Department, system: str) -> dict[str, Any]:
    """What one system's database knows, source side and recipient side.

    Unknown is null, never zero: a side that is not in use is absent.
    """
    from deptbus.department.install import source_status
    from deptbus.department.pressure import pressure_of
    from deptbus.department.recipient_status import recipient_status

    settings = department.systems[system]
    found: dict[str, Any] = {"system": system}
    if settings.publishes:
        source = await source_status(department, system)
        capture = source.capture
        pressure = pressure_of(capture, time.time_ns() // 1000)
        found["source"] = {
            "installed": capture.installed,
            "publishes": sorted(settings.publishes),
            "incarnation": source.incarnation,
            "publication": capture.publication,
            "version": capture.version,
            "outbox_rows": capture.outbox_rows,
            "oldest_age_seconds": capture.oldest_age_seconds,
            "outbox_cap_rows": capture.cap_rows,
            "outbox_room_rows": capture.room_rows,
            "outbox_cap_mib": capture.cap_kib // 1024,
            "outbox_mib": capture.outbox_kib // 1024,
            "outbox_fill_percent": pressure.fill_percent,
            "publishing": {
                "state": pressure.publishing,
                "reason": pressure.reason,
                "since_seconds": pressure.since_seconds,
                "seen_seconds_ago": pressure.seen_seconds_ago,
            },
            "held": dict(capture.pulse.held) if capture.pulse is not None else {},
            "wanted": capture.wanted,
            "parked": dict(capture.parked),
            "resync_needed": capture.gave_way > 0,
            "captures_missed": capture.gave_way,
            "held_removals": [asdict(hold) for hold in capture.holds],
            "snapshots": [asdict(snapshot) for snapshot in capture.snapshots],
            "findings": [finding._asdict() for finding in pressure.findings],
        }
    if settings.receives:
        found["receives"] = [
            {**d._asdict(), "parked": dict(d.parked), "today": dict(d.today), "kept": dict(d.kept)}
            for d in await recipient_status(department, system)
        ]
    return found


async def holds_of(
    department: Department, data: Path | None, bootstrap: str | None, client_file: Path | None
) -> list[dict[str, Any]] | str:
    """What is held back from the unit by the policy in force, or why the bus does not say."""
    from deptbus.cli.options import connect
    from deptbus.errors import DeptbusError
    from deptbus.stream.policies import read_policies

    received = {d for system in department.systems.values() for d in system.receives}
    try:
        policy = (await read_policies(connect(data, bootstrap, client_file))).current()
    except DeptbusError as error:
        return str(error)
    return [
        hold.model_dump(mode="json")
        for hold in policy.holds
        if hold.unit == department.unit or hold.dataset in received
    ]


def print_holds(holds: Sequence[Mapping[str, Any]] | str) -> None:
    from deptbus.cli.hold import hold_line
    from deptbus.contract.model import Hold

    if isinstance(holds, str):
        print(f"whether deliveries are held back is not known: {holds}")
        return
    for hold in holds:
        print(hold_line(Hold.model_validate(hold)))


def is_well(system: Mapping[str, Any]) -> bool:
    """Nothing parked, nothing found wrong with the outbox, and capture installed where something is
    published."""
    source = system.get("source")
    if source is not None and (not source["installed"] or source["parked"] or source["findings"]):
        return False
    return not any(d["parked"] or d.get("waits_for_join") for d in system.get("receives", ()))


def _has_parked(system: Mapping[str, Any]) -> bool:
    source = system.get("source")
    sides = [*([source] if source else []), *system.get("receives", ())]
    return any(side["parked"] for side in sides)


def print_status(unit: str, systems: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=unit, title_justify="left")
    for head in ("system", "side", "dataset", "state"):
        table.add_column(head, overflow="fold")
    for system in systems:
        source = system.get("source")
        if source is not None:
            table.add_row(
                system["system"], "source", ", ".join(source["publishes"]), _source_line(source)
            )
        for dataset in system.get("receives", ()):
            words = [f"{dataset['rows']} rows"]
            if dataset["waiting"]:
                words.append(f"{dataset['waiting']} waiting for their row")
            words += [f"{n} parked: {reason}" for reason, n in dataset["parked"].items()]
            if dataset.get("waits_for_join"):
                words.append("its table had rows: `deptbus department compare`, then `join`")
            words += [
                f"own values of {rows} rows kept ({origin}): `deptbus department kept`"
                for origin, rows in sorted(dataset.get("kept", {}).items())
            ]
            table.add_row(system["system"], "recipient", dataset["dataset"], "; ".join(words))
        if system.get("receives") == []:
            table.add_row(system["system"], "recipient", "", "nothing yet: its adapter has not run")
    console = Console()
    console.print(table)
    for system in systems:
        for finding in system.get("source", {}).get("findings", ()):
            sentence = ". ".join(filter(None, (finding["what"], finding["mend"])))
            console.print(
                f"{system['system']}: {sentence}", markup=False, highlight=False, soft_wrap=True
            )
    if any(map(_has_parked, systems)):
        console.print(
            "Which rows are parked, and what to do: docs/contract.md, section 'Parked rows'"
        )


def _source_line(source: Mapping[str, Any]) -> str:
    if not source["installed"]:
        return "not installed: run `deptbus department install`"
    if source["publishing"]["state"] == "not_known":
        return "installed by an older deptbus"
    words = [f"publication {source['publication']}", f"{source['outbox_rows']} rows wait"]
    age = source["oldest_age_seconds"]
    if age is not None:
        words.append(f"the oldest for {age:.0f} s")
        words.append(f"{source['outbox_fill_percent']:g} % of the outbox is used")
    words += [f"{n} parked: {reason}" for reason, n in source["parked"].items()]
    if source["resync_needed"]:
        words.append(f"capture gave way {source['captures_missed']} times: resync needed")
    words += [
        f"{h['keys']} removals of {h['dataset']} are held: hold {h['number']}"
        for h in source["held_removals"]
    ]
    publishing = source["publishing"]
    if publishing["state"] in _PUBLISHING_WORDS:
        words.append(_PUBLISHING_WORDS[publishing["state"]])
    words += [f"snapshot of {s['dataset']} open" for s in source["snapshots"] if not s["done"]]
    return "; ".join(words)

"""How `deptbus contract` prints: tables for people, one document for machines."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from deptbus.cli.hold import hold_line
from deptbus.connection import Connection
from deptbus.contract.model import Contract, Policy, Sharing
from deptbus.errors import Problem
from deptbus.operations.activation import JobsState, Proposal, follow_jobs
from deptbus.operations.rights import Rights, RightsChange

_QUIET_SECONDS = 10.0  # a job that sends reports every two seconds
_WIDE = 160  # of what is piped into a file or another program


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


# -- check ----------------------------------------------------------------------------------------


def print_summary(contract: Contract) -> None:
    table = _table("", "dataset", "published by", "units", "fields", "classes", "rules", "grants")
    for name, dataset in contract.datasets.items():
        units = [u.unit for u in contract.units if contract.may_publish(u.unit, name)]
        classes = Counter(dataset.sharing.values())
        table.add_row(
            name,
            dataset.line,
            str(len(units)),
            str(len(contract.field_names(name))),
            ", ".join(f"{classes[s]} {s.value}" for s in Sharing if classes[s]),
            str(len(dataset.receivers)),
            str(sum(1 for g in contract.grants if g.dataset == name)),
        )
    out = console()
    out.print(table)
    out.print(
        f"right: datasets {len(contract.datasets)}, lines {len(contract.lines)}, "
        f"units {len(contract.units)}, grants {len(contract.grants)}; "
        f"digest {contract.digest[:16]}"
    )


def print_advice(hints: Iterable[Problem]) -> None:
    """What is allowed but does nothing; on stderr, as it is no part of the answer."""
    for hint in hints:
        print(f"note: {hint}", file=sys.stderr)


# -- show -----------------------------------------------------------------------------------------


def print_units(policy: Policy, rights: list[Rights]) -> None:
    table = _table(_title(policy), "unit", "name", "publishes", "receives")
    for one in rights:
        received: dict[str, set[str]] = defaultdict(set)
        for flow in one.receives:
            received[flow.dataset].add(flow.direction.value)
        unit = policy.contract.unit_by_name[one.unit]
        table.add_row(
            one.unit,
            f"{unit.title} {unit.title_zh}",
            ", ".join(one.publishes) or "-",
            "; ".join(f"{d} ({', '.join(sorted(by))})" for d, by in received.items()) or "-",
        )
    console().print(table)
    _print_holds(policy)


def _print_holds(policy: Policy, unit: str = "") -> None:
    """Those of the policy; of `unit`, those that it feels."""
    for hold in policy.holds:
        if not unit or hold.unit in ("", unit):
            console().print(hold_line(hold), markup=False)


def print_rights(policy: Policy, rights: Rights) -> None:
    unit = policy.contract.unit_by_name[rights.unit]
    out = console()
    out.print(f"{rights.unit}  {unit.title} {unit.title_zh}  ({_title(policy)})", markup=False)
    out.print(f"publishes: {', '.join(rights.publishes) or 'nothing'}", markup=False)
    received = _table(
        "receives", "dataset", "direction", "rule", "fields", "places", "from", "until"
    )
    for flow in rights.receives:
        rule = flow.rule if flow.grant in (None, flow.rule) else f"{flow.rule} + {flow.grant}"
        received.add_row(
            flow.dataset,
            flow.direction.value,
            rule,
            ", ".join(flow.fields),
            flow.places,
            ", ".join(flow.source_units),
            flow.until or "-",
        )
    out.print(received)
    _print_holds(policy, rights.unit)
    withheld = _table("does not receive", "dataset", "fields", "why")
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in rights.withheld:
        grouped[one.dataset, one.sentence].append(one.field)
    for (dataset, sentence), fields in grouped.items():
        withheld.add_row(dataset, ", ".join(fields), escape(sentence))
    out.print(withheld)


def rights_document(policy: Policy, rights: Rights) -> dict[str, Any]:
    """What `-o json` prints of one unit."""
    return {
        "policy": policy.number or None,
        "digest": policy.contract.digest,
        "unit": rights.unit,
        "publishes": list(rights.publishes),
        "receives": [asdict(flow) | {"places": flow.places} for flow in rights.receives],
        "withheld": [asdict(one) for one in rights.withheld],
        "holds": [
            hold.model_dump(mode="json") for hold in policy.holds if hold.unit in ("", rights.unit)
        ],
    }


def _title(policy: Policy) -> str:
    if not policy.number:
        return "not in force: from files"
    return f"policy {policy.number}, in force since {policy.activated_at:%Y-%m-%d %H:%M} UTC"


# -- activate -------------------------------------------------------------------------------------


def print_changes(proposal: Proposal) -> None:
    out = console()
    old = "none" if proposal.old is None else str(proposal.old.number)
    out.print(f"policy {old} -> {proposal.new.number}")
    if not proposal.changes:
        out.print("nobody newly receives or loses anything")
        return
    table = _table("", "unit", "dataset", "direction", "newly receives", "loses")
    for change in proposal.changes:
        table.add_row(
            change.unit,
            change.dataset,
            change.direction.value,
            _fields(change.gained, change.gained_scope),
            _fields(change.lost, change.lost_scope),
        )
    out.print(table)
    out.print(_count(proposal.changes))


def _fields(fields: tuple[str, ...], scopes: tuple[str, ...]) -> str:
    lines = [", ".join(fields)] if fields else []
    return escape("\n".join([*lines, *scopes])) or "-"


def _count(changes: tuple[RightsChange, ...]) -> str:
    gain = {c.unit for c in changes if c.gained or c.gained_scope}
    lose = {c.unit for c in changes if c.lost or c.lost_scope}
    return f"units that receive more: {len(gain)}; that lose something: {len(lose)}"


class JobsView:
    """Shows how the jobs go: bars on a terminal, a line for each change elsewhere."""

    def __init__(self) -> None:
        self._console = console()
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}"),
            console=self._console,
            disable=not sys.stdout.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, str] = {}

    def __enter__(self) -> JobsView:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, state: JobsState) -> None:
        for unit in state.due:
            self._show_unit(unit, state)
        for unit in set(self._tasks) - set(state.due):
            self._tell(unit, "done", done=True)
        if not state.due:
            self._console.print("every recipient is brought up to the policy")

    def _show_unit(self, unit: str, state: JobsState) -> None:
        progress = state.progress.get(unit)
        if progress is None or progress.state == "waiting":
            if state.awaited_agents is None:
                told = "waits: no worker is running"
            elif state.awaited_agents:
                told = f"waits for {len(state.awaited_agents)} worker(s) to take up the policy"
            else:
                told = "waits for its turn"
        else:
            told = f"{progress.state}, {progress.sent} sent, {progress.withdrawn} withdrawn"
            if time.time() - progress.updated_at_us / 1e6 > _QUIET_SECONDS:
                told += "; waits for the recipient's adapter"
        self._tell(unit, told, done=False)

    def _tell(self, unit: str, told: str, *, done: bool) -> None:
        if unit not in self._tasks:
            self._tasks[unit] = self._progress.add_task(unit, total=None, told="")
        if self._last.get(unit) == told:
            return
        self._last[unit] = told
        if done:
            self._progress.update(self._tasks[unit], total=1, completed=1)
        self._progress.update(self._tasks[unit], told=told)
        if self._progress.disable:
            self._console.print(f"{unit}: {told}", markup=False)


async def wait_for_recipients(connection: Connection) -> None:
    """Shows how the jobs stand until none is due; does them where no operations process runs."""
    with JobsView() as view:
        async for state in follow_jobs(connection):
            view.show(state)

"""How `deptbus replay` shows plans and jobs: a document for machines, tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deptbus.cli.options import instant
from deptbus.operations.replay_apply import Standing
from deptbus.operations.replay_dry_run import DryRun
from deptbus.operations.replay_plan import Expected, Plan


def plan_document(plan: Plan, tried: DryRun | None) -> dict[str, Any]:
    """Unknown is null."""
    return {
        "job": plan.job,
        "sha256": plan.sha256,
        "to_send": plan.sent,
        "rows_to_change": tried.rows if tried is not None else None,
        "rows_unknown": (tried.problem or None) if tried is not None else "no dry run",
        "plan": plan.model_dump(mode="json"),
    }


def print_plan(plan: Plan, tried: DryRun | None) -> None:
    console = Console()
    print(f"{plan.selection}, to {plan.unit}; reason: {plan.reason}")
    if plan.ranges:
        table = Table()
        for head in ("partition", "from", "to", "changes", "keys", "gone", ""):
            table.add_column(head, justify="left" if head in ("partition", "") else "right")
        for r in plan.ranges:
            numbers = (r.start, r.end, r.records, r.keys, r.gone)
            table.add_row(f"data.{r.dataset}/{r.partition}", *map(str, numbers), escape(r.note))
        console.print(table)
    for expected in plan.expected:
        print("\n".join(_expected(expected)))
    print(f"to send: {plan.sent} deliveries, about {plan.seconds:.0f} s at {plan.seconds_by}")
    if tried is not None:
        rows = f"{tried.rows}" if tried.rows is not None else f"nobody can tell ({tried.problem})"
        print(f"rows of the recipient that would change: {rows}")
    until = f"{plan.expires_at:%Y-%m-%d %H:%M} UTC"
    print(f"cluster {plan.cluster}, policy {plan.policy}, valid until {until}")
    print(f"SHA-256 {plan.sha256}")


def _expected(expected: Expected) -> list[str]:
    """What a person has to know of one dataset; what is nought is not said."""
    lines = [
        f"{expected.dataset}: {expected.upserts} records, {expected.deletes} deletes, "
        f"{expected.withdrawals} withdrawals (the last state of each key only)"
    ]
    if expected.superseded:
        lines.append(f"  {expected.superseded} keys changed since: their newest state is sent")
    if expected.without_right:
        lines.append(f"  {expected.without_right} keys are withheld: no right to them today")
    if expected.unknown:
        lines.append(f"  {expected.unknown} named keys are unknown to the bus")
    if expected.fields_withheld:
        names = ", ".join(f"{f} ({n})" for f, n in sorted(expected.fields_withheld.items()))
        lines.append(f"  fields withheld by the rights of today: {names}")
    return lines


def document(standing: Standing) -> dict[str, Any]:
    """Unknown is null."""
    order, progress = standing.order, standing.progress
    return {
        "job": order.job,
        "unit": order.unit,
        "datasets": list(order.datasets),
        "cause": order.cause,
        "state": standing.state,
        "wanted": standing.wanted,
        "problem": (progress.problem or None) if progress else None,
        "keys": order.keys,
        "sent": progress.sent if progress else 0,
        "withdrawn": progress.withdrawn if progress else 0,
        "partitions_done": len(progress.done_partitions) if progress else 0,
        "plan": order.plan or None,
        "operator": order.operator,
        "reason": order.reason,
        "ordered_at": instant(order.ordered_at_us),
        "updated_at": instant(progress.updated_at_us) if progress else None,
        "rate": round(standing.rate, 1) if standing.rate is not None else None,
    }


def line(standing: Standing, is_led: bool) -> str:
    """One moment of a job in one line."""
    words = [f"{standing.order.job}: {standing.state}"]
    if standing.progress is not None and standing.progress.problem:
        words.append(f"({standing.progress.problem})")
    words.append(f"{standing.done} of {standing.order.keys} keys")
    if standing.rate is not None and not standing.is_closed:
        words.append(f"{standing.rate:.0f} a second")
    if not is_led and not standing.is_closed:
        words.append("no operations process runs: it goes on when one does")
    return ", ".join(words)


def print_standings(standings: Sequence[Standing]) -> None:
    if not standings:
        print("nothing was ordered yet")
        return
    table = Table()
    for head in ("job", "recipient", "state", "keys", "sent", "ordered", "by", "why"):
        table.add_column(head, overflow="fold")
    for standing in standings:
        order = standing.order
        cells = (
            order.job,
            order.unit,
            standing.state,
            str(order.keys),
            str(standing.done),
            instant(order.ordered_at_us),
            order.operator,
            order.reason,
        )
        table.add_row(*map(escape, cells))
    Console().print(table)

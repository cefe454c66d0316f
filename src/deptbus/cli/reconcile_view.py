"""How `deptbus reconcile` shows what it found to people."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from deptbus.operations.leg import LegResult
    from deptbus.operations.reconcile import Reconciled
    from deptbus.operations.reconcile_repair import Mended

SHOWN_ROWS = 100
_WIDE = 200


def print_reconciled(found: Reconciled, mended: Mended | None, certificate: Path | None) -> None:
    console = Console(
        highlight=False, width=None if sys.stdout.isatty() else _WIDE, soft_wrap=False
    )
    if mended is not None:
        ordered = ", ".join(f"{n:,} {word}" for word, n in sorted(mended.ordered.items()))
        console.print(escape(f"repair ordered: {ordered or 'nothing'}; after it:"))
        for why, rows in sorted(mended.left.items()):
            console.print(escape(f"left alone: {rows:,} {why}"))
    console.print(_legs(found.results))
    differing = [(result, finding) for result in found.results for finding in result.findings]
    if differing:
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("unit", "dataset", "key", "class", "reason"):
            table.add_column(heading, overflow="fold")
        for result, finding in differing[:SHOWN_ROWS]:
            words = (result.unit, result.dataset, finding.key.hex(), finding.word, finding.reason)
            table.add_row(*map(escape, words))
        console.print(table)
        if found.differences > SHOWN_ROWS:
            console.print(f"and {found.differences - SHOWN_ROWS:,} more; `-o json` names more")
    for result in found.untold:
        place = f"{result.unit} {result.dataset} ({result.leg})"
        console.print(escape(f"{place}: could not tell: {result.could_not_tell}"))
    if certificate is not None:
        console.print(escape(f"certificate: {certificate}"))
    console.print(_verdict(found))


def _legs(results: tuple[LegResult, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("unit", "dataset", "leg", "rows", "differences", "result", "bytes", "seconds"):
        right = heading in ("rows", "differences", "bytes", "seconds")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for result in results:
        classes = ", ".join(f"{n:,} {word}" for word, n in sorted(result.by_class.items()))
        told = not result.could_not_tell and not result.absent
        table.add_row(
            escape(result.unit),
            escape(result.dataset),
            f"{result.leg}, deep" if result.deep else result.leg,
            f"{result.rows:,}" if told else "",
            f"{result.differences:,}" if told else "",
            escape(classes or ("equal" if told else result.absent or "could not tell")),
            f"{result.bytes:,}" if told else "",
            f"{result.seconds:.1f}" if told else "",
        )
    return table


def _verdict(found: Reconciled) -> str:
    if found.differences:
        return f"{found.differences:,} differences"
    return "could not tell" if found.untold else "equal"

"""How `deptbus reconcile` shows what it found to people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    from deptbus.operations.reconcile_sample import Sampled

SHOWN_ROWS = 100
_WIDE = 200


def print_reconciled(found: Reconciled, mended: Mended | None, certificate: Path | None) -> None:
    console = Console(
        highlight=False, width=None if sys.stdout.isatty() else _WIDE, soft_wrap=False
    )
    if mended is not None:
        ordered = ", ".join(f"{n:,} {word}" for word, n in sorted(mended.ordered.items()))
        console.print(escape(f"repair ordered: {ordered or 'nothing'}; after it:"))
        for (unit, dataset), keys in sorted(mended.resent.items()):
            console.print(escape(f"{unit} is to publish {keys:,} keys of {dataset} again"))
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
    for result in found.results:
        if result.held:
            console.print(escape(_held(result)))
    for result in found.untold:
        place = f"{result.unit} {result.dataset} ({result.leg})"
        console.print(escape(f"{place}: could not tell: {result.could_not_tell}"))
    if certificate is not None:
        console.print(escape(f"certificate: {certificate}"))
    console.print(_verdict(found))


def print_sample(drawn: Sequence[Sampled]) -> None:
    """One table a record: each field as the bus has it, and whether the unit is given it."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    for one in drawn:
        table = Table(box=box.SIMPLE_HEAD, title_justify="left", title=escape(one.key.hex()))
        for heading in ("field", "on the bus", f"given to {one.unit}"):
            table.add_column(escape(heading), overflow="fold")
        for name, value in one.record.items():
            table.add_row(escape(name), escape(value), "yes" if name in one.fields else "no")
        console.print(table)
        by = f"{one.direction} by rule {one.rule}"
        grants = f", grants {', '.join(one.grants)}" if one.grants else ""
        console.print(escape(f"{one.dataset} of {one.source_unit}, version {one.version}"))
        console.print(escape(f"{by}{grants}"))
        console.print(
            escape(f"source row: {one.found['source']}; copy: {one.found['copy']}"), end="\n\n"
        )


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


def _held(result: LegResult) -> str:
    """What an operator has to know who finds them at night."""
    release = " and ".join(
        f"`deptbus department release --held {number} --yes`" for number in result.holds
    )
    return (
        f"{result.unit} {result.dataset}: {result.held:,} keys went at once, and their removal is "
        "held there. The bus keeps them, and no repair passes them, until their rows are back or "
        f"somebody there says {release}"
    )


def _verdict(found: Reconciled) -> str:
    if found.held:
        return (
            f"{found.differences:,} differences, and {found.held:,} keys are held at their source"
        )
    if found.differences:
        return f"{found.differences:,} differences"
    return "could not tell" if found.untold else "equal"

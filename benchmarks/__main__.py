"""`python -m benchmarks`: runs the parts asked for, prints the table and one line of JSON.

Exit codes: 0 every target met, or its limit explained; 1 one is missed without a reason; 2 a part
could not be run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from typing import Any

from rich.console import Console

from benchmarks import parts
from benchmarks.bench import CouldNot, opened
from benchmarks.figures import Figure, is_all_well, json_line, table
from deptbus.errors import DeptbusError
from deptbus.logs import set_up_logging

RUNS = 3


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = parts.names()
    parser.add_argument("part", nargs="*", help=f"of {', '.join(known)}; default: all of them")
    parser.add_argument("--quick", action="store_true", help="less of everything: minutes")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"at least; default {RUNS}")
    parser.add_argument("--minutes", type=int, default=30, help="of the soak; default 30")
    parser.add_argument(
        "--rows", type=int, help="of reconcile, mending and replay; default 1,000,000"
    )
    parser.add_argument("--json", action="store_true", help="only the line of JSON")
    parser.add_argument("--list", action="store_true", help="what there is, and end")
    asked = parser.parse_args(words)
    for name in asked.part:
        if name not in known:
            parser.error(f"there is no part {name}; there are {', '.join(known)}")
    if asked.runs < 1 or asked.minutes < 1 or (asked.rows is not None and asked.rows < 1_000):
        parser.error("--runs and --minutes want one at least, --rows a thousand")
    return asked


def chosen(names: list[str], *, quick: bool) -> list[str]:
    if quick:
        return names or [n for n in parts.names() if parts.is_in_quick(parts.load(n))]
    return names or [n for n in parts.names() if not parts.is_by_name_only(parts.load(n))]


async def measure(asked: argparse.Namespace) -> tuple[list[Figure], dict[str, str]]:
    """Figures of all parts, and why some of them could not be run."""
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    for name in chosen(asked.part, quick=asked.quick):
        part = parts.load(name)
        began = time.monotonic()
        print(f"{name}: {part.ABOUT}", file=sys.stderr, flush=True)
        try:
            async with opened(
                quick=asked.quick, runs=asked.runs, minutes=asked.minutes, rows=asked.rows
            ) as bench:
                figures += await part.run(bench)
        except (CouldNot, DeptbusError) as error:
            failed[name] = str(error)
            print(f"{name} could not be run: {error}", file=sys.stderr, flush=True)
        print(f"  {name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return figures, failed


def main() -> int:
    asked = arguments()
    if asked.list:
        for name in parts.names():
            part = parts.load(name)
            when = "" if parts.is_in_quick(part) else " (not in the quick form)"
            when = " (only by name)" if parts.is_by_name_only(part) else when
            print(f"{name:<12}{part.ABOUT}{when}")
        return 0
    set_up_logging()
    began = time.monotonic()
    figures, failed = asyncio.run(measure(asked))
    facts: dict[str, Any] = {
        "quick": asked.quick,
        "runs": asked.runs,
        "seconds": round(time.monotonic() - began),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "could_not": failed,
    }
    if not asked.json:
        Console(width=None if sys.stdout.isatty() else 150).print(table(figures))
    print(json_line(figures, facts), flush=True)
    if failed:
        return 2
    return 0 if is_all_well(figures) else 1


if __name__ == "__main__":
    sys.exit(main())

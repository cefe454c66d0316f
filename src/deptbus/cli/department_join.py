"""`deptbus department compare`, `join` and `kept`: rows that were here before the bus."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deptbus.cli.options import (
    Bootstrap,
    ClientFile,
    ContractFolder,
    Data,
    DepartmentFile,
    OneDataset,
    Output,
    OutputOption,
    agreed,
    instant,
)
from deptbus.errors import DeptbusError, Exit

if TYPE_CHECKING:
    from deptbus.contract.department import Department
    from deptbus.contract.model import Contract
    from deptbus.department.adoption_act import KeptLine
    from deptbus.department.compare import Comparison

_LISTED = 200


class Form(StrEnum):
    """How a comparison is told."""

    TABLE = "table"
    JSON = "json"
    XLSX = "xlsx"


def add_to(app: typer.Typer) -> None:
    for command in (compare, join, kept):
        app.command()(command)


def compare(
    config: DepartmentFile,
    dataset: OneDataset = None,
    output: Annotated[
        Form, typer.Option("--output", "-o", help="A table, one JSON document, or a workbook.")
    ] = Form.TABLE,
    to: Annotated[
        Path | None, typer.Option("--to", help="The file of the workbook; else standard output.")
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="Show the own keys of samples as they are.")
    ] = False,
    contract: ContractFolder = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Compare the rows of received datasets' tables with what the bus has sent for them: the same,
    different, only here, only on the bus, ambiguous. Writes nothing. Exit code 1: something is not
    the same."""
    department, agreement = _opened(config, contract, data, bootstrap, client_file)

    async def run() -> list[tuple[str, Comparison]]:
        from deptbus.department.compare import compare_dataset

        return [
            (system, await compare_dataset(department, system, name, agreement, shows_keys=keys))
            for system, name in _received(department, dataset)
        ]

    found = asyncio.run(run())
    if output is Form.JSON:
        print(json.dumps(_document(department.unit, found), ensure_ascii=False))
    elif output is Form.XLSX:
        _write_workbook(found, to)
    else:
        for system, one in found:
            _print(system, one)
    if not all(one.is_alike for _, one in found):
        raise typer.Exit(Exit.ANSWER_IS_NO)


def join(
    config: DepartmentFile,
    dataset: OneDataset = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not compare, do not ask.")] = False,
    contract: ContractFolder = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Let the first load begin into tables that had rows before the bus: rows that records match
    are adopted, and none is doubled. Exit code 1: no first load waits, or you said no."""
    department, agreement = _opened(config, contract, data, bootstrap, client_file)

    async def one(system: str, name: str) -> Comparison:
        from deptbus.department.compare import compare_dataset

        return await compare_dataset(department, system, name, agreement)

    def asks(system: str, name: str) -> bool:
        _print(system, asyncio.run(one(system, name)))
        return typer.confirm(f"Adopt the rows of {name} that match?", err=True)

    said = _say_yes(department, agreement, dataset, (lambda *_: True) if yes else asks)
    for system, name in said:
        print(f"{system}: {name}: the first load begins when the adapter runs")
    if not said:
        print("no first load was allowed")
        raise typer.Exit(Exit.ANSWER_IS_NO)


def kept(
    config: DepartmentFile,
    dataset: OneDataset = None,
    restore: Annotated[
        list[int] | None,
        typer.Option("--restore", help="Write this number back into its row; may be repeated."),
    ] = None,
    values: Annotated[
        bool, typer.Option("--values", help="Show what is kept, not only the columns.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", help="The system, where the unit has several.")
    ] = None,
    contract: ContractFolder = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what stood in own rows before the bus wrote over it, newest first, or put it back."""
    from deptbus.contract.department import load_department
    from deptbus.department import adoption_act

    if not restore:
        department = load_department(config)
        found = {
            name: asyncio.run(adoption_act.kept_lines(department, name, dataset, _LISTED))
            for name in _systems(department, system)
        }
        _print_kept(found, output, with_values=values)
        return
    department, agreement = _opened(config, contract, data, bootstrap, client_file)
    names = _systems(department, system)
    if len(names) != 1:
        raise DeptbusError("the unit has several systems", mend=f"Give --system {names[0]}")
    missing = [
        number
        for number in restore
        if not asyncio.run(adoption_act.restore(department, names[0], number, agreement))
    ]
    print(f"{names[0]}: {len(restore) - len(missing)} rows restored")
    if missing:
        print(f"their rows are gone: {', '.join(map(str, missing))}")
        raise typer.Exit(Exit.ANSWER_IS_NO)


# -- parts ---------------------------------------------------------------------------------------


def _opened(config: Path, folder: Path | None, *bus: Any) -> tuple[Department, Contract]:
    from deptbus.contract.department import load_department
    from deptbus.department.install import check

    department = load_department(config)
    agreement = asyncio.run(agreed(folder, *bus))
    check(department, agreement)
    return department, agreement


def _systems(department: Department, system: str | None) -> list[str]:
    if system is not None and system not in department.systems:
        raise DeptbusError(f"{department.unit} has no system {system}", mend="Check --system")
    return [system] if system is not None else list(department.systems)


def _received(department: Department, dataset: str | None) -> list[tuple[str, str]]:
    found = [
        (system, name)
        for system, settings in department.systems.items()
        for name in settings.receives
        if dataset in (None, name)
    ]
    if not found:
        what = dataset or "nothing"
        raise DeptbusError(f"{department.unit} receives {what} not", mend="Check `receives:`")
    return found


def _say_yes(
    department: Department,
    agreement: Contract,
    dataset: str | None,
    asks: Callable[[str, str], bool],
) -> list[tuple[str, str]]:
    from deptbus.department import adoption_act

    said = []
    for system in department.systems:
        waiting = asyncio.run(adoption_act.waiting_loads(department, system, agreement))
        for one in waiting:
            if dataset not in (None, one.dataset):
                continue
            if one.obstacle:
                raise DeptbusError(f"{system}: {one.dataset}: {one.obstacle}")
            if asks(system, one.dataset) and asyncio.run(
                adoption_act.say_yes(department, system, one.dataset)
            ):
                said.append((system, one.dataset))
    return said


def _document(unit: str, found: list[tuple[str, Comparison]]) -> dict[str, Any]:
    return {
        "unit": unit,
        "datasets": [
            {"system": system, **_plain(asdict(one)), "is_alike": one.is_alike}
            for system, one in found
        ],
    }


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    for column in document["columns"].values():
        column["samples"] = [sample._asdict() for sample in column["samples"]]
    document["refused"] = [one._asdict() for one in document["refused"]]
    return document


_COUNTS = (
    ("records", "records of the bus"),
    ("rows", "rows here"),
    ("same", "the same"),
    ("spelled_otherwise", "of these in other letters"),
    ("different", "different"),
    ("only_here", "only here"),
    ("unreadable_rows", "of these without a match that can be read"),
    ("only_on_bus", "only on the bus"),
    ("ambiguous_records", "ambiguous: records"),
    ("ambiguous_rows", "ambiguous: rows"),
)


def _print(system: str, one: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"{system}: {one.dataset} in table {one.table}"
    counts = Table(title=title, title_justify="left", show_header=False)
    for name, words in _COUNTS:
        counts.add_row(words, str(getattr(one, name)))
    for reason, records in one.unfit.items():
        counts.add_row(f"cannot be written: {reason}", str(records))
    console.print(counts)
    columns = Table("column", "different", "cannot be read", "key", "here", "on the bus", "why")
    for name, column in one.columns.items():
        head = name, str(column.different), str(column.refused)
        for sample in column.samples or ():
            columns.add_row(*head, sample.key, sample.here, sample.bus, sample.reason)
            head = "", "", ""
    if columns.row_count:
        console.print(columns)


def _write_workbook(found: list[tuple[str, Comparison]], to: Path | None) -> None:
    from deptbus.cli.spreadsheet import Sheet, workbook

    counts: list[list[str | int]] = [["system", "dataset", "table", *(n for n, _ in _COUNTS)]]
    columns: list[list[str | int]] = [
        ["system", "dataset", "column", "different", "cannot be read"]
    ]
    samples: list[list[str | int]] = [
        ["system", "dataset", "column", "key", "here", "on the bus", "why"]
    ]
    refused: list[list[str | int]] = [["system", "dataset", "column", "key", "here", "why"]]
    for system, one in found:
        refused += [[system, one.dataset, *value] for value in one.refused]
        counts.append([system, one.dataset, one.table, *(getattr(one, n) for n, _ in _COUNTS)])
        for name, column in one.columns.items():
            columns.append([system, one.dataset, name, column.different, column.refused])
            samples += [[system, one.dataset, name, *sample] for sample in column.samples]
    sheets: dict[str, Sheet] = {
        "counts": counts, "columns": columns, "samples": samples, "cannot be read": refused,
    }  # fmt: skip
    made = workbook(sheets)
    if to is not None:
        to.write_bytes(made)
        print(f"written to {to}")
    elif sys.stdout.isatty():
        raise DeptbusError("a workbook is no text", mend="Give --to FILE")
    else:
        sys.stdout.buffer.write(made)


def _print_kept(found: dict[str, list[KeptLine]], output: Output, *, with_values: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from deptbus.department.values import as_text

    def own(line: KeptLine) -> dict[str, str | None]:
        return {
            name: None if value is None or not with_values else as_text(value)
            for name, value in line.own.items()
        }

    if output is Output.JSON:
        document = [
            {"system": system, **line._asdict(), "own": own(line)}
            for system, lines in found.items()
            for line in lines
        ]
        print(json.dumps(document, ensure_ascii=False))
        return
    table = Table()
    for head in ("system", "number", "dataset", "by", "kept at", "restored at"):
        table.add_column(head, no_wrap=head in ("number", "by"))
    table.add_column("columns", overflow="fold")
    for system, lines in found.items():
        for line in lines:
            shown = [f"{n}: {v}" if with_values else n for n, v in own(line).items()]
            restored = "" if line.restored_at_us is None else instant(line.restored_at_us)
            table.add_row(
                system,
                str(line.number),
                line.dataset,
                line.origin,
                instant(line.kept_at_us),
                restored,
                ", ".join(shown),
            )
    Console().print(table)

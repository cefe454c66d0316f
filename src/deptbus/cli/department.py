"""`deptbus department`: join a department's database to the bus, run its adapter, look at it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deptbus.cli import department_guard, department_join
from deptbus.cli.department_service import service
from deptbus.cli.options import (
    Bootstrap,
    ClientFile,
    ContractFolder,
    Data,
    MetricsAddress,
    Output,
    OutputOption,
    connect,
    is_named,
    metrics_address,
)
from deptbus.cli.options import DepartmentFile as Config
from deptbus.cli.options import OneDataset as Dataset
from deptbus.cli.options import agreed as _contract
from deptbus.errors import DeptbusError, Exit

if TYPE_CHECKING:
    from deptbus.contract.department import Department, System
    from deptbus.department.capture import Snapshot

app = typer.Typer(help="Join a department's own database to the bus.", no_args_is_help=True)
app.command()(service)

Configs = Annotated[list[Path], typer.Option("--config", help="A department.yml; may be repeated.")]
Owner = Annotated[
    str | None,
    typer.Option(
        "--owner",
        envvar="DEPTBUS_OWNER",
        help="Address of the same PostgreSQL database with an account that owns its tables.",
        show_envvar=True,
    ),
]
OneSystem = Annotated[str | None, typer.Option("--system", help="One system; else all.")]


@app.command()
def install(
    config: Config,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL and change nothing.")
    ] = False,
    owner: Owner = None,
    system: OneSystem = None,
    contract: ContractFolder = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Make the unit's key secret and install the triggers that capture what it publishes.

    May be run again at any time, and has to be when the mapping has changed. With --owner the
    account that department.yml names gets the rights to run the adapter, and needs no others.
    """
    from deptbus.cli.contract_view import print_advice
    from deptbus.contract.department_check import advise_department
    from deptbus.department import install as source
    from deptbus.wire.keys import fingerprint

    department = _load(config)
    agreed = asyncio.run(_contract(contract, data, bootstrap, client_file))
    source.check(department, agreed)
    print_advice(advise_department(department, agreed))
    chosen = _systems(department, system)
    if dry_run:
        for name in chosen:
            for statement in asyncio.run(source.install_sql(department, name, agreed, owner)):
                print(f"{statement};\n")
        return
    for name, settings in chosen.items():
        for note in asyncio.run(source.install_system(department, name, agreed, owner)):
            print(f"{name}: {note}")
        captured = ", ".join(settings.publishes) or "nothing"
        print(f"{name}: captures {captured}")
    if any(s.publishes for s in chosen.values()):
        secret, made = source.ensure_secret(department.secret_file)
        if made:
            print(f"made the key secret {department.secret_file}: keep it, and keep it secret")
        print("in departments.yml, at this unit:")
        print(f"    key_fingerprint: {fingerprint(secret)}")


@app.command()
def snapshot(config: Config, dataset: Dataset = None) -> None:
    """Enqueue the rows that are there already, for the adapter to publish. Goes on after a kill."""
    from deptbus.department import install as source

    department = _load(config)
    for name in _datasets(department, dataset):
        system = source.system_of(department, name)
        done = asyncio.run(source.snapshot_dataset(department, system, name, _Progress()))
        print(f"{name}: {done.enqueued} rows enqueued, {done.skipped} locked ones to come")


@app.command()
def run(
    config: Configs,
    metrics: MetricsAddress = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Run the adapters of one or more departments until SIGINT or SIGTERM."""
    from deptbus.department.adapter import run_adapter
    from deptbus.logs import set_up_logging
    from deptbus.readiness import await_go

    connection, address = connect(data, bootstrap, client_file), metrics_address(metrics)
    set_up_logging(service=True)
    await_go()
    run_adapter(connection, config, address)


@app.command()
def status(
    config: Config,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what waits, what is parked and why, what was applied; where a bus is named, also what
    the data office holds back. Exit code 1: something is parked or capture gave way."""
    from deptbus.cli.department_view import document, holds_of, is_well, print_holds, print_status

    department = _load(config)
    systems = [asyncio.run(document(department, system)) for system in department.systems]
    holds: list[dict[str, Any]] | str = ""
    asks_the_bus = is_named(data, bootstrap, client_file)
    if asks_the_bus:
        holds = asyncio.run(holds_of(department, data, bootstrap, client_file))
    if output is Output.JSON:
        found = {
            "unit": department.unit,
            "systems": systems,
            "holds": holds if isinstance(holds, list) else None,
        }
        print(json.dumps(found, ensure_ascii=False))
    else:
        print_status(department.unit, systems)
        if asks_the_bus:
            print_holds(holds)
    if not all(map(is_well, systems)):
        raise typer.Exit(Exit.ANSWER_IS_NO)


@app.command()
def uninstall(
    config: Config,
    owner: Owner = None,
    system: OneSystem = None,
    pause_capture: Annotated[
        bool,
        typer.Option(
            "--pause-capture",
            help="Capture nothing from now on, and leave all else; `install` lets it go on.",
        ),
    ] = False,
) -> None:
    """Remove triggers and every table of deptbus; own tables stay as they are. Works at once."""
    from deptbus.department import install as source

    department = _load(config)
    for name in _systems(department, system):
        if not pause_capture:
            asyncio.run(source.uninstall_system(department, name, owner))
            print(f"{name}: nothing of deptbus is left")
        elif department.systems[name].publishes:
            asyncio.run(source.pause_system(department, name, owner))
            print(f"{name}: nothing is captured until `deptbus department install`")


@app.command()
def resync(
    config: Config, data: Data = None, bootstrap: Bootstrap = None, client_file: ClientFile = None
) -> None:
    """After a restored backup, a rebuilt bus, or when capture gave way: publish what differs from
    what the bus has, and delete what is gone. Start the adapter again afterwards. Exit code 1: it
    has to be run again."""
    from deptbus.department import install as source

    department = _load(config)
    connection = connect(data, bootstrap, client_file)
    is_complete = True
    for system, settings in department.systems.items():
        if not settings.publishes:
            continue
        done = asyncio.run(source.resync_system(connection, department, system))
        is_complete = is_complete and done.is_complete
        print(
            f"{system}: {done.published} rows published anew, {done.deleted} deleted, "
            f"{done.equal} were equal"
        )
        for dataset in done.left_out:
            print(f"{system}: {dataset} is not published now and was not looked at")
        if done.missed_again:
            print(f"{system}: capture gave way again meanwhile: run this once more")
    if not is_complete:
        raise typer.Exit(Exit.ANSWER_IS_NO)


@app.command()
def rejoin(config: Config) -> None:
    """After the bus was rebuilt: apply the inbox from its beginning. Nothing older is written."""
    from deptbus.department.recipient_status import rejoin as forget_position

    department = _load(config)
    for system, settings in department.systems.items():
        if settings.receives:
            asyncio.run(forget_position(department, system))
            print(f"{system}: the inbox will be applied from its beginning")
    print(
        "What a source deleted, and was not applied here before the bus was lost, nobody knows any "
        "more, and it still stands here. Once every source is through its resync and this adapter "
        f"runs, let the data office remove it: deptbus reconcile --unit {department.unit} "
        "--leg copy --repair --delete-extra --max-delete N --reason TEXT"
    )


@app.command()
def resend(
    config: Config,
    dataset: Annotated[str, typer.Option("--dataset", help="The dataset of the record.")],
    key: Annotated[
        str | None, typer.Option("--key", help="The bus key: 32 hexadecimal digits.")
    ] = None,
    natural: Annotated[
        list[str] | None,
        typer.Option("--natural", help="The natural key as typed; once for each of its parts."),
    ] = None,
    contract: ContractFolder = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Publish a record's present state once more, under a new version."""
    from deptbus.department import install as source

    if (key is None) == (not natural):
        raise typer.BadParameter("give --key or --natural")
    try:
        wanted = bytes.fromhex(key) if key is not None else None
    except ValueError:
        wanted = b""
    if wanted is not None and len(wanted) != 16:
        raise typer.BadParameter("--key has 32 hexadecimal digits")
    department = _load(config)
    system = source.system_of(department, dataset)
    agreed = asyncio.run(_contract(contract, data, bootstrap, client_file))
    found = asyncio.run(
        source.ask_resend(
            department, system, dataset, agreed, key=wanted, natural=tuple(natural or ()) or None
        )
    )
    print(
        f"{dataset} {found.hex()}: asked for; the adapter publishes its present state, "
        "or a delete if it is gone"
    )


@app.command()
def key(config: Config) -> None:
    """Show the fingerprint of the unit's key secret, which the contract names."""
    from deptbus.department import install as source

    print(source.secret_fingerprint(_load(config)))


department_join.add_to(app)
department_guard.add_to(app)


class _Progress:
    """One line on a terminal that is written over; nothing elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    def __call__(self, snapshot: Snapshot, is_full: bool) -> None:
        if self._console.is_terminal:
            words = (
                "the outbox is full: is the adapter running?"
                if is_full
                else f"{snapshot.enqueued} rows"
            )
            self._console.print(f"{snapshot.dataset}: {words:<50}", end="\r")


def _load(config: Path) -> Department:
    from deptbus.contract.department import load_department

    return load_department(config)


def _systems(department: Department, system: str | None) -> dict[str, System]:
    if system is None:
        return dict(department.systems)
    if system not in department.systems:
        raise DeptbusError(
            f"{department.unit} has no system {system}",
            mend=f"One of: {', '.join(department.systems)}",
        )
    return {system: department.systems[system]}


def _datasets(department: Department, dataset: str | None) -> list[str]:
    if dataset is not None:
        return [dataset]
    found = [name for system in department.systems.values() for name in system.publishes]
    if not found:
        raise DeptbusError(f"{department.unit} publishes nothing", mend="Check `publishes:`")
    return found

"""`deptbus up`: run the bus on this machine until it is stopped."""

from __future__ import annotations

import functools
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import From, MetricsAddress, metrics_address, take_from, who
from deptbus.errors import DeptbusError
from deptbus.names import CONTRACT

if TYPE_CHECKING:
    from deptbus.connection import Connection
    from deptbus.contract.model import Contract

app = typer.Typer(help="Run the bus on this machine until it is stopped.")

DEFAULT_DATA = Path("county")
CONSOLE_PORT = 8420
CONTRACT_FOLDER = "contract"  # in the data folder: a contract of its own, as `demo` makes one


@app.command()
def up(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="With a broker of its own, on this machine only.")
    ] = False,
    contract: Annotated[
        Path | None,
        typer.Option(
            "--contract",
            help="Contract to put in force; else the one in force stays; else DATA/contract, "
            "else the bundled one.",
        ),
    ] = None,
    data: Annotated[
        Path, typer.Option("--data", help="Folder of the bus and of the departments' files.")
    ] = DEFAULT_DATA,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Of the broker; else any.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Worker processes.")] = 1,
    adapters: Annotated[
        int, typer.Option("--adapters", min=1, help="Adapter processes at most.")
    ] = 2,
    metrics: MetricsAddress = None,
    console: Annotated[
        bool, typer.Option("--console/--no-console", help="With the web page of the data office.")
    ] = True,
    console_port: Annotated[
        int | None,
        typer.Option("--console-port", min=1, max=65535, help="Of the console; else 8420 or any."),
    ] = None,
    fetched: From = None,
) -> None:
    """Start broker, topics, contract, workers and the adapters of every department.yml in DATA.

    Ends on Ctrl-C or SIGTERM; DATA keeps everything, and the next `up` goes on from there.
    """
    if not embedded:
        raise DeptbusError(
            "`up` starts the embedded bus only",
            mend="Say `deptbus up --embedded`; docker-compose.yml describes a cluster",
        )
    from deptbus.cluster.up import Bus, Shape, run
    from deptbus.contract.load import load

    take_from(fetched)
    if contract is not None:
        load(contract)  # tell what is wrong in it before anything is started
    page = _console_port(console_port) if console else None
    bus = Bus(data, Shape(port, workers, adapters, metrics_address(metrics), page), _Told(data))
    ahead = threading.Thread(target=_import_ahead, name="import ahead", daemon=True)
    ahead.start()
    try:
        run(bus, functools.partial(ensure_contract, data, contract))
    finally:
        # A thread that the end of the process meets in the midst of loading native modules takes
        # the process down with it.
        ahead.join()


def tell(name: str, state: str) -> None:
    """One status line."""
    print(f"{name:<12} {state}", flush=True)


class _Told:
    """Status lines; where the console is, and on a terminal a link that lets one browser in once.
    Elsewhere it would stand in a log, for others to use."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def __call__(self, name: str, state: str) -> None:
        tell(name, state)
        if name == "console" and state.startswith("ready"):
            from deptbus.cli.console import address_in, link_of

            if sys.stdout.isatty():
                tell(name, f"open {link_of(self._data, who(None))}")
                tell(name, "that link works once, within 15 minutes")
            else:
                tell(name, f"at {address_in(self._data)}")
            tell(name, f"for a new link: deptbus console link --data {self._data}")


def _console_port(given: int | None) -> int:
    from deptbus.cluster.ports import free_port, is_free

    if given is not None:
        return given
    return CONSOLE_PORT if is_free(CONSOLE_PORT) else free_port()


def _import_ahead() -> None:
    """What `ensure_contract` will need: imported while we wait for Java."""
    for module in ("contract.bundled", "operations.activation", "department.install"):
        import_module(f"deptbus.{module}")


async def ensure_contract(data: Path, given: Path | None, connection: Connection) -> str:
    """Topics and a contract in force on a bus that was just started; returns where it is from.

    The contract is `given`, else the one in force, else DATA/contract, else the bundled one. Jobs
    that follow from a new policy are run by the operations process.
    """
    from deptbus.cluster import topics
    from deptbus.cluster.blocking import in_thread
    from deptbus.contract.bundled import bundled
    from deptbus.contract.load import load
    from deptbus.operations.activation import propose, put_in_force
    from deptbus.stream.policies import read_policies

    async def apply_topics(wanted: tuple[topics.Topic, ...]) -> None:
        await in_thread(lambda: topics.apply(connection, topics.plan(connection, wanted)))

    await apply_topics(topics.wanted_before_any_contract())
    history = await read_policies(connection)
    if given is None and history.last:
        policy = history.current()
        await apply_topics(topics.wanted(policy.contract))
        await join_departments(data, policy.contract)
        return f"policy {policy.number}"
    own = data / CONTRACT_FOLDER
    folder = given or (own if own.is_dir() else bundled())
    contract = load(folder)
    proposal = await propose(connection, contract, activated_by=who(None))
    if proposal.is_lost and given is None:
        raise DeptbusError(
            f"{CONTRACT} was deleted and made again: nobody knows what was in force",
            mend="Name the contract that was: --contract DIR",
        )
    await apply_topics(topics.wanted(contract))
    if not proposal.is_in_force:
        await put_in_force(connection, proposal)
    await join_departments(data, contract)
    return str(folder.absolute())


async def join_departments(data: Path, contract: Contract) -> None:
    """Installs capture in every system below DATA that has none yet; what is in its tables already
    is published by its adapter as a snapshot. What cannot be joined is told, and the others go on:
    its adapter says the same again when it starts."""
    from deptbus.cluster.up import find_departments
    from deptbus.department.install import join_system, make_database

    for department in find_departments(data):
        for system in department.systems:
            name = f"{department.unit}/{system}"
            try:
                if await make_database(department, system):
                    tell(name, f"made an empty database {department.systems[system].path}")
                if await join_system(department, system, contract):
                    tell(name, "capture installed; what is there already is being published")
            except DeptbusError as refused:
                tell(name, f"not joined: {refused}")

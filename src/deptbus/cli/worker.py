"""`deptbus worker`: run the agents, in this process or in several that are looked after."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import (
    Bootstrap,
    ClientFile,
    Data,
    MetricsAddress,
    connect,
    metrics_address,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deptbus.connection import Connection
    from deptbus.metrics.address import Address

app = typer.Typer(help="Run the agents that carry changes to their recipients.")

AGENTS = 0  # the one stage that there is
START_AGAIN = 3


@app.command()
def worker(
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes that share the work.")
    ] = 1,
    logs: Annotated[
        Path | None,
        typer.Option("--logs", help="Folder for the logs of several processes."),
    ] = None,
    metrics: MetricsAddress = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Run intake, horizontal and vertical until SIGINT or SIGTERM.

    As many processes are useful as a topic has partitions. One process logs to stderr.
    """
    connection, address = connect(data, bootstrap, client_file), metrics_address(metrics)
    if processes == 1:
        _run_here(connection, address)
    else:
        folder = logs or _state_folder()
        asyncio.run(
            _run_several(
                connection, [address and address.next(n) for n in range(processes)], folder
            )
        )


def _run_here(connection: Connection, metrics: Address | None) -> None:
    from deptbus.logs import set_up_logging
    from deptbus.stream.worker import run_worker

    set_up_logging(service=True)
    code = run_worker(connection, metrics)
    if code == START_AGAIN:
        # The set of topics changed. The same process id goes on, so no manager need know of it.
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "deptbus.cli.main", *sys.argv[1:]])
    raise typer.Exit(code)


async def _run_several(
    connection: Connection, addresses: Sequence[Address | None], logs: Path
) -> None:
    """One process for each of the addresses."""
    from deptbus.cluster.supervisor import Part, Supervisor
    from deptbus.logs import set_up_logging
    from deptbus.metrics.address import METRICS_ADDRESS
    from deptbus.stream.worker import worker_command

    set_up_logging(service=True)
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    with tempfile.TemporaryDirectory(prefix="deptbus-worker-") as run_folder:
        supervisor = Supervisor(Path(run_folder), _tell, lambda: None)
        parts = [
            Part(
                name=f"worker-{number}",
                argv=tuple(worker_command(connection)),
                log_file=logs / f"worker-{number}.log",
                stage=AGENTS,
                env={
                    **connection.environment(),
                    "DEPTBUS_CLIENT_FILE": None,
                    METRICS_ADDRESS: str(address) if address else None,
                },
            )
            for number, address in enumerate(addresses)
        ]
        starting = asyncio.create_task(supervisor.start(parts))
        stopping = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopping
        finally:
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
            await supervisor.stop()


def _tell(name: str, state: str) -> None:
    print(f"{name:<12} {state}", flush=True)


def _state_folder() -> Path:
    import platformdirs

    return platformdirs.user_state_path("deptbus") / "logs"

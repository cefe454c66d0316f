"""`deptbus monitor`: watch the bus, tell figures and schemas over HTTP, and raise alarms."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, connect

app = typer.Typer(help="Watch the bus: figures for Prometheus, alarms, a schema registry.")

LISTEN = "127.0.0.1:8466"


@app.command()
def monitor(
    listen: Annotated[
        str, typer.Option("--listen", help="HOST:PORT at which it answers over HTTP.")
    ] = LISTEN,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            envvar="DEPTBUS_MONITOR_SETTINGS",
            help="File that says how alarms reach people; else they stand in the log and on the "
            "bus only.",
        ),
    ] = None,
    promise_seconds: Annotated[
        float,
        typer.Option(
            "--promise-seconds", min=1, help="A record that is unread for longer is late."
        ),
    ] = 60.0,
    look_seconds: Annotated[
        float, typer.Option("--look-seconds", min=0.5, max=300, help="Between two looks.")
    ] = 5.0,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Keep looking at the bus, or at any Kafka cluster, until SIGINT or SIGTERM; tell figures and
    schemas over HTTP, and people when something is wrong and when it is over."""
    from deptbus.logs import set_up_logging
    from deptbus.metrics.address import address_of
    from deptbus.operations.alarm_settings import AlarmSettings, read_alarm_settings
    from deptbus.operations.lookout import Pace
    from deptbus.operations.monitor import Monitor
    from deptbus.operations.monitor_server import serve
    from deptbus.operations.verdicts import Limits
    from deptbus.readiness import await_go, tell_ready

    address = address_of(listen)
    told = read_alarm_settings(settings) if settings is not None else AlarmSettings()
    connection = connect(data, bootstrap, client_file)
    set_up_logging(service=True)
    await_go()
    limits, pace = Limits(promise_seconds=promise_seconds), Pace(look=look_seconds)

    def begun() -> None:
        print(f"monitor at http://{address}", flush=True)
        tell_ready()

    asyncio.run(serve(Monitor(connection, told, limits, pace), address, begun))

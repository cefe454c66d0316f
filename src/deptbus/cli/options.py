"""Options that many commands share: how a command finds the bus, and how it prints its answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deptbus.connection import Connection, find_connection

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of a bus started by `deptbus up` or `deptbus demo`."),
]
Bootstrap = Annotated[
    str | None,
    typer.Option("--bootstrap", help="HOST:PORT of the brokers; else DEPTBUS_BOOTSTRAP."),
]
ClientFile = Annotated[
    Path | None,
    typer.Option(
        "--client-file",
        envvar="DEPTBUS_CLIENT_FILE",
        help="File of name=value lines with SASL and TLS settings.",
    ),
]


class Output(StrEnum):
    """How a command prints its answer."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="Print a table or one JSON document.")
]


def connect(data: Path | None, bootstrap: str | None, client_file: Path | None) -> Connection:
    """The bus that the options name; raises DeptbusError that says how to start one."""
    return find_connection(data=data, bootstrap=bootstrap, client_file=client_file)


def is_named(data: Path | None, bootstrap: str | None) -> bool:
    """True when the options or the environment name a bus."""
    import os

    return data is not None or bootstrap is not None or "DEPTBUS_BOOTSTRAP" in os.environ

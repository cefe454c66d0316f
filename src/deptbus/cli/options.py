"""Options that many commands share: how a command finds the bus, and how it prints its answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deptbus.connection import Connection, find_connection
from deptbus.names import CERTIFICATE_KEY

if TYPE_CHECKING:
    from deptbus.contract.model import Contract
    from deptbus.metrics.address import Address

KEY_BYTES = 16

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


From = Annotated[
    Path | None,
    typer.Option("--from", help="Folder made by `deptbus fetch`: nothing is downloaded."),
]


Operator = Annotated[
    str | None,
    typer.Option(
        "--operator",
        envvar="DEPTBUS_OPERATOR",
        help="Who acts; else the user of the operating system.",
    ),
]
Reason = Annotated[
    str, typer.Option("--reason", help="Why; it is kept for ever. No personal data.")
]


DepartmentFile = Annotated[Path, typer.Option("--config", help="The unit's department.yml.")]
ContractFolder = Annotated[
    Path | None,
    typer.Option("--contract", help="Folder of the contract's files; else the one in force."),
]
OneDataset = Annotated[str | None, typer.Option("--dataset", help="One dataset; else all.")]


CertificateKey = Annotated[
    Path | None,
    typer.Option(
        "--certificate-key",
        envvar=CERTIFICATE_KEY,
        help="File of the key that signs certificates; else DATA/certificate.key.",
    ),
]


MetricsAddress = Annotated[
    str | None,
    typer.Option(
        "--metrics-address",
        envvar="DEPTBUS_METRICS_ADDRESS",
        help="HOST:PORT at which figures are told to Prometheus; else nowhere. Of several "
        "processes the next ones take the next ports.",
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


def take_from(folder: Path | None) -> None:
    """Kafka's files come out of this folder, and out of no other. Raises DeptbusError."""
    if folder is not None:
        from deptbus.cluster.offline import use

        use(folder)


def metrics_address(text: str | None) -> Address | None:
    """Raises DeptbusError."""
    from deptbus.metrics.address import address_of

    return address_of(text) if text else None


def is_named(data: Path | None, bootstrap: str | None, client_file: Path | None) -> bool:
    """True when the options or the environment name a bus."""
    import os

    given = (data, bootstrap, client_file, os.environ.get("DEPTBUS_BOOTSTRAP"))
    return any(one is not None for one in given)


def who(operator: str | None) -> str:
    """Whom an act is recorded of: by the option, by DEPTBUS_OPERATOR, else the system's user by his
    number, which nobody can set as he likes."""
    if operator is not None:
        return operator
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return f"uid {os.getuid()}"


def bus_key(text: str) -> bytes:
    """The 16 bytes of a key as `--key` has it. Raises DeptbusError."""
    from deptbus.errors import DeptbusError

    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise DeptbusError(
            "that is no bus key", mend="Give its 32 hexadecimal digits, as quarantine shows them"
        )
    return raw


def instant(at_us: int) -> str:
    """ISO 8601 in UTC, to the second."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_us // 1_000_000, UTC).isoformat()


async def agreed(folder: Path | None, *bus: Any) -> Contract:
    """The contract of these files, else the one in force on the bus."""
    from deptbus.contract.load import load
    from deptbus.errors import DeptbusError
    from deptbus.stream.policies import read_policies

    if folder is not None:
        return load(folder)
    if not is_named(*bus):
        raise DeptbusError(
            "no contract named",
            mend="Give --contract DIR, or name the bus by --data, --bootstrap or DEPTBUS_BOOTSTRAP",
        )
    return (await read_policies(connect(*bus))).current().contract

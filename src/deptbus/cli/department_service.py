"""`deptbus department service`: the unit by which systemd looks after a department's adapter."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, is_named
from deptbus.errors import DeptbusError

_PASSWORD = "DEPTBUS_SASL_PASSWORD"


def service(
    config: Annotated[
        list[Path], typer.Option("--config", help="A department.yml; may be repeated.")
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder for the unit, as /etc/systemd/system; else it is shown."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the unit; else deptbus-LINE-TERRITORY.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", help="Who runs it; else the owner of the first department.yml."),
    ] = None,
    environment_file: Annotated[
        Path | None,
        typer.Option(
            "--environment-file",
            help="File of NAME=value lines with what department.yml takes from the environment.",
        ),
    ] = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Write a systemd unit that runs the adapter after every reboot. It holds no password."""
    from deptbus.contract.department import variables_in
    from deptbus.department.service_unit import unit_text
    from deptbus.names import unit_in_topic

    files = [path.absolute() for path in config]
    if not is_named(data, bootstrap, client_file):
        raise DeptbusError(
            "no bus named", mend="Give --client-file FILE, --bootstrap HOST:PORT or --data DIR"
        )
    run_by = user or _owner(files[0])
    _check_secrets(
        files, {v for f in files for v in variables_in(f)}, environment_file, client_file, run_by
    )
    _check_connection(data, bootstrap, client_file)
    units = [_unit_of(path, environment_file) for path in files]
    text = unit_text(
        units,
        [*_program(), *_arguments(files, data, bootstrap, client_file)],
        user=run_by,
        environment=_settings(bootstrap),
        environment_file=None if environment_file is None else environment_file.absolute(),
    )
    if to is None:
        print(text, end="")
        return
    named = name or f"deptbus-{unit_in_topic(units[0])}"
    path = to / f"{named.removesuffix('.service')}.service"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DeptbusError(f"{path} cannot be written: {error.strerror}") from None
    print(f"wrote {path}")
    print(f"systemctl daemon-reload && systemctl enable --now {path.name}")
    print(f"its log: journalctl -u {path.name}")


def _owner(path: Path) -> str:
    number = path.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # of another machine, or a container's: systemd takes the number as well
        return str(number)


def _check_connection(data: Path | None, bootstrap: str | None, client: Path | None) -> None:
    """What is wrong with how the bus is to be reached is told now too; whether one is there is not
    asked, so of `--data` nothing is."""
    from deptbus.connection import find_connection

    address = bootstrap if data is None else (bootstrap or "as-the-folder-says:0")
    find_connection(bootstrap=address, client_file=client).aiokafka()


def _check_secrets(
    files: Sequence[Path],
    variables: set[str],
    environment_file: Path | None,
    client: Path | None,
    user: str,
) -> None:
    """What the process will ask for must be in a file that only its user may read."""
    if variables and environment_file is None:
        raise DeptbusError(
            f"{files[0]} takes {', '.join(sorted(variables))} from the environment",
            mend="Put NAME=value lines into a file that only the adapter's user may read, and give "
            "it by --environment-file",
        )
    if _PASSWORD in os.environ and client is None and environment_file is None:
        raise DeptbusError(
            f"{_PASSWORD} is set, and everybody may read a unit",
            mend="Put the password into a client file that only the adapter's user may read, and "
            "give it by --client-file",
        )
    for path in (environment_file, client):
        if path is not None and _mode(path) & 0o077:
            raise DeptbusError(f"others may read {path}", mend=f"chmod 600 {path}")
        if path is not None and path.stat().st_uid != _number(user, path) != 0:
            raise DeptbusError(
                f"{user} may not read {path}", mend=f"chown {user} {path}, or give another --user"
            )


def _number(user: str, path: Path) -> int:
    """The user's; of one that this machine does not know it is not asked what he may read."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return int(user) if user.isdigit() else path.stat().st_uid


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:
        raise DeptbusError(f"{path} cannot be read: {error.strerror}") from None


def _unit_of(path: Path, environment_file: Path | None) -> str:
    """Reads the whole file: what is wrong in it is told now, and not by a service that ends."""
    from deptbus.connection import lines_of
    from deptbus.contract.department import load_department

    given = dict(os.environ)
    if environment_file is not None:
        for line in lines_of(environment_file, "environment file"):
            key, equals, value = line.strip().partition("=")
            if equals and not key.startswith("#"):
                given[key.strip()] = value.strip().strip("\"'")
    return load_department(path, given).unit


def _program() -> list[str]:
    """By which this very installation is started, wherever its environment lies."""
    return [sys.executable, "-m", "deptbus.cli.main"]


def _arguments(
    files: Sequence[Path], data: Path | None, bootstrap: str | None, client: Path | None
) -> list[str]:
    words = ["department", "run"]
    for path in files:
        words += ["--config", str(path)]
    if client is not None:
        words += ["--client-file", str(client.absolute())]
    if bootstrap is not None:
        words += ["--bootstrap", bootstrap]
    elif data is not None:
        words += ["--data", str(data.absolute())]
    return words


def _settings(bootstrap: str | None) -> dict[str, str]:
    """Settings of the connection that stand in our environment, but for the password."""
    from deptbus.connection import Connection

    names = (f"DEPTBUS_{name.upper()}" for name in Connection.model_fields)
    found = {name: os.environ[name] for name in names if name in os.environ and name != _PASSWORD}
    # The service is started elsewhere than here.
    found |= {n: str(Path(v).absolute()) for n, v in found.items() if n.endswith("_FILE")}
    if bootstrap is not None:
        found.pop("DEPTBUS_BOOTSTRAP", None)
    return found

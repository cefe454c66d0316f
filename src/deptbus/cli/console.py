"""`deptbus console`: the web page of the data office, and who may come in."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, connect, who
from deptbus.console.roles import Role
from deptbus.errors import DeptbusError, Exit

if TYPE_CHECKING:
    from deptbus.console.accounts import Account

app = typer.Typer(help="Serve the web page of the data office.", invoke_without_command=True)
account = typer.Typer(help="Make and remove the accounts that may log in.", no_args_is_help=True)
app.add_typer(account, name="account")

TICKETS_FOLDER = ".run/tickets"  # below the folder of a bus
ADDRESS_FILE = ".run/console-address"
_NICE = 10  # pages may wait for a processor, deliveries may not

Accounts = Annotated[
    Path, typer.Option("--accounts", help="The file of local accounts.", envvar="DEPTBUS_ACCOUNTS")
]


@app.callback()
def console(
    context: typer.Context,
    listen: Annotated[
        str | None, typer.Option("--listen", help="HOST:PORT; else 127.0.0.1:8420.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="File of settings, console.yml.")
    ] = None,
    accounts: Annotated[
        Path | None,
        typer.Option("--accounts", help="File of local accounts.", envvar="DEPTBUS_ACCOUNTS"),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option("--public-url", help="As people type it, where a proxy ends TLS before it."),
    ] = None,
    department: Annotated[
        list[Path] | None,
        typer.Option(
            "--department",
            help="A department.yml: records of that unit can be found by their own number here.",
        ),
    ] = None,
    monitor: Annotated[
        bool,
        typer.Option("--monitor/--no-monitor", help="Be the monitor of this bus as well."),
    ] = False,
    monitor_settings: Annotated[
        Path | None,
        typer.Option(
            "--monitor-settings",
            envvar="DEPTBUS_MONITOR_SETTINGS",
            help="With --monitor: file that says how alarms reach people.",
        ),
    ] = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Serve the console until it is stopped. It listens on this machine only, unless told, and then
    with TLS only."""
    if context.invoked_subcommand is not None:
        return
    from deptbus.console.server import serve
    from deptbus.console.settings import load_settings
    from deptbus.logs import set_up_logging
    from deptbus.operations.alarm_settings import AlarmSettings, read_alarm_settings
    from deptbus.readiness import await_go, tell_ready

    settings = load_settings(
        config,
        listen=listen,
        accounts=accounts,
        public_url=public_url,
        departments=department or None,
        tickets=None if data is None else data / TICKETS_FOLDER,
    )
    alarms = None
    if monitor and monitor_settings is not None:
        alarms = read_alarm_settings(monitor_settings)
    elif monitor:
        alarms = AlarmSettings()
    set_up_logging(service=True)
    os.nice(_NICE)
    await_go()

    def ready() -> None:
        if data is not None:
            (data / ADDRESS_FILE).write_text(settings.base_url, encoding="utf-8")
        print(f"console at {settings.base_url}", file=sys.stderr, flush=True)
        tell_ready()

    asyncio.run(serve(connect(data, bootstrap, client_file), settings, ready, alarms))


@app.command()
def link(
    data: Annotated[Path, typer.Option("--data", help="Folder of the bus that `up` runs.")],
    operator: Annotated[
        str | None,
        typer.Option(
            "--operator",
            envvar="DEPTBUS_OPERATOR",
            help="Whom acts are recorded of; else the user of the operating system.",
        ),
    ] = None,
) -> None:
    """Print a link that lets one browser in once, within 15 minutes: for whoever may write into the
    folder of the bus."""
    print(link_of(data, who(operator)))


def address_in(data: Path) -> str:
    """Where the console of this bus is, or was last. Raises DeptbusError."""
    try:
        return (data / ADDRESS_FILE).read_text(encoding="utf-8")
    except OSError:
        raise DeptbusError(
            f"no console runs for {data}", mend=f"Start one: `deptbus console --data {data}`"
        ) from None


def link_of(data: Path, name: str) -> str:
    """The console's address with a fresh ticket behind its `#`, which no server is told. Raises
    DeptbusError."""
    from deptbus.console.accounts import checked_name
    from deptbus.console.tickets import make_ticket

    return f"{address_in(data)}/enter#{make_ticket(data / TICKETS_FOLDER, checked_name(name))}"


@account.command()
def add(
    name: Annotated[str, typer.Argument(help="The name to log in with; it stands in the audit.")],
    accounts: Accounts,
    role: Annotated[list[Role], typer.Option("--role", help="What they may do; repeatable.")],
    unit: Annotated[str, typer.Option("--unit", help="A clerk's own, `line@territory`.")] = "",
) -> None:
    """Make an account. The password is asked for twice, or read from a pipe; it never stands on the
    command line."""
    from deptbus.console.accounts import (
        Account,
        checked_name,
        password_hash,
        read_accounts,
        write_accounts,
    )
    from deptbus.console.roles import person_of

    known = read_accounts(accounts)
    if checked_name(name) in known:
        raise DeptbusError(
            f"{name} has an account already", mend="See `deptbus console account ls`"
        )
    try:
        person = person_of(name, frozenset(role), unit)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    made = Account(person, password_hash(_typed_password()))
    write_accounts(accounts, {**known, name: made})
    print(f"{name} may log in as {', '.join(sorted(person.roles))}")


@account.command()
def ls(accounts: Accounts) -> None:
    """List the accounts: name, roles, unit."""
    from deptbus.console.accounts import read_accounts

    for name, one in sorted(read_accounts(accounts).items()):
        print(f"{name}\t{','.join(sorted(one.person.roles))}\t{one.person.unit}".rstrip("\t"))


@account.command()
def remove(name: Annotated[str, typer.Argument(help="Whose account.")], accounts: Accounts) -> None:
    """Remove an account; its sessions end at their next request."""
    from deptbus.console.accounts import write_accounts

    known = _known(accounts, name)
    write_accounts(accounts, {n: a for n, a in known.items() if n != name})
    print(f"{name} has no account any more")


@account.command()
def password(
    name: Annotated[str, typer.Argument(help="Whose account.")], accounts: Accounts
) -> None:
    """Give an account another password; its sessions end at their next request."""
    from deptbus.console.accounts import Account, password_hash, write_accounts

    known = _known(accounts, name)
    made = Account(known[name].person, password_hash(_typed_password()))
    write_accounts(accounts, {**known, name: made})
    print(f"{name} has another password")


def _known(accounts: Path, name: str) -> dict[str, Account]:
    from deptbus.console.accounts import read_accounts

    known = read_accounts(accounts)
    if name not in known:
        error = DeptbusError(f"{name} has no account", mend="See `deptbus console account ls`")
        error.exit_code = Exit.ANSWER_IS_NO
        raise error
    return known


def _typed_password() -> str:
    """On a terminal twice and unseen; else the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return typed

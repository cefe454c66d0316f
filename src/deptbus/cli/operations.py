"""`deptbus operations`: the data office's long-running process."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import (
    Bootstrap,
    CertificateKey,
    ClientFile,
    Data,
    Operator,
    Reason,
    bus_key,
    connect,
    who,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from deptbus.connection import Connection
    from deptbus.operations.office import Settings

app = typer.Typer(help="Run jobs and the keeper of the canonical topics.", no_args_is_help=True)


@app.command()
def run(
    keeper_hours: Annotated[
        float,
        typer.Option(
            "--keeper-hours", min=0.001, max=24, help="Hours between two runs of the keeper."
        ),
    ] = 6.0,
    jobs_at_once: Annotated[
        int, typer.Option("--jobs-at-once", min=1, help="Recipients that jobs send to at once.")
    ] = 8,
    certificate_key: CertificateKey = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Bring recipients to the contract in force, end grants on their day, keep canonical topics
    whole, prove copies at night; until SIGINT or SIGTERM. Several may run: one leads, the others
    wait to take over."""
    from deptbus.logs import set_up_logging
    from deptbus.operations.nightly import nightly
    from deptbus.operations.office import Settings
    from deptbus.operations.proposal_duty import proposals_carried
    from deptbus.readiness import await_go

    connection = connect(data, bootstrap, client_file)
    set_up_logging(service=True)
    await_go()
    has_key = certificate_key is not None or data is not None

    def key() -> Ed25519PrivateKey:
        from deptbus.operations.certificate_key import ensure_key, key_path

        return ensure_key(key_path(data, certificate_key))[0]

    signs = key if has_key else None
    further = (nightly(connection, signs), proposals_carried(connection, signs))
    settings = Settings(
        keeper_interval_hours=keeper_hours, jobs_at_once=jobs_at_once, further=further
    )
    asyncio.run(_run(connection, settings))


@app.command()
def resend(
    unit: Annotated[str, typer.Option("--unit", help="The source unit, `line@territory`.")],
    dataset: Annotated[str, typer.Option("--dataset", help="The dataset of the record.")],
    key: Annotated[
        str | None,
        typer.Option("--key", help="The bus key: 32 hexadecimal digits; else every record."),
    ] = None,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Ask a source, over the bus, to publish a record's present state once more.

    Its adapter does so as soon as it runs.
    """
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.resend import request_resend
    from deptbus.stream.policies import read_policies

    connection = connect(data, bootstrap, client_file)
    raw = None if key is None else bus_key(key)
    by, why = operator_of(connection, who(operator)), checked_reason(reason) if reason else ""

    async def ask() -> str:
        policy = (await read_policies(connection)).current()
        return await request_resend(connection, policy, unit, dataset, raw, by=by, reason=why)

    print(f"asked {unit}: request {asyncio.run(ask())}")


async def _run(connection: Connection, settings: Settings) -> None:
    from deptbus.operations.office import run_office
    from deptbus.readiness import tell_ready

    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    working = asyncio.create_task(run_office(connection, settings, tell_ready))
    ending = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        ending.cancel()
        working.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)

"""Runs the console until it is stopped: one watcher, one web server, in one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
import uvicorn
from starlette.routing import Route
from starlette.types import ASGIApp

from deptbus.connection import Connection
from deptbus.console.app import console_of, make_app
from deptbus.console.desk import BusDesk
from deptbus.console.settings import Settings
from deptbus.console.snapshot import Board
from deptbus.console.watcher import Watcher
from deptbus.metrics.address import address_of
from deptbus.operations.alarm_settings import AlarmSettings
from deptbus.operations.live_feed import BusFeed
from deptbus.operations.lookout import Lookout, Pace
from deptbus.operations.monitor import Monitor
from deptbus.operations.monitor_http import schema_routes, watch_routes
from deptbus.operations.verdicts import USUAL
from deptbus.operations.web_server import WebServer, taken

log = structlog.get_logger(__name__)

PACE = Pace(look=2.0)
_GRACE_SECONDS = 2.0  # for pages that are being drawn when it ends


async def serve(
    connection: Connection,
    settings: Settings,
    ready: Callable[[], None],
    alarms: AlarmSettings | None = None,
) -> None:
    """Until SIGINT or SIGTERM. `ready` is called when it listens. Raises DeptbusError when it
    cannot; a bus that is not there is shown on the pages.

    `alarms`: it is the monitor of this bus as well: tells people, and machines that ask."""
    board = Board()
    monitor = None if alarms is None else Monitor(connection, alarms, pace=PACE)
    lookout = Lookout(connection, USUAL, _nothing, PACE) if monitor is None else monitor.lookout
    watcher = Watcher(connection, board, lookout, BusFeed(connection))
    desk = BusDesk(connection, settings.departments)
    console = console_of(settings, board, desk, watcher.wake)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async def watch() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task((monitor or lookout).run())
                group.create_task(watcher.run())

        watching = asyncio.create_task(watch(), name="watch the bus")
        watching.add_done_callback(_ended)
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    for_machines: list[Route] = []
    if monitor is not None:
        for_machines = [*watch_routes(monitor), *schema_routes(monitor.schemas.registry)]
    app = make_app(console, for_machines, lifespan)
    # Open streams end before it waits for them.
    server = WebServer(_configured(settings, app), ready, board.close)
    watch_error: list[BaseException] = []

    def _ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            watch_error.append(error)
            server.should_exit = True

    with taken(address_of(settings.listen), "the console") as listening:
        await server.serve([listening])
    if watch_error:
        raise watch_error[0]  # our own bug: whoever looks after processes starts us anew


async def _nothing() -> None:
    """Nobody is told of alarms here."""


def _configured(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        log_config=None,  # ours stands
        access_log=False,  # an address may be somebody's typing error with a number in it
        server_header=False,
        date_header=True,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=int(_GRACE_SECONDS),
        limit_concurrency=1000,
        h11_max_incomplete_event_size=32 * 1024,
    )

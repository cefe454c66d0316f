"""Runs the monitor and serves it over HTTP until it is asked to stop; then it ends within 5 s."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

import structlog
import uvicorn

from deptbus.metrics.address import Address
from deptbus.operations.monitor import Monitor
from deptbus.operations.monitor_http import monitor_app
from deptbus.operations.web_server import WebServer, taken

log = structlog.get_logger(__name__)

_ANSWERS_SECONDS = 1.0  # for answers that are on their way
_STOP_SECONDS = 4.5  # then it ends, whatever a bus that is away has not answered


async def serve(monitor: Monitor, address: Address, begun: Callable[[], None]) -> None:
    """`begun` is called once it answers. Raises DeptbusError where the address cannot be taken;
    whatever else happens, it goes on until SIGINT or SIGTERM."""
    with taken(address, "the monitor") as listening:
        # Nothing of what is asked is logged: paths are whatever a stranger writes.
        config = uvicorn.Config(
            monitor_app(monitor),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=int(_ANSWERS_SECONDS),
        )
        server = WebServer(config, begun, _leave_in_time)
        serving = asyncio.create_task(server.serve([listening]))
        watching = asyncio.create_task(monitor.run())
        try:
            await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await asyncio.wait((serving,), timeout=_ANSWERS_SECONDS)
        finally:
            for task in (serving, watching):
                task.cancel()
            results = await asyncio.gather(serving, watching, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result


async def _leave_in_time() -> None:
    def leave() -> None:
        log.warning("stop_took_too_long")
        os._exit(0)

    limit = threading.Timer(_STOP_SECONDS, leave)
    limit.daemon = True
    limit.start()

"""Runs the monitor and serves it over HTTP until it is asked to stop; then it ends within 5 s."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
import uvicorn

from deptbus.errors import DeptbusError
from deptbus.metrics.address import Address
from deptbus.operations.monitor import Monitor
from deptbus.operations.monitor_http import monitor_app

log = structlog.get_logger(__name__)

_ANSWERS_SECONDS = 1.0  # for answers that are on their way
_STOP_SECONDS = 4.5  # then it ends, whatever a bus that is away has not answered


class _Server(uvicorn.Server):
    """Tells when it answers. Signals are the caller's: uvicorn would end the process by the one
    that asked it to."""

    def __init__(self, config: uvicorn.Config, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(monitor: Monitor, address: Address, begun: Callable[[], None]) -> None:
    """`begun` is called once it answers. Raises DeptbusError where the address cannot be taken;
    whatever else happens, it goes on until SIGINT or SIGTERM."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
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
        server = _Server(config, begun)
        parts = [
            asyncio.create_task(server.serve([listening])),
            asyncio.create_task(monitor.run()),
        ]
        stopping = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait((parts[1], stopping), return_when=asyncio.FIRST_COMPLETED)
            _leave_in_time()
            server.should_exit = True
            await asyncio.wait((parts[0],), timeout=_ANSWERS_SECONDS)
        finally:
            for task in (*parts, stopping):
                task.cancel()
            results = await asyncio.gather(*parts, stopping, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result


@contextmanager
def taken(address: Address, who: str) -> Iterator[socket.socket]:
    """Listens there, before a server that would end the process by itself where it cannot."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        found = socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise DeptbusError(
            f"{who} cannot listen at {address} ({why})",
            mend="Name another one with --listen HOST:PORT, or end what has that one",
        ) from None
    with found:
        yield found


def _leave_in_time() -> None:
    def leave() -> None:
        log.warning("stop_took_too_long")
        os._exit(0)

    limit = threading.Timer(_STOP_SECONDS, leave)
    limit.daemon = True
    limit.start()

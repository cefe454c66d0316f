"""The web server of monitor and console: uvicorn, with an end and an address of our own."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn

from deptbus.errors import DeptbusError
from deptbus.metrics.address import Address, why_refused


class WebServer(uvicorn.Server):
    """`begun` is called once it listens, `ending` before it waits for answers under way.

    The first SIGINT or SIGTERM ends it in order, the second at once. Neither is raised again after
    the end, as uvicorn would, because it was heard: the process would end by it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        begun: Callable[[], None],
        ending: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._begun, self._ending = begun, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._begun()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._ending()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def ask() -> None:
            self.force_exit, self.should_exit = self.should_exit, True

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask)  # until the loop ends: what follows may take long
        yield


@contextmanager
def taken(address: Address, who: str) -> Iterator[socket.socket]:
    """Listens there, before a server that would end the process by itself where it cannot. Raises
    DeptbusError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        found = socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise DeptbusError(
            f"{who} cannot listen at {address} ({why_refused(error)})",
            mend="Name another one with --listen HOST:PORT, or end what has that one",
        ) from None
    with found:
        yield found

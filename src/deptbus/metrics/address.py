"""Where a process tells its figures, and that it does so while something runs.

Nothing of the client library is imported where no address is given.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deptbus.errors import DeptbusError
from deptbus.metrics.catalogue import Teller
from deptbus.metrics.counts import Counts

METRICS_ADDRESS = "DEPTBUS_METRICS_ADDRESS"


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def next(self, count: int) -> Address:
        """The address of the process that is `count` further."""
        if self.port + count > _LAST_PORT:
            raise DeptbusError(
                f"there is no port {self.port + count}", mend="Name a lower one to begin with"
            )
        return Address(self.host, self.port + count)


_LAST_PORT = 65_535


def address_of(text: str) -> Address:
    """From HOST:PORT. Raises DeptbusError."""
    host, colon, port = text.rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() else 0
    if not (colon and host and 0 < number <= _LAST_PORT):
        raise DeptbusError(f"{text!r} is no address", mend="Give HOST:PORT, as in 127.0.0.1:9464")
    return Address(host.strip("[]"), number)


def why_refused(error: OSError) -> str:
    """Why nobody can listen at an address, in a few words; what Python adds to them repeats it."""
    if isinstance(error, socket.gaierror):
        return "nobody knows that host"
    words = os.strerror(error.errno) if error.errno else error.strerror or type(error).__name__
    return words.lower()


def address_from_environment() -> Address | None:
    """Raises DeptbusError."""
    text = os.environ.get(METRICS_ADDRESS)
    return address_of(text) if text else None


@contextmanager
def served(address: Address | None, component: Teller, counts: Counts) -> Iterator[None]:
    """Raises DeptbusError where the address cannot be taken; does nothing without one."""
    if address is None:
        yield
        return
    from deptbus.metrics.endpoint import CountsCollector, Endpoint, registry_of

    endpoint = Endpoint(address, registry_of(component, CountsCollector(counts)))
    endpoint.start()
    try:
        yield
    finally:
        endpoint.stop()

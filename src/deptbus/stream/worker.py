"""Runs the agents in this process: `deptbus worker`, and `python -m deptbus.stream.worker`.

Exit codes: 0 stopped as asked; 2 could not (the reason is said in one line); 3 the set of topics
changed, start me again; 70 our own bug (start me again too: nothing was acked that was not done).
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import deptbus
from deptbus.connection import Connection, find_connection
from deptbus.errors import DeptbusError
from deptbus.logs import set_up_logging
from deptbus.metrics.address import Address, address_from_environment, served
from deptbus.metrics.catalogue import Teller
from deptbus.metrics.counts import Counts
from deptbus.readiness import await_go
from deptbus.stream.application import STOP_SECONDS, BusApp, leave


def worker_command(connection: Connection) -> list[str]:
    """What to start as a child process, with `connection.environment()` in its environment."""
    return [sys.executable, "-m", "deptbus.stream.worker"]


def agents_parent() -> Path:
    """The folder that holds the package `agents`: in the wheel, or the root of the checkout."""
    package = Path(deptbus.__file__).parent
    bundled = package / "bundled"
    return bundled if (bundled / "agents").is_dir() else package.parents[1]


def run_worker(connection: Connection, metrics: Address | None = None) -> int:
    """Works until it is asked to stop (SIGTERM, SIGINT) or has to end; returns the exit code. Tells
    its figures at `metrics`.

    Raises DeptbusError when it cannot start. For one call per process: it takes the signals, and
    leaves by itself when something must not go on.
    """
    os.environ.update(connection.environment())
    sys.path.insert(0, str(agents_parent()))
    with suppress(ImportError):
        import uvloop

        # The policy, not a runner's loop factory: the consumer's thread makes its own loop.
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asking = _Asking()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asking.take)
    # Before anything is asked of the bus: an address that is taken is said at once.
    with served(metrics, Teller.WORKER, counts := Counts()):
        return asyncio.run(_run(asking, counts))


class _Asking:
    """Being asked to stop. Python's own handler, not the loop's: it is called while a loop is stuck
    in one of our computations too, and a thread ends the process if nothing else does in time."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[int] | None = None
        self._is_asked = False

    def future(self) -> asyncio.Future[int]:
        """Done as soon as we are asked. Until it is called there is nothing that has to stop."""
        self._asked = asyncio.get_running_loop().create_future()
        return self._asked

    def take(self, number: int, frame: object) -> None:
        if self._asked is None:
            leave(0, "asked_to")
        if self._is_asked:
            return
        self._is_asked = True
        limit = threading.Timer(STOP_SECONDS, leave, (0, "stop_took_too_long"))
        limit.daemon = True
        limit.start()
        self._asked.get_loop().call_soon_threadsafe(self._asked.set_result, 0)


async def _run(asking: _Asking, counts: Counts) -> int:
    # Here and not before: what Faust makes at import belongs to the running loop.
    app: BusApp = importlib.import_module("agents").app
    app.counts = counts
    asked = asking.future()
    starting = asyncio.ensure_future(app.start())
    await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and not asked.done():
        starting.result()
        await asyncio.wait((app.desk.ending, asked), return_when=asyncio.FIRST_COMPLETED)
    code = 0 if asked.done() else app.desk.ending.result()
    starting.cancel()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await app.stop()
    except TimeoutError:
        leave(code, "stop_took_too_long")
    return code


def main() -> None:
    set_up_logging(service=True)
    await_go()
    try:
        code = run_worker(find_connection(), address_from_environment())
    except DeptbusError as error:
        print(f"deptbus worker: {error}", file=sys.stderr)
        code = int(error.exit_code)
    sys.exit(code)


if __name__ == "__main__":
    main()

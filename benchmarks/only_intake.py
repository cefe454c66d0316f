"""A real worker with the agent `intake` alone, so that its cost stands by itself.

python -m benchmarks.only_intake BOOTSTRAP
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

from faust.types import StreamT

from deptbus.connection import Connection
from deptbus.logs import set_up_logging
from deptbus.stream.application import app_from_environment
from deptbus.stream.worker import run_worker


class _Agents(ModuleType):
    """Stands for the package `agents`; made when the worker asks for its app, as that one is."""

    def __getattr__(self, name: str) -> object:
        if name != "app":
            raise AttributeError(name)
        app = app_from_environment()

        @app.agent(app.outboxes, name="intake")
        async def intake(stream: StreamT) -> None:
            await app.feed(stream, app.gate.take_in)

        self.app = app
        return app


def main() -> int:
    os.environ["DEPTBUS_BOOTSTRAP"] = bootstrap = sys.argv[1]
    sys.modules["agents"] = _Agents("agents")
    set_up_logging(service=True)
    return run_worker(Connection(bootstrap=bootstrap))


if __name__ == "__main__":
    sys.exit(main())

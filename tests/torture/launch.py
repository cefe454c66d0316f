"""Becomes a worker, an adapter, a command or `up`, after the patches that it is given were put in.

    python launch.py ROLE PATCHES ARGUMENTS...

PATCHES is `-` or names `module:function` separated by commas (modules of this package); each
function is called before anything of the product runs. With `up` the patches go to the children.
"""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path

FILE = Path(__file__).resolve()
sys.path[0:0] = [str(FILE.parents[1]), str(FILE.parents[2])]
COMMANDS = {
    "adapter": ("department", "run"),
    "snapshot": ("department", "snapshot"),
    "operations": ("operations", "run"),
    "command": (),  # whatever its arguments say
}


def words_of(role: str, patches: list[str], *arguments: str) -> list[str]:
    """What Python is to run for a child of this role."""
    return [str(FILE), role, ",".join(patches) or "-", *arguments]


def launched(role: str, patches: list[str], *arguments: str) -> list[str]:
    """The same as a command line."""
    return [sys.executable, *words_of(role, patches, *arguments)]


def main() -> None:
    role, patches, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
    named = [] if patches == "-" else patches.split(",")
    if role == "up":
        _up(named, *arguments)
        return
    for name in named:
        module, _, function = name.partition(":")
        getattr(importlib.import_module(f"torture.{module}"), function)()
    if role == "worker":
        from deptbus.stream import worker

        worker.main()
    else:
        from deptbus.cli.main import main as command

        command([*COMMANDS[role], *arguments])


def _up(patches: list[str], data: str, workers: str, adapters: str) -> None:
    """`deptbus up --embedded` with patched children."""
    from deptbus.cli.up import ensure_contract, tell
    from deptbus.cluster.up import Bus, Commands, Shape, run
    from deptbus.logs import set_up_logging

    set_up_logging()
    commands = Commands(
        worker=tuple(launched("worker", _of("worker", patches))),
        operations=tuple(launched("operations", _of("operations", patches))),
        adapter=tuple(launched("adapter", _of("adapter", patches))),
    )
    shape = Shape(None, int(workers), int(adapters))
    run(
        Bus(Path(data), shape, tell, commands), functools.partial(ensure_contract, Path(data), None)
    )


def _of(role: str, patches: list[str]) -> list[str]:
    """With `up` a patch is written `role=module:function`."""
    return [p.partition("=")[2] for p in patches if p.startswith(f"{role}=")]


if __name__ == "__main__":
    main()

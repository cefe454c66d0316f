"""What a process does not use it does not import either: each that is started pays for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deptbus.lean import without

# The processes that `deptbus up` starts, and what their dependencies would bring along.
PROCESSES = {
    "worker": "deptbus.stream.worker, deptbus.stream.application",
    "adapter": "deptbus.cli.department, deptbus.department.adapter",
    "operations": "deptbus.cli.operations, deptbus.operations.office",
}
UNUSED = ("rich", "pygments", "aiohttp", "pydantic_settings", "holidays", "starlette", "jinja2")


@pytest.mark.parametrize("modules", PROCESSES.values(), ids=PROCESSES)
def test_a_process_imports_nothing_that_it_does_not_use(modules: str) -> None:
    code = f"import sys, {modules}; print(*[m for m in {UNUSED!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_what_was_left_out_can_be_imported_behind_it() -> None:
    code = (
        "import deptbus.stream.application, aiohttp.client, rich.console; "
        "from deptbus.stream.application import faust; "
        "from faust.types.web import HttpClientT; print(aiohttp.client.ClientSession.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ClientSession"


def test_what_is_there_stays_there() -> None:
    import json

    with without("json"):
        import json as again
    assert again is json
    assert sys.modules["json"] is json


def test_in_the_block_it_is_not_found() -> None:
    with without("a_module_of_nobody"), pytest.raises(ImportError):
        __import__("a_module_of_nobody")
    with without("a_module_of_nobody", word=1):
        assert __import__("a_module_of_nobody").word == 1
    assert "a_module_of_nobody" not in sys.modules

"""What jobs read from a canonical topic: changes, markers that are none, bytes that are refused."""

from __future__ import annotations

from typing import Any, cast

from structlog.testing import capture_logs

from deptbus.change import Incarnation
from deptbus.operations.library import Library
from deptbus.stream.data import marker_key
from deptbus.stream.log import LogRecord
from deptbus.wire.control import Marker, encode_control


class _NoPolicies:
    def history(self) -> dict[int, Any]:
        return {}

    async def refresh(self) -> None:
        return None


async def _decoded(key: bytes, value: bytes) -> tuple[object, list[str]]:
    with capture_logs() as told:
        library = Library(cast(Any, _NoPolicies()))
        found = await library.decode(LogRecord("data.resident", 0, 7, 0, key, value))
    return found, [event["event"] for event in told]


async def test_a_marker_is_no_change_and_no_matter() -> None:
    marker = Marker("m", "cut", "police@330106", "main", Incarnation(1, b"12345678"), 1)
    assert await _decoded(marker_key(marker), encode_control(marker)) == (None, [])


async def test_bytes_that_are_no_change_are_told() -> None:
    assert await _decoded(b"k" * 16, b"\x00\x00\x00\x00\x01x") == (None, ["change_refused"])

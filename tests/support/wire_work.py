"""How much work a call makes: lines of this package that run, which no slow machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from deptbus.errors import WireRefused


class TooMuchWork(AssertionError):
    """The call ran more lines than it may; it was stopped there."""


def lines_run(call: Callable[[], Any], most: int = 1_000_000) -> int:
    """Lines (those of generated source included) that run until the call returns or is refused.

    Raises TooMuchWork beyond `most`, so that a loop without end fails and does not hang.
    """
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if "deptbus" not in frame.f_code.co_filename:
            return None
        if event == "line":
            count += 1
            if count > most:
                raise TooMuchWork
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except WireRefused:
        pass
    finally:
        sys.settrace(before)
    return count

"""Keeps what nobody uses out of a process: every one that we start pays for what it imports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def without(*names: str, **stands_in: Any) -> Iterator[None]:
    """In the block these modules are not found, or, where words are given, are empty but for them.
    Behind it they are imported as ever. What is imported already stays as it is, and so does
    everything that has it."""
    left_out = [name for name in names if name not in sys.modules]
    for name in left_out:
        module = ModuleType(name) if stands_in else None
        if module is not None:
            vars(module).update(stands_in)
        sys.modules[name] = module  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]

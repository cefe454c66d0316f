"""What one test leaves behind in the process, and another must not meet."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets the log up for itself: only what is wrong is told.
    A later test that waits for a line at `info` would wait in vain. Also before each test, because
    fixtures that outlive one run commands too."""
    structlog.reset_defaults()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()

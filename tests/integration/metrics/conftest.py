"""promtool, from Debian's package of Prometheus."""

from __future__ import annotations

import pytest
from prometheus_tools import find_promtool


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of the program."""
    return find_promtool()

"""promtool, from Debian's package of Prometheus."""

from __future__ import annotations

import pytest
from debian import NotToBeHad
from installed import is_ci
from prometheus_tools import promtool as find_promtool


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of the program. Where it is not to be had the tests skip; in CI that fails."""
    try:
        return find_promtool()
    except NotToBeHad as error:
        if is_ci():
            raise
        pytest.skip(str(error))

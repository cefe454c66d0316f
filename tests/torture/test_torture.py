"""The bounded form of every scenario: nothing is found."""

from __future__ import annotations

import os

import pytest

from deptbus.errors import NoNetwork

from .run import run_scenario
from .scenario import scenarios

# `calm` is part of all others.
SCENARIOS = {name: s for name, s in scenarios().items() if name != "calm"}


@pytest.mark.service
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_found(name: str) -> None:
    try:
        verdict = run_scenario(SCENARIOS[name], short=True)
    except NoNetwork as error:  # the broker's first download
        if os.environ.get("DEPTBUS_REQUIRE_SERVICES") == "1" or os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    assert verdict.is_clean, "\n".join(verdict.findings)
    assert verdict.counted["foreign_checked"].get("data", 0) > 0

"""A mistake that is put in on purpose is found, and named by its kind.

All of them in CI; at a desk the first of each scenario, since each takes a bus of its own.
"""

from __future__ import annotations

import os

import pytest

from .run import run_scenario
from .scenario import scenarios

SCENARIOS = scenarios()
COUNT = None if os.environ.get("CI") == "true" else 1
BUGS = [(name, bug) for name, s in SCENARIOS.items() for bug in list(s.bugs)[:COUNT]]


@pytest.mark.service
@pytest.mark.parametrize(("name", "bug"), BUGS, ids=lambda word: word)
def test_a_planted_mistake_is_found(name: str, bug: str) -> None:
    scenario = SCENARIOS[name]
    verdict = run_scenario(scenario, short=True, bug=bug)
    found = {kind for kind, count in verdict.counts.items() if count}
    assert found & set(scenario.bugs[bug].shows), verdict.findings

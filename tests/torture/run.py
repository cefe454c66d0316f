"""Runs one scenario in a world of its own, for the command line and for the tests."""

from __future__ import annotations

import time
from collections.abc import Callable

from .scenario import Scenario
from .verdict import Verdict
from .world import World


def run_scenario(
    scenario: Scenario,
    *,
    seed: int = 1,
    short: bool = True,
    bug: str | None = None,
    say: Callable[[str], None] = print,
) -> Verdict:
    """Raises what kept it from being run to its end."""
    planted = scenario.bugs[bug] if bug is not None else None
    verdict = Verdict(scenario.name, seed=seed, bug=bug)
    began = time.monotonic()
    world = World(verdict, seed=seed, short=short, bug=planted, say=say)
    try:
        verdict = scenario.run(world, seed, short)
    finally:
        world.close()
        verdict.seconds = time.monotonic() - began
    return verdict

"""No fault at all: what the others are compared with, and the cheapest place to show a mistake."""

from __future__ import annotations

from .scenario import Scenario
from .verdict import Verdict
from .world import World


def run(world: World, seed: int, short: bool) -> Verdict:
    world.begin()
    world.watch()
    world.start_default()
    world.write(600 if short else 6_000, per_second=200)
    return world.conclude()


SCENARIO = Scenario("calm", "nothing is broken: inserts, updates, moves, deletes, new keys", run)

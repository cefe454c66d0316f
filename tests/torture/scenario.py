"""What a scenario is, and the list of all.

A scenario is a module here with a constant SCENARIO. `run(world, seed, short)` starts what it needs
of the world (nothing runs yet), breaks it, lets the witness decide, and returns the verdict; the
caller closes the world. A planted bug names patches for child processes (`module:function`, see
launch.py) by role; a scenario may look at `world.bug` as well, for a bug of one of its own doubles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from .verdict import KINDS, Verdict

if TYPE_CHECKING:
    from .world import World

ROLES = ("worker", "adapter", "operations", "command")


@dataclass(frozen=True)
class Bug:
    """A mistake that is put in on purpose: at least one of `shows` must be found then."""

    what: str
    shows: tuple[str, ...]
    patches: Mapping[str, Sequence[str]] = field(default_factory=dict)
    # Which of its moments a scenario goes through for it; in `calm`, where a child is killed.
    moments: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert set(self.shows) <= KINDS.keys(), self.shows
        assert set(self.patches) <= set(ROLES), self.patches


@dataclass(frozen=True)
class Scenario:
    name: str
    does: str  # one line
    run: Callable[[World, int, bool], Verdict]
    bugs: Mapping[str, Bug] = field(default_factory=dict)


# Modules of this package, in the order in which they are run.
MODULES = (
    "calm",
    "kills",
    "zombies",
    "brokers",
    "leaders",
    "databases",
    "bad_bytes",
    "poison",
    "backlog",
    "policies",
    "replays",
    "adoption",
)


def scenarios() -> dict[str, Scenario]:
    found = [import_module(f".{name}", __package__).SCENARIO for name in MODULES]
    return {scenario.name: scenario for scenario in found}

"""The parts of `make bench`: each module here is one, and nothing else needs to know of it.

A part has
- `ABOUT`: one line for `--list`;
- `async def run(bench: Bench) -> list[Figure]`;
- optionally `BY_NAME_ONLY = True`: runs only when it is named (it takes long), or
  `NOT_IN_QUICK = True`: the quick form leaves it out unless it is named.

Its name is that of its module. What several parts share lies in `benchmarks/`, not here.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def is_by_name_only(part: ModuleType) -> bool:
    return bool(getattr(part, "BY_NAME_ONLY", False))


def is_in_quick(part: ModuleType) -> bool:
    return not (is_by_name_only(part) or getattr(part, "NOT_IN_QUICK", False))

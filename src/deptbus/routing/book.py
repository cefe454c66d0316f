"""What routing looks up: one dataset under one policy, and the right of one unit to one place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deptbus.change import Direction
from deptbus.contract.model import Grant, Policy, Sharing


class Book:
    """One dataset of one policy, arranged for looking up."""

    def __init__(self, name: str, policy: Policy, grants: Iterable[Grant]) -> None:
        contract = policy.contract
        self.name = name
        self.dataset = contract.datasets[name]
        self.versions = {v: contract.field_names(name, v) for v in contract.schema_versions(name)}
        shared = {f for f, s in self.dataset.sharing.items() if s is not Sharing.NOT_SHARED}
        self.published = shared & {f for names in self.versions.values() for f in names}
        self.unconditional = {
            f for f in self.published if self.dataset.sharing[f] is Sharing.UNCONDITIONAL
        }
        self.grants_to: dict[str, list[Grant]] = defaultdict(list)
        self.granted_in: dict[str, list[str]] = defaultdict(list)  # territory -> units
        for grant in grants:
            if grant.dataset == name and self.published.intersection(grant.fields):
                self.grants_to[grant.unit].append(grant)
                self.granted_in[grant.territory].append(grant.unit)
        self.lines = {line for rule in self.dataset.receivers for line in rule.lines}


@dataclass(frozen=True, slots=True)
class Right:
    """Fields open to a unit about a place: those of the rule, and those that grants add."""

    direction: Direction
    rule: str
    by_rule: frozenset[str]
    by_grant: tuple[tuple[str, frozenset[str]], ...]

    def fields(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(
            f for f in names if f in self.by_rule or any(f in opened for _, opened in self.by_grant)
        )

    def grants(self, names: Iterable[str]) -> tuple[str, ...]:
        wanted = frozenset(names) - self.by_rule
        return tuple(name for name, opened in self.by_grant if opened & wanted)

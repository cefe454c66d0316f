"""A contract as far as it could be read: what the checks look at, and where each part stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deptbus.contract.model import Contract
from deptbus.contract.yaml_tree import Place, Tree
from deptbus.errors import Problem

TOPICS = "topics.yml"
DEPARTMENTS = "departments.yml"
GRANTS = "grants.yml"
SCHEMAS = "schemas"


@dataclass(frozen=True, slots=True)
class Draft:
    """Every part that the files name, with substitutes for what is wrong in it.

    A place is a path of settings within a file; the positions of units, grants and rules are those
    in the file, because no broken part is left out. `unread` names the files of which nothing is
    known, so that nothing in the others is called unknown for their sake; a schema that is there
    but broken is in it as `schemas/resident.v1.avsc`.
    """

    contract: Contract
    trees: Mapping[str, Tree] = field(default_factory=dict)
    suspects: frozenset[tuple[str, Place]] = frozenset()
    unread: frozenset[str] = frozenset()

    def is_sound(self, file: str, place: Place) -> bool:
        """False when an error at this place, or around it, has been told already."""
        return not any((file, place[:n]) in self.suspects for n in range(len(place) + 1))

    def problem(self, file: str, place: Place, what: str, mend: str) -> list[Problem]:
        """A problem at a place; none when the place is known to be wrong."""
        if not self.is_sound(file, place):
            return []
        tree = self.trees.get(file) or Tree(file)
        return [tree.problem(place, what, mend)]


def schema_file(dataset: str, version: int) -> str:
    return f"{SCHEMAS}/{dataset}.v{version}.avsc"

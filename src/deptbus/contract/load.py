"""Reads topics.yml, departments.yml, grants.yml and schemas/ into one checked contract.

All problems are told at once: a file that cannot be read does not hide what is wrong in the others,
and a wrong setting does not hide what is wrong beside it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from deptbus.contract.check import check
from deptbus.contract.draft import DEPARTMENTS, GRANTS, SCHEMAS, TOPICS, Draft
from deptbus.contract.model import (
    DEFAULT_PARTITIONS,
    Calendar,
    Contract,
    Dataset,
    Duty,
    Grant,
    Line,
    Partitions,
    Proofs,
    Rule,
    TwoPeople,
    Unit,
)
from deptbus.contract.schema_lint import lint
from deptbus.contract.shapes import (
    M,
    as_list,
    as_mapping,
    build,
    build_part,
    unknown_settings,
)
from deptbus.contract.yaml_tree import Place, Tree, parse_tree, read_text, read_tree
from deptbus.errors import FileProblems, Problem

_SCHEMA_NAME = re.compile(r"(?P<dataset>[a-z][a-z0-9_]*)\.v(?P<version>[1-9][0-9]{0,5})")

# What stands in for a required setting that is missing or wrong; checks skip such places.
_LINE = {"title": "-", "title_zh": "-"}
_UNIT = {"unit": "", "title": "-", "title_zh": "-", "owner": "-"}
_PROOFS = {"at": "00:00"}
_TWO_PEOPLE = {"acts": ("replay",)}
_DUTY = {"name": "-", "phone": "000"}
_RULE: dict[str, Any] = {"rule": "", "direction": "horizontal", "lines": (), "fields": ()}
_DATASET: dict[str, Any] = {
    "title": "-",
    "title_zh": "-",
    "line": "",
    "levels": (),
    "schema_version": 1,
    "key": (),
    "division": "",
    "sharing": {},
}
_GRANT: dict[str, Any] = {
    "grant": "",
    "unit": "",
    "dataset": "",
    "fields": (),
    "purpose": "-",
    "territory": "",
    "starts": "2000-01-01",
    "until": "2000-01-01",
}


class TopicsSettings(BaseModel):
    """The settings at the top of topics.yml beside `datasets`."""

    partitions: Partitions = DEFAULT_PARTITIONS


def load(directory: Path) -> Contract:
    """The contract in a directory. Raises FileProblems with everything that is wrong in it."""
    draft, problems = read(directory)
    if problems:
        raise FileProblems(problems)
    return draft.contract


def read(directory: Path) -> tuple[Draft, list[Problem]]:
    """The contract in a directory as far as it can be read, and everything that is wrong in it,
    in the order of files and lines."""
    reader = _Reader(directory)
    topics = reader.topics()
    departments = reader.departments()
    grants = reader.grants()
    schemas = reader.schemas()
    draft = Draft(
        contract=Contract(**topics, **departments, **grants, schemas=schemas),
        trees=reader.trees,
        suspects=frozenset(reader.suspects),
        unread=frozenset(reader.unread),
    )
    problems = [*reader.problems, *check(draft)]
    files = [str(directory / name) for name in (TOPICS, DEPARTMENTS, GRANTS)]
    problems.sort(
        key=lambda p: (files.index(p.file) if p.file in files else len(files), p.file, p.line)
    )
    return draft, list(dict.fromkeys(problems))


class _Reader:
    """Reads file by file and gathers what is wrong on the way."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trees: dict[str, Tree] = {}
        self.problems: list[Problem] = []
        self.suspects: set[tuple[str, Place]] = set()
        self.unread: set[str] = set()

    def topics(self) -> dict[str, Any]:
        tree, settings = self._file(TOPICS, ("partitions", "proofs", "datasets"))
        chosen = {k: v for k, v in settings.items() if k in TopicsSettings.model_fields}
        top, problems = build(TopicsSettings, tree, (), chosen)
        self.problems += problems
        proofs = settings.get("proofs")
        if proofs is not None:
            proofs = self._part(Proofs, TOPICS, ("proofs",), proofs, _PROOFS)
        datasets = {
            name: self._dataset(tree, ("datasets", name), value)
            for name, value in self._mapping(tree, TOPICS, settings, "datasets").items()
        }
        partitions = (top or TopicsSettings()).partitions
        return {"partitions": partitions, "proofs": proofs, "datasets": datasets}

    def departments(self) -> dict[str, Any]:
        known = ("territories", "lines", "units", "calendar", "office")
        tree, settings = self._file(DEPARTMENTS, known)
        territories = {}
        for code, name in self._mapping(tree, DEPARTMENTS, settings, "territories").items():
            if not isinstance(name, str):
                self.problems.append(
                    tree.problem(
                        ("territories", code), f"`{code}` must have a name", "Write `code: name`"
                    )
                )
                name = "-"
            territories[code] = name
        lines = {
            name: self._part(Line, DEPARTMENTS, ("lines", name), value, _LINE)
            for name, value in self._mapping(tree, DEPARTMENTS, settings, "lines").items()
        }
        units = self._parts(Unit, DEPARTMENTS, settings, "units", _UNIT)
        own_days = settings.get("calendar", {})
        calendar = self._part(Calendar, DEPARTMENTS, ("calendar",), own_days, {})
        office = settings.get("office")
        if office is not None:
            office = self._part(Duty, DEPARTMENTS, ("office",), office, _DUTY)
        return {
            "territories": territories,
            "lines": lines,
            "units": units,
            "calendar": calendar,
            "office": office,
        }

    def grants(self) -> dict[str, Any]:
        _, settings = self._file(GRANTS, ("grants", "two_people"))
        asked = settings.get("two_people")
        if asked is not None:
            asked = self._part(TwoPeople, GRANTS, ("two_people",), asked, _TWO_PEOPLE)
        grants = self._parts(Grant, GRANTS, settings, "grants", _GRANT)
        return {"grants": grants, "two_people": asked}

    def schemas(self) -> dict[str, dict[str, Any]]:
        folder = self.directory / SCHEMAS
        found: dict[str, dict[str, Any]] = {}
        if not folder.is_dir():
            self.unread.add(SCHEMAS)
            self.problems.append(
                Problem(str(folder), 0, "the folder is missing", "Create it; see docs/contract.md")
            )
            return found
        for path in sorted(folder.glob("*.avsc")):
            if not _SCHEMA_NAME.fullmatch(path.stem):
                self.problems.append(
                    Problem(
                        str(path), 0, "not the name of a schema", "Call it DATASET.vNUMBER.avsc"
                    )
                )
                continue
            schema = self._schema(path)
            if schema is None:
                self.unread.add(f"{SCHEMAS}/{path.name}")
            else:
                found[path.stem] = schema
        return found

    def _schema(self, path: Path) -> dict[str, Any] | None:
        tree, schema, problems = read_schema(path)
        self.problems += problems
        self.trees[f"{SCHEMAS}/{path.name}"] = tree
        if problems:
            return None
        unsafe = lint(schema)
        self.problems += [tree.problem(f.place, f.what, f.mend) for f in unsafe]
        if not unsafe and not isinstance(schema, dict):
            self.problems.append(tree.problem((), "not a record", 'Write {"type": "record", ...}'))
        return schema if isinstance(schema, dict) and not unsafe else None

    def _dataset(self, tree: Tree, place: Place, value: Any) -> Dataset:
        rules: tuple[Rule, ...] = ()
        if isinstance(value, dict) and isinstance(value.get("receivers"), list):
            # Rule by rule: a wrong one does not hide the others.
            rules = tuple(
                self._part(Rule, TOPICS, (*place, "receivers", i), rule, _RULE)
                for i, rule in enumerate(value["receivers"])
            )
            value = {name: part for name, part in value.items() if name != "receivers"}
        dataset = self._part(Dataset, TOPICS, place, value, _DATASET)
        return dataset.model_copy(update={"receivers": rules}) if rules else dataset

    def _file(self, name: str, known: tuple[str, ...]) -> tuple[Tree, dict[str, Any]]:
        tree, problems = read_tree(self.directory / name)
        self.problems += problems
        self.trees[name] = tree
        if tree.value is None:
            self.unread.add(name)
            return tree, {}
        settings, problems = as_mapping(tree, (), tree.value)
        self.problems += problems or unknown_settings(tree, settings, known)
        if problems:
            self.unread.add(name)
        return tree, settings

    def _mapping(
        self, tree: Tree, file: str, settings: dict[str, Any], name: str
    ) -> dict[str, Any]:
        if file in self.unread:
            return {}
        if name not in settings:
            self._missing(file, name)
            return {}
        value, problems = as_mapping(tree, (name,), settings[name])
        self._note(file, (name,), problems)
        return value

    def _parts(
        self,
        model: type[M],
        file: str,
        settings: dict[str, Any],
        name: str,
        substitutes: dict[str, Any],
    ) -> tuple[M, ...]:
        if file in self.unread:
            return ()
        if name not in settings:
            self._missing(file, name)
            return ()
        items, problems = as_list(self.trees[file], (name,), settings[name])
        self._note(file, (name,), problems)
        return tuple(
            self._part(model, file, (name, i), item, substitutes) for i, item in enumerate(items)
        )

    def _part(
        self, model: type[M], file: str, place: Place, value: Any, substitutes: dict[str, Any]
    ) -> M:
        made, problems, suspects = build_part(model, self.trees[file], place, value, substitutes)
        self.problems += problems
        self.suspects |= {(file, suspect) for suspect in suspects}
        return made

    def _missing(self, file: str, name: str) -> None:
        tree = self.trees[file]
        problem = tree.problem((), f"setting `{name}` is missing", "Add it; see docs/contract.md")
        self._note(file, (name,), [problem])

    def _note(self, file: str, place: Place, problems: list[Problem]) -> None:
        self.problems += problems
        if problems:
            self.suspects.add((file, place))
            self.unread.add(file)


def read_schema(path: Path) -> tuple[Tree, Any, list[Problem]]:
    """An Avro schema file: lines, parsed JSON (None on any problem), problems."""
    text, problems = read_text(path)
    file = str(path)
    if problems:
        return Tree(file), None, problems
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) < len(items):
            names = [name for name, _ in items]
            twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return made

    try:
        schema = json.loads(text, object_pairs_hook=pairs, parse_constant=_no_constant)
        json.dumps(schema, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        problem = Problem(file, error.lineno, f"not valid JSON: {error.msg}", "Mend the JSON")
        return Tree(file), None, [problem]
    except (ValueError, RecursionError):
        problem = Problem(file, 0, "not JSON that Avro knows", "Write plain numbers and texts")
        return Tree(file), None, [problem]
    # JSON is YAML but for tabs, which stand only between tokens here; this gives the lines.
    tree, told = parse_tree(file, text.replace("\t", " "))
    if tree.value is None:
        told = [Problem(file, 0, f"`{name}` stands twice", "Remove one") for name in twice]
    return tree, None if told else schema, told


def _no_constant(name: str) -> Any:
    raise ValueError(name)

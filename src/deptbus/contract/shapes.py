"""Turns a part of a read file into a frozen model, and pydantic's complaints into Problems.

A complaint says what a person wrote and what to write instead; pydantic's own words speak of Python
types. Input values are never repeated, because a database URL with a password may be among them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deptbus.contract.yaml_tree import Place, Tree
from deptbus.errors import Problem

M = TypeVar("M", bound=BaseModel)

_DOCS = "see docs/contract.md"

# pydantic's type of error -> (what is wrong, how to mend it); {name} is the setting, and the other
# words in braces come from pydantic's own context.
_WORDS: dict[str, tuple[str, str]] = {
    "string_type": ("`{name}` must be text", "Write one word or a text in quotes"),
    "tuple_type": ("`{name}` must be a list", "Write it as [one, two]"),
    "dict_type": ("`{name}` must be a mapping", "Write `key: value` lines below it"),
    "model_type": ("`{name}` must be a mapping", "Write `setting: value` lines below it"),
    "enum": ("`{name}` is not a value that it may have", "Use one of {expected}"),
    "literal_error": ("`{name}` is not a value that it may have", "Use one of {expected}"),
    "int_parsing": ("`{name}` must be a whole number", "Write digits only"),
    "int_type": ("`{name}` must be a whole number", "Write digits only"),
    "int_from_float": ("`{name}` must be a whole number", "Write digits only"),
    "float_parsing": ("`{name}` must be a number", "Write digits, with a point if need be"),
    "float_type": ("`{name}` must be a number", "Write digits, with a point if need be"),
    "finite_number": ("`{name}` must be a finite number", "Write a number that ends"),
    "greater_than": ("`{name}` is too small", "Write more than {gt}"),
    "greater_than_equal": ("`{name}` is too small", "Write {ge} or more"),
    "less_than_equal": ("`{name}` is too large", "Write {le} or less"),
    "date_type": ("`{name}` must be a date", "Write it as 2027-12-31"),
    "date_from_datetime_parsing": ("`{name}` is not a date", "Write a day that exists: 2027-12-31"),
    "date_parsing": ("`{name}` is not a date", "Write a day that exists: 2027-12-31"),
}


def build(model: type[M], tree: Tree, place: Place, value: Any) -> tuple[M | None, list[Problem]]:
    """`value` (which stands at `place` in `tree`) as a model, or every reason why it is none."""
    try:
        return model.model_validate(value), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        return None, [_problem(model, tree, place, detail) for detail in details]


def build_part(
    model: type[M], tree: Tree, place: Place, value: Any, substitutes: Mapping[str, Any]
) -> tuple[M, list[Problem], set[Place]]:
    """One part as a model, come what may, so that checks across parts can go on beside its errors.

    A setting that is missing or wrong is replaced by its default or substitute and named among the
    suspects (the third value): what a check says of a suspect place is an echo of its first error.
    """
    made, problems = build(model, tree, place, value)
    if made is not None:
        return made, [], set()
    if not isinstance(value, dict):
        return model.model_validate(substitutes), problems, {place}
    good = {}
    suspects = set()
    for name in model.model_fields:
        if name in value and build(model, tree, place, {**substitutes, name: value[name]})[0]:
            good[name] = value[name]
        elif name in value or name in substitutes:
            suspects.add((*place, name))
    return model.model_validate({**substitutes, **good}), problems, suspects


def as_mapping(tree: Tree, place: Place, value: Any) -> tuple[dict[str, Any], list[Problem]]:
    """`value` when it is a mapping; else an empty one and the reason."""
    if isinstance(value, dict):
        return value, []
    name = f"`{place[-1]}`" if place else "the file"
    return {}, [
        tree.problem(place, f"{name} must be a mapping", f"Write `key: value` lines; {_DOCS}")
    ]


def as_list(tree: Tree, place: Place, value: Any) -> tuple[list[Any], list[Problem]]:
    """`value` when it is a list; else an empty one and the reason."""
    if isinstance(value, list):
        return value, []
    return [], [
        tree.problem(
            place, f"`{place[-1]}` must be a list", f"Write `- ` before each item; {_DOCS}"
        )
    ]


def unknown_settings(tree: Tree, value: dict[str, Any], known: tuple[str, ...]) -> list[Problem]:
    """Settings at the top of a file that do not belong there."""
    return [
        tree.problem((name,), f"`{name}` is not a setting here", _which(name, known))
        for name in value
        if name not in known
    ]


def _problem(model: type[BaseModel], tree: Tree, place: Place, detail: ErrorDetails) -> Problem:
    loc = tuple(step for step in detail["loc"] if step != "[key]")
    where = (*place, *loc)
    name = _name_of(where)
    kind = detail["type"]
    if kind == "missing":
        return tree.problem(where, f"setting `{name}` is missing", f"Add it; {_DOCS}")
    if kind == "extra_forbidden":
        known = tuple(_model_at(model, loc[:-1]).model_fields)
        return tree.problem(where, f"`{name}` is not a setting here", _which(str(name), known))
    if kind == "value_error":  # of our own validators: "what|mend"
        what, _, mend = str(detail["ctx"]["error"]).partition("|")
        return tree.problem(where, f"`{name}` {what}", mend or _DOCS)
    what, mend = _WORDS.get(kind, ("`{name}`: " + detail["msg"], _DOCS))
    words = {"name": name, **detail.get("ctx", {})}
    return tree.problem(where, what.format(**words), mend.format(**words))


def _name_of(where: Place) -> str:
    """The last step that is a word, with the number of the item behind it (from 1)."""
    if where and isinstance(where[-1], int) and len(where) > 1:
        return f"{where[-2]}[{where[-1] + 1}]"
    return str(where[-1]) if where else "the file"


def _which(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean `{close[0]}`?"
    return f"Remove it, or use one of: {', '.join(known)}"


def _model_at(model: type[BaseModel], loc: Place) -> type[BaseModel]:
    """The model that validates the part at `loc` below `model`."""
    here: Any = model
    for step in loc:
        if isinstance(here, type) and issubclass(here, BaseModel) and step in here.model_fields:
            here = here.model_fields[str(step)].annotation
        inner = _inner_model(here)
        here = inner if inner is not None else here
    found = _inner_model(here)
    return found if found is not None else model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None

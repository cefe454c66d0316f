"""The file of `deptbus monitor`: how patient it is, and by which ways alarms reach people.

It lies on the machine that watches and not in the contract: addresses and tokens are nobody else's
matter. All problems are told at once, each with its line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from deptbus.contract.shapes import as_mapping, build
from deptbus.contract.yaml_tree import read_tree
from deptbus.errors import FileProblems
from deptbus.operations.alarms import Patience

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,60}")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("is not a name|Use small letters, digits, - and _, a letter first")
    return text


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an address|Write it as http://HOST:PORT/PATH, or https")
    return text


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        text = value.get_secret_value()
        if not (_HEADER.fullmatch(name) and text.isascii() and text.isprintable()):
            raise ValueError("has a line that is no header|Write `Name: value` lines")
    return headers


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Way(_Frozen):
    """How alarms reach somebody: a command with the alarm as its input, or a webhook."""

    name: Annotated[str, AfterValidator(_name)]  # in log, metrics and `deptbus alarm ls`
    command: tuple[str, ...] = ()  # program and arguments; no shell
    webhook: Annotated[str, AfterValidator(_address)] | None = None
    headers: Annotated[dict[str, SecretStr], AfterValidator(_headers)] = {}
    timeout_seconds: float = Field(default=10, gt=0, le=300, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_one(self) -> Way:
        if bool(self.command) == bool(self.webhook):
            raise ValueError("needs a command or a webhook, and not both|Write one of the two")
        return self


class AlarmSettings(_Frozen):
    """`repeat_hours` 0: an alarm that nobody acknowledges is not repeated."""

    raise_after_seconds: float = Field(default=60, ge=0, le=86_400, allow_inf_nan=False)
    over_after_seconds: float = Field(default=60, ge=0, le=86_400, allow_inf_nan=False)
    repeat_hours: float = Field(default=1, ge=0, le=8_784, allow_inf_nan=False)
    ways: tuple[Way, ...] = ()

    @model_validator(mode="after")
    def _have_names_of_their_own(self) -> AlarmSettings:
        names = [way.name for way in self.ways]
        if len(set(names)) < len(names):
            raise ValueError("has a name twice|Give each of the ways its own name")
        return self

    @property
    def patience(self) -> Patience:
        return Patience(
            self.raise_after_seconds,
            self.over_after_seconds,
            self.repeat_hours * 3600 if self.repeat_hours else None,
        )


def read_alarm_settings(path: Path) -> AlarmSettings:
    """Raises FileProblems."""
    tree, problems = read_tree(path)
    if problems:
        raise FileProblems(problems)
    value: Any = tree.value if tree.value is not None else {}
    settings, problems = as_mapping(tree, (), value)
    made, more = build(AlarmSettings, tree, (), settings)
    if problems or more or made is None:
        raise FileProblems([*problems, *more])
    return made

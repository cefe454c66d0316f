"""department.yml: where a unit keeps its own data, as frozen values with the lines they stand on.

One file per unit. It names the unit's systems (databases or folders), which of its own tables and
columns are which dataset and field, and into which of its own tables each received dataset goes.
Checks against the contract are `contract.department_check`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from deptbus.contract.shapes import as_mapping, build
from deptbus.contract.yaml_tree import Place, Text, Tree, read_tree
from deptbus.errors import FileProblems, Problem

# In `receives.<dataset>.columns`: the 16 bytes of the bus key as 32 hexadecimal digits.
KEY_FIELD = "$key"
CAP_MIB = 1024

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _resolved(value: Any) -> Any:
    """A scalar typed without quotes as YAML 1.2 reads it: 1, 1.5, true, text."""
    if not isinstance(value, Text) or not value.plain:
        return str(value) if isinstance(value, Text) else value
    if value in ("true", "false"):
        return value == "true"
    if _INTEGER.fullmatch(value):
        # 007 and the digits of a code are text; a number has no leading zero.
        unsigned = value.lstrip("+-")
        return str(value) if len(unsigned) > 1 and unsigned.startswith("0") else int(value)
    if _NUMBER.fullmatch(value):
        return float(value)
    return str(value)


Scalar = Annotated[str | int | float | bool | None, BeforeValidator(_resolved)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Behind(_Frozen):
    """One of the tables behind a view: how its rows name the records that they are in. Either it
    has the natural key, or it is joined with another of these tables."""

    key: dict[str, str] = {}  # column of the view that is of the key -> column of this table
    through: str = ""
    on: dict[str, str] = {}  # column of this table -> column of `through` that equals it


class HoldRemovals(_Frozen):
    """When removals are held at the source: more of them than `percent` of a dataset's records, and
    at the least `at_least`, within `minutes` by the clock of the department's database."""

    percent: float = Field(default=10, gt=0, le=100)  # 100: never
    at_least: int = Field(default=50, ge=1)
    minutes: int = Field(default=60, ge=1, le=1440)


class Publish(_Frozen):
    """One table of the unit's own that is a dataset which it publishes."""

    table: str = Field(min_length=1)  # of a folder: the name of the file, without its ending
    columns: dict[str, str]  # field -> own column
    # field -> own code -> bus value; codes are compared as text. No entry: the row is parked.
    values: dict[str, dict[str, str | None]] = {}
    constants: dict[str, Scalar] = {}  # field -> value that every row has
    # The department vouches that one row only bears a natural key, where no unique index does.
    unique: bool = False
    tables: dict[str, Behind] = {}  # of a view: every table that it reads
    encoding: str | None = None  # of text in SQLite that is no UTF-8, as Python calls it
    hold_removals: HoldRemovals = HoldRemovals()


class Beside(_Frozen):
    """One more table of the unit's own into which a received dataset goes."""

    columns: dict[str, str]  # field -> own column
    on: dict[str, str] = Field(min_length=1)  # own column -> mapped column of the main table


OnRemove = Literal["delete", "mark", "park"]


class Receive(_Frozen):
    """One table of the unit's own into which a received dataset goes; created when absent."""

    table: str = Field(min_length=1)
    columns: dict[str, str]  # field (or `$key`) -> own column
    # Columns of the row's own key. Empty: those of the dataset's natural key when all of it is
    # mapped, else the one of `$key`; see `receive_key`.
    key: tuple[str, ...] = ()
    values: dict[str, dict[str, str]] = {}  # field -> own code -> bus value; read the other way
    defaults: dict[str, Scalar] = {}  # own column -> value where the bus gives none
    replaces: str | None = None  # the form or screen on which this was typed until now
    tables: dict[str, Beside] = {}  # further tables, which have to be there; see `several_tables`
    # Field -> further own codes, which are read as values of the bus and never written.
    also: dict[str, dict[str, str]] = {}
    forms: dict[str, str] = {}  # own column -> how it spells its values; see `own_forms`
    # Own columns by which a row that was here before the bus is known as a record's; see
    # `receive_match`.
    match: tuple[str, ...] = ()
    existing: Literal["adopt", "park"] = "adopt"  # what becomes of a record that such a row matches
    # What becomes of a row whose record goes. None: `mark` in a table that had rows before the bus,
    # `delete` in any other.
    on_remove: OnRemove | None = None
    # Whether what somebody typed over a received row is kept when a delivery writes over it. None:
    # in a table that had rows before the bus.
    keeps: bool | None = None
    mark: dict[str, Scalar] = {}  # own column, not mapped -> what `mark` writes there


class System(_Frozen):
    """One database or folder of the unit."""

    # Not in `repr`: it may hold a password.
    database: str = Field(repr=False)
    publishes: dict[str, Publish] = {}
    receives: dict[str, Receive] = {}
    outbox_cap_rows: int = Field(default=1_000_000, ge=1)
    outbox_cap_mib: int = Field(default=CAP_MIB, ge=1)

    @property
    def kind(self) -> Literal["sqlite", "postgresql", "folder"]:
        if self.database.startswith("sqlite:"):
            return "sqlite"
        return "folder" if self.database.startswith("folder:") else "postgresql"

    @property
    def path(self) -> Path:
        """The absolute path of an SQLite file or a folder; ValueError for a server."""
        if self.kind == "postgresql":
            raise ValueError("a database server has no path")
        return Path(self.database.removeprefix("sqlite:///").removeprefix("folder:"))


class Department(_Frozen):
    """What one unit's department.yml says. Paths are absolute, variables are replaced."""

    unit: str
    secret_file: Path
    systems: dict[str, System]

    _tree: Tree = PrivateAttr(default_factory=lambda: Tree("department.yml"))

    @property
    def file(self) -> str:
        return self._tree.file

    def problem(self, place: Place, what: str, mend: str) -> Problem:
        return self._tree.problem(place, what, mend)


def settings_of_rows(receive: Receive) -> tuple[str, ...]:
    """Those of its settings that are about single rows of one table; no view can keep them."""
    said = {
        "keeps": receive.keeps is True,
        "on_remove": receive.on_remove not in (None, "delete"),
        "mark": bool(receive.mark),
        "match": bool(receive.match),
        "existing": receive.existing != "adopt",
    }
    return tuple(name for name, is_said in said.items() if is_said)


def receive_key(receive: Receive, natural_key: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of the own row's key; empty when neither a key nor `$key` is mapped."""
    if receive.key:
        return receive.key
    if all(field in receive.columns for field in natural_key):
        return tuple(receive.columns[field] for field in natural_key)
    return (receive.columns[KEY_FIELD],) if KEY_FIELD in receive.columns else ()


def receive_match(receive: Receive, key: tuple[str, ...]) -> tuple[str, ...]:
    """The columns by which rows are recognised; by default those of the own row's key."""
    return receive.match or key


def load_department(path: Path, environment: Mapping[str, str] | None = None) -> Department:
    """Read one department.yml. Raises FileProblems with everything that is wrong in it.

    `${NAME}` in `database` is replaced from `environment` (that of the process by default).
    """
    tree, problems = read_tree(path)
    if tree.value is None:
        raise FileProblems(problems)
    settings, wrong = as_mapping(tree, (), tree.value)
    problems += wrong
    given = os.environ if environment is None else environment
    base = path.absolute().parent
    settings = dict(settings)
    secret = settings.get("secret_file") or "key.secret"
    settings["secret_file"] = _absolute(base, secret) if isinstance(secret, str) else secret
    systems = settings.get("systems")
    if isinstance(systems, dict):
        settings["systems"] = {
            name: _with_database(tree, ("systems", name), system, base, given, problems)
            for name, system in systems.items()
        }
    made, wrong = build(Department, tree, (), settings)
    problems += wrong
    if made is None or problems:
        raise FileProblems(sorted(problems, key=lambda p: p.line))
    made._tree = tree
    return made


def variables_in(path: Path) -> list[str]:
    """The environment variables that the databases of a department.yml are made of, whether they
    are set or not; empty where the file cannot be read, as `load_department` says."""
    settings = read_tree(path)[0].value
    systems = settings.get("systems") if isinstance(settings, dict) else None
    found: set[str] = set()
    for system in systems.values() if isinstance(systems, dict) else ():
        database = system.get("database") if isinstance(system, dict) else None
        found.update(_VARIABLE.findall(str(database)) if database else ())
    return sorted(found)


def _with_database(
    tree: Tree,
    place: Place,
    system: Any,
    base: Path,
    environment: Mapping[str, str],
    problems: list[Problem],
) -> Any:
    """The system with its database's variables replaced and its path absolute."""
    if not isinstance(system, dict) or not isinstance(system.get("database"), str):
        return system  # the model says what is missing
    where = (*place, "database")
    url = str(system["database"])
    problems += [
        tree.problem(where, f"environment variable {name} is not set", f"Set {name}")
        for name in sorted(set(_VARIABLE.findall(url)) - environment.keys())
    ]
    url = _VARIABLE.sub(lambda match: environment.get(match[1], ""), url)
    scheme, colon, rest = url.partition(":")
    if scheme == "sqlite" and rest.startswith("///") and len(rest) > 3:
        url = f"sqlite:///{_absolute(base, rest[3:])}"
    elif scheme == "folder" and rest and not rest.startswith("//"):
        url = f"folder:{_absolute(base, rest)}"
    elif scheme not in ("postgresql", "postgres") or not colon or not rest.startswith("//"):
        problems.append(
            tree.problem(
                where,
                "`database` is not an address that is known",
                "Write sqlite:///FILE, postgresql://USER:${PASSWORD}@HOST/NAME or folder:PATH",
            )
        )
    elif not _has_server(url):
        problems.append(
            tree.problem(
                where,
                "`database` names no host and port that can be read",
                "Write postgresql://USER:${PASSWORD}@HOST:PORT/NAME; in the password : / ? # [ ] "
                "@ % stand as %3A %2F %3F %23 %5B %5D %40 %25",
            )
        )
    return {**system, "database": url}


def _has_server(url: str) -> bool:
    """Whether hosts and ports can be told from the rest. A character of the password that ends
    them leaves its beginning where a port should be, or an `@` behind them."""
    try:
        parts = urlsplit(url)
        for host in parts.netloc.rpartition("@")[2].split(","):
            urlsplit(f"//{host}").port  # noqa: B018 - raises ValueError
    except ValueError:
        return False
    return "@" not in f"{parts.path}{parts.fragment}"


def _absolute(base: Path, text: str) -> Path:
    return Path(os.path.normpath(base / text))

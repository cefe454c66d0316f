"""Which columns of which own table are captured for a dataset: what triggers are made from.

Only columns that are mapped to published fields are in it (promise 4): a column that is not shared
never reaches the outbox table, so it cannot reach anything behind it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from deptbus.contract.department import Publish
from deptbus.contract.model import Contract
from deptbus.errors import DeptbusError


class Part(NamedTuple):
    """A table behind a view: how a row of it names the records of the view that it is in."""

    table: str
    keys: tuple[str, ...]  # its columns of the natural key, as `Layout.keys`; none: by way of
    through: str  # ... this other part; empty where it has the key
    on: tuple[tuple[str, str], ...]  # (own column, column of `through`) that are equal


@dataclass(frozen=True, slots=True)
class Layout:
    """The own columns behind one dataset, in the order in which the outbox keeps their values."""

    dataset: str
    table: str
    keys: tuple[str, ...]  # own columns of the natural key, in the contract's order
    columns: tuple[str, ...]  # own columns of every published field (those of the key too)
    place: str | None  # own column of the division; None where it is a constant
    is_vouched: bool = False  # no unique index says so, but one row only bears a natural key
    parts: tuple[Part, ...] = ()  # `table` is a view of these

    @property
    def is_view(self) -> bool:
        return bool(self.parts)

    @property
    def number(self) -> int:
        """31 bits of SHA-256 over the content: rows that wait in the outbox name their layout by
        it, so that they can be read after the mapping has changed."""
        digest = hashlib.sha256(self.to_json().encode()).digest()
        return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF

    def serves(self, wanted: Layout) -> bool:
        """True when triggers made from this layout capture all that `wanted` names."""
        return (self.table, self.keys, self.place, self.parts) == (
            wanted.table,
            wanted.keys,
            wanted.place,
            wanted.parts,
        ) and set(wanted.columns) <= set(self.columns)

    def to_json(self) -> str:
        # What most have not is left out: the number of a layout is made of this text.
        said = {k: v for k, v in asdict(self).items() if v or k not in ("is_vouched", "parts")}
        return json.dumps(said, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        said: dict[str, Any] = json.loads(text)
        words: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
        words["parts"] = tuple(
            Part(table, tuple(keys), through, tuple((a, b) for a, b in on))
            for table, keys, through, on in words.get("parts", ())
        )
        return cls(**words)


def layout_of(dataset: str, publish: Publish, contract: Contract) -> Layout:
    """The layout of one `publishes:` entry under this contract.

    Raises DeptbusError when the dataset is unknown or its natural key has no columns.
    """
    known = contract.datasets.get(dataset)
    if known is None:
        raise DeptbusError(f"dataset {dataset} is not in the contract", mend="Check `publishes:`")
    missing = [field for field in known.key if field not in publish.columns]
    if missing:
        raise DeptbusError(
            f"dataset {dataset}: no column for the key field {missing[0]}",
            mend="Map every field of the natural key to a column of its own",
        )
    published = contract.field_names(dataset)
    columns = dict.fromkeys(c for f, c in publish.columns.items() if f in published)
    keys = tuple(publish.columns[field] for field in known.key)
    return Layout(
        dataset=dataset,
        table=publish.table,
        keys=keys,
        columns=tuple(columns),
        place=publish.columns.get(known.division),
        is_vouched=publish.unique,
        parts=tuple(
            Part(
                table,
                tuple(behind.key[column] for column in keys) if behind.key else (),
                behind.through,
                tuple(behind.on.items()),
            )
            for table, behind in publish.tables.items()
        ),
    )


def layouts_of(publishes: dict[str, Publish], contract: Contract) -> tuple[Layout, ...]:
    return tuple(layout_of(name, publish, contract) for name, publish in publishes.items())


def quoted(name: str) -> str:
    """An SQL identifier that is any text (Chinese, mixed case, with spaces) in both databases."""
    if "\0" in name:
        raise DeptbusError(f"name {name!r} cannot be that of a table or column")
    return '"' + name.replace('"', '""') + '"'


def quoted_table(name: str) -> str:
    """`table` or `schema.table`, each part quoted. A dot always separates; write `"a.b"` in double
    quotes for a name that has one."""
    return ".".join(quoted(part) for part in table_parts(name))


def table_parts(name: str) -> tuple[str, ...]:
    if name.startswith('"') and name.endswith('"') and len(name) > 2:
        return (name[1:-1].replace('""', '"'),)
    return tuple(name.split(".", 1))


def text_literal(text: str) -> str:
    """An SQL string literal; standard_conforming_strings is on in every supported database."""
    return "'" + text.replace("'", "''") + "'"


def comma(parts: Iterable[str]) -> str:
    return ", ".join(parts)

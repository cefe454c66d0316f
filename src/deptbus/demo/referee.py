"""The referee: proves every copy equal to its source, from the databases and the contract alone.

It shares no code with routing or apply: it reads the YAML files of the contract and of the
departments and the tables themselves, works out in the plainest way what each unit should hold, and
compares row by row and column by column. Slow and simple on purpose: it is the second opinion.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import yaml

_CHINA = timezone(timedelta(hours=8))
_LEVELS = {2: "province", 4: "prefecture", 6: "county", 9: "township", 12: "village"}

Row = dict[str, str | None]


@dataclass
class Verdict:
    """What was compared and what differs; equal when `differences` is empty."""

    copies: int = 0
    rows: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not self.differences


@dataclass(frozen=True)
class _Record:
    """One source record: who published it, where it is, and its values as plain text."""

    source: str
    place: str
    natural_key: tuple[str | None, ...]
    values: Row


class Referee:
    """Compares all copies of one county.

    `ignore` holds natural keys (dataset, value of its first key field) that were made bad on
    purpose and are parked or quarantined; they are compared nowhere.
    """

    def __init__(self, contract: Path, departments: Iterable[Path]) -> None:
        self._topics = _yaml(contract / "topics.yml")["datasets"]
        self._units = [u["unit"] for u in _yaml(contract / "departments.yml")["units"]]
        self._grants = _yaml(contract / "grants.yml")["grants"]
        self._departments = {d["unit"]: (p.parent, d) for p in departments for d in [_yaml(p)]}
        self._kinds = {
            name: _kinds(contract / "schemas" / f"{name}.v{terms['schema_version']}.avsc")
            for name, terms in self._topics.items()
        }

    def judge(self, ignore: set[tuple[str, str]] = frozenset()) -> Verdict:  # type: ignore[assignment]
        """Reads every table now; call it when nothing moves any more."""
        verdict = Verdict()
        sources = {name: self._records(name, ignore) for name in self._topics}
        for unit, (folder, department) in self._departments.items():
            for system in department["systems"].values():
                for name, mapping in (system.get("receives") or {}).items():
                    should = self._expected(unit, name, mapping, sources[name])
                    has = self._held(folder, system["database"], name, mapping, ignore)
                    _compare(f"{name} at {unit}", should, has, verdict)
        return verdict

    def may_have(self, unit: str, dataset: str, source: str, place: str) -> bool:
        """Whether this unit should have a record of `source` about `place`, as files say today."""
        return bool(self._fields(unit, dataset, _Record(source, place, (), {})))

    def _records(self, dataset: str, ignore: set[tuple[str, str]]) -> list[_Record]:
        terms = self._topics[dataset]
        found = []
        for unit, (folder, department) in self._departments.items():
            for system in department["systems"].values():
                mapping = (system.get("publishes") or {}).get(dataset)
                if mapping is None:
                    continue
                for raw in _read(folder, system["database"], mapping["table"]):
                    values = _in_bus_words(raw, mapping, self._kinds[dataset])
                    key = tuple(_canonical(values[k]) for k in terms["key"])
                    for name, value in zip(terms["key"], key, strict=True):
                        values[name] = value if (dataset, str(value)) in ignore else values[name]
                    place = str(values[terms["division"]])
                    inside = place.startswith(unit.partition("@")[2])
                    if inside and (dataset, str(key[0])) not in ignore:
                        found.append(_Record(unit, place, key, values))
        return found

    def _expected(
        self, unit: str, dataset: str, mapping: dict[str, Any], records: list[_Record]
    ) -> dict[tuple[str | None, ...], Row]:
        """Key columns -> row that this unit's table should hold."""
        rows: dict[tuple[str | None, ...], Row] = {}
        # The least source unit holds a row that several records claim, whatever came first.
        for record in sorted(records, key=lambda r: r.source):
            fields = self._fields(unit, dataset, record)
            if fields:
                row = _in_own_words(record.values, fields, mapping)
                rows.setdefault(_row_key(row, self._topics[dataset], mapping), row)
        return rows

    def _fields(self, unit: str, dataset: str, record: _Record) -> set[str]:
        """The fields of this record that the unit may have; empty when it may not have it."""
        if unit == record.source:
            return set()
        terms = self._topics[dataset]
        granted: set[str] = set()
        today = datetime.now(UTC).astimezone(_CHINA).date()
        for grant in self._grants:
            live = _day(grant["starts"]) <= today <= _day(grant["until"])
            covers = record.place.startswith(str(grant["territory"]))
            if (grant["unit"], grant["dataset"]) == (unit, dataset) and live and covers:
                granted |= set(grant["fields"])
        line, territory = unit.split("@")
        own, seat = record.source.split("@")
        direction = _direction(line, territory, own, seat, record.place)
        for rule in terms.get("receivers") or []:
            levels = rule.get("levels") or list(_LEVELS.values())
            if (
                rule["direction"] == direction
                and line in rule["lines"]
                and _LEVELS[len(territory)] in levels
            ):
                free = {f for f in rule["fields"] if terms["sharing"][f] == "unconditional"}
                return free | granted
        return granted

    def _held(
        self,
        folder: Path,
        database: str,
        dataset: str,
        mapping: dict[str, Any],
        ignore: set[tuple[str, str]],
    ) -> dict[tuple[str | None, ...], Row]:
        columns = {f: c for f, c in mapping["columns"].items() if f != "$key"}
        coded = mapping.get("values") or {}
        first_key = mapping["columns"].get(self._topics[dataset]["key"][0])
        rows: dict[tuple[str | None, ...], Row] = {}
        for raw in _read(folder, database, mapping["table"]):
            row = {
                c: _text(raw.get(c), "text" if f in coded else self._kinds[dataset][f])
                for f, c in columns.items()
            }
            if first_key and (dataset, str(_canonical(row[first_key]))) in ignore:
                continue
            rows[_row_key(row, self._topics[dataset], mapping)] = row
        return rows


def _direction(line: str, territory: str, own: str, seat: str, place: str) -> str | None:
    """The table of directions, row by row: recipient, then source, then the record's place."""
    if territory == seat:
        return "horizontal"
    if seat.startswith(territory):
        return "upward" if line == own else None
    if not territory.startswith(seat):
        return None
    if line == own:
        return "downward" if place.startswith(territory) or territory.startswith(place) else None
    if place.startswith(territory):
        return "return"
    return "downward" if territory.startswith(place) else None


def _compare(
    name: str,
    should: dict[tuple[str | None, ...], Row],
    has: dict[tuple[str | None, ...], Row],
    verdict: Verdict,
) -> None:
    verdict.copies += 1
    verdict.rows += len(should)
    missing, extra = should.keys() - has.keys(), has.keys() - should.keys()
    if missing:
        verdict.differences.append(f"{name}: {len(missing)} rows missing")
    if extra:
        verdict.differences.append(f"{name}: {len(extra)} rows too many")
    for column in {c for key in should.keys() & has.keys() for c in should[key]}:
        wrong = sum(
            should[key].get(column) != has[key].get(column) for key in should.keys() & has.keys()
        )
        if wrong:
            verdict.differences.append(f"{name}: column {column} wrong in {wrong} rows")


def _in_bus_words(raw: dict[str, Any], mapping: dict[str, Any], kinds: dict[str, str]) -> Row:
    codes = mapping.get("values") or {}
    values = {}
    for name, column in mapping["columns"].items():
        if name in codes:
            value = _text(raw[column], "text")
            table = {str(own): str(bus) for own, bus in codes[name].items()}
            values[name] = table[value] if value is not None else None
        else:
            values[name] = _text(raw[column], kinds[name])
    for name, value in (mapping.get("constants") or {}).items():
        values[name] = _text(value, kinds[name])
    return values


def _in_own_words(values: Row, fields: set[str], mapping: dict[str, Any]) -> Row:
    """A row in the recipient's own columns and codes; a field it may not have is its default."""
    codes, defaults = mapping.get("values") or {}, mapping.get("defaults") or {}
    row: Row = {}
    for name, column in mapping["columns"].items():
        if name == "$key":
            continue
        value = values.get(name) if name in fields else None
        back = {str(bus): str(own) for own, bus in codes.get(name, {}).items()}
        value = back.get(value, value) if value is not None else None
        row[column] = value if name in fields else _text(defaults.get(column), "text")
    return row


def _row_key(row: Row, terms: dict[str, Any], mapping: dict[str, Any]) -> tuple[str | None, ...]:
    columns = mapping.get("key") or [mapping["columns"][k] for k in terms["key"]]
    return tuple(row[c] for c in columns)


def _read(folder: Path, database: str, table: str) -> list[dict[str, Any]]:
    """Every row of a table. A table that is not there yet has none: adapters make tables when they
    begin, and what should be in it is then missing."""
    scheme, _, rest = database.partition(":")
    if scheme == "sqlite":
        path = folder / rest.removeprefix("///")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
            if connection.execute(named, (table,)).fetchone() is None:
                return []
            return [dict(r) for r in connection.execute(f'SELECT * FROM "{table}"')]
    return asyncio.run(_read_postgres(database, table))


async def _read_postgres(database: str, table: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(database)
    try:
        if await connection.fetchval("SELECT to_regclass($1)", f'"{table}"') is None:
            return []
        return [dict(r) for r in await connection.fetch(f'SELECT * FROM "{table}"')]
    finally:
        await connection.close()


def _canonical(value: str | None) -> str | None:
    """The canonical form of natural keys that the bundled contract declares."""
    if value is None:
        return None
    half = "".join(chr(ord(c) - 0xFEE0) if "！" <= c <= "～" else c for c in value)
    return half.replace("\u3000", " ").strip().upper()


def _kinds(schema: Path) -> dict[str, str]:
    """Field -> how its values are to be compared: text, number, date or time."""
    found = {}
    for said in json.loads(schema.read_text(encoding="utf-8"))["fields"]:
        kind = said["type"]
        if isinstance(kind, list):
            kind = next(k for k in kind if k != "null")
        logical = kind.get("logicalType", "") if isinstance(kind, dict) else ""
        number = kind in ("int", "long", "float", "double") or logical == "decimal"
        found[said["name"]] = (
            "time"
            if logical.startswith("timestamp")
            else logical
            if logical == "date"
            else "number"
            if number
            else "text"
        )
    return found


def _text(value: Any, kind: str) -> str | None:
    """One plain text for values that mean the same in different column types."""
    if value is None:
        return None
    if kind == "number":
        return format(Decimal(str(value)).normalize(), "f")
    if kind == "date":
        return str(value)[:10]
    if kind == "time":
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return moment.astimezone(UTC).isoformat(timespec="microseconds")
    return str(value)


def _day(value: str | date) -> date:
    return value if isinstance(value, date) else date.fromisoformat(value)


def _yaml(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        return yaml.safe_load(file)

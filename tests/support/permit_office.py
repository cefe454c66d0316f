"""The departments of the permit office: their own databases, their department.yml, their clerks.

The case register is a PostgreSQL database with columns in abbreviated pinyin, each group keeps its
steps in an SQLite file (two generations of software: two layouts), and so does supervision.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import asyncpg
import yaml
from permit_log import PermitLog

DISTRICT = "330106"
PLACES = (
    "330106002", "330106004", "330106005", "330106007", "330106008",
    "330106009", "330106010", "330106011", "330106109", "330106110",
)  # fmt: skip
BATCH = 50  # changes in one transaction

# field -> own column of the register; the log's column that it is filled from
REGISTER = {
    "case_no": ("ajbh", "case:concept:name"),
    "channel": ("sqfs", "case:channel"),
    "department": ("ssbm", "case:department"),
    "responsible_group": ("zrz", "case:group"),
    "responsible": ("zrr", "case:responsible"),
    "started_at": ("slsj", "case:startdate"),
    "deadline": ("zzqx", "case:deadline"),
    "end_planned": ("jhbjsj", "case:enddate_planned"),
    "ended_at": ("bjsj", "case:enddate"),
}
STEP_SOURCE = {
    "step_no": "concept:instance",
    "case_no": "case:concept:name",
    "activity": "concept:name",
    "lifecycle": "lifecycle:transition",
    "officer": "org:resource",
    "done_at": "time:timestamp",
}
# Of each layout: table of steps, its columns, table for received cases and the form it replaces.
STEP_LAYOUTS = (
    ("bljl", ("bh", "ajbh", "bzmc", "zt", "jbr", "blsj"), "ajk", "案件交接单"),
    ("step_log", ("task", "case_ref", "what", "state", "who", "at"), "cases", "morning e-mail"),
)
MOMENTS = {"started_at", "deadline", "end_planned", "ended_at", "done_at"}

Fields = dict[str, Any]


class Office:
    """`build`, then `write_all` while the bus runs, then compare `held` with `should_hold`."""

    def __init__(self, log: PermitLog, data: Path, register_url: str) -> None:
        self.log = log
        self._data = data
        self._url = register_url
        groups = sorted({row["org:group"] for row in log.steps})
        self.place_of = dict(zip(groups, PLACES, strict=False))

    # -- the departments ---------------------------------------------------------------------------

    def build(self) -> None:
        """Makes every own table, empty, and every department.yml."""
        columns = ", ".join(
            f"{own} {'timestamptz' if field in MOMENTS else 'text'}"
            for field, (own, _) in REGISTER.items()
        )
        with Register(self._url) as register:
            register.execute(f"CREATE TABLE ajdj ({columns}, PRIMARY KEY (ajbh))")
        self._write(f"permit_desk@{DISTRICT}", self._url, publishes=_case_mapping(),
                    receives={"permit_step": _into("blbz", "step_no", "case_no", "place",
                              "activity", "lifecycle", "performed_by", "officer", "done_at")},
                    )  # fmt: skip
        self._write(f"supervision@{DISTRICT}", "sqlite:///own.db", receives={
            "permit_case": _into("watched_case", "case_no", "department", "started_at", "deadline",
                                 "ended_at"),
            "permit_step": _into("watched_step", "step_no", "case_no", "activity", "performed_by",
                                 "done_at"),
        })  # fmt: skip
        for group, place in self.place_of.items():
            table, names, cases, form = self._layout(place)
            mapping = {
                "table": table,
                "columns": dict(zip(STEP_SOURCE, names, strict=True)),
                "constants": {"place": place, "performed_by": group},
            }
            received = _into(cases, *REGISTER, "place") | {"replaces": form}
            self._write(f"permit_desk@{place}", "sqlite:///own.db",
                        publishes={"permit_step": mapping},
                        receives={"permit_case": received})  # fmt: skip
            with sqlite3.connect(self.file(f"permit_desk@{place}")) as own:
                own.execute(f"CREATE TABLE {table} ({names[0]} TEXT PRIMARY KEY, "
                            + ", ".join(f"{n} TEXT NOT NULL" for n in names[1:]) + ")")  # fmt: skip

    def file(self, unit: str) -> Path:
        return self._data / unit.replace("@", "-") / "own.db"

    def _layout(self, place: str) -> tuple[str, tuple[str, ...], str, str]:
        return STEP_LAYOUTS[PLACES.index(place) % len(STEP_LAYOUTS)]

    def _write(
        self, unit: str, database: str, *, publishes: Any = None, receives: Any = None
    ) -> None:
        folder = self._data / unit.replace("@", "-")
        folder.mkdir(parents=True)
        system = {"database": database, "publishes": publishes or {}, "receives": receives or {}}
        content = {"unit": unit, "systems": {"main": system}}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (folder / "department.yml").write_text(text, encoding="utf-8")

    # -- their clerks ------------------------------------------------------------------------------

    def write_all(self) -> int:
        """Types the whole log in the order of time; returns how many transactions that took.

        A case is registered when its first step or its start is due, and closed (an update) at
        its end; a step is a row of the group that did it.
        """
        events = sorted(self._events(), key=lambda event: event[0])
        transactions = 0
        with Register(self._url) as register:
            own = {place: sqlite3.connect(self.file(f"permit_desk@{place}"), timeout=30)
                   for place in self.place_of.values()}  # fmt: skip
            for start in range(0, len(events), BATCH):
                work: dict[str, list[tuple[str, tuple[Any, ...]]]] = defaultdict(list)
                for _, _, where, statement, values in events[start : start + BATCH]:
                    work[where].append((statement, values))
                for where, statements in work.items():
                    transactions += 1
                    if where == DISTRICT:
                        register.transaction(statements)
                    else:
                        with own[where] as connection:
                            for statement, values in statements:
                                connection.execute(statement, values)
            for connection in own.values():
                connection.close()
        return transactions

    def _events(self) -> Iterator[tuple[datetime, int, str, str, tuple[Any, ...]]]:
        first: dict[str, datetime] = {}
        for number, row in enumerate(self.log.steps):
            moment = _moment(row["time:timestamp"])
            case, place = row["case:concept:name"], self.place_of[row["org:group"]]
            first[case] = min(moment, first.get(case, moment))
            table, names, _, _ = self._layout(place)
            marks = ", ".join("?" for _ in names)
            values = tuple(row[source] for source in STEP_SOURCE.values())
            statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"
            yield moment, number, place, statement, values
        for case, row in self.log.cases.items():
            values = tuple(_own(f, row[source]) for f, (_, source) in REGISTER.items())
            marks = ", ".join(f"${n}" for n in range(1, len(values) + 1))
            opened = min(first[case], _moment(row["case:startdate"]))
            yield opened, -1, DISTRICT, f"INSERT INTO ajdj VALUES ({marks})", (*values[:-1], None)
            if values[-1] is not None:
                statement = "UPDATE ajdj SET bjsj = $1 WHERE ajbh = $2"
                yield max(opened, values[-1]), 0, DISTRICT, statement, (values[-1], case)

    # -- what they should hold, and what they hold -------------------------------------------------

    def cases(self, *fields: str) -> dict[str, Fields]:
        """From the log: case number -> fields."""
        found = {}
        for case, row in self.log.cases.items():
            values = {f: _own(f, row[source]) for f, (_, source) in REGISTER.items()}
            values["place"] = DISTRICT
            found[case] = {f: values[f] for f in fields}
        return found

    def steps(self, *fields: str) -> dict[str, Fields]:
        """From the log: step number -> fields."""
        found = {}
        for row in self.log.steps:
            values: Fields = {f: _own(f, row[source]) for f, source in STEP_SOURCE.items()}
            values["performed_by"] = row["org:group"]
            values["place"] = self.place_of[row["org:group"]]
            found[row["concept:instance"]] = {f: values[f] for f in fields}
        return found

    def differences(self) -> list[str]:
        """What every copy has too little, too much, or otherwise than the log says."""
        case_fields = (*REGISTER, "place")
        step_fields = (*STEP_SOURCE, "performed_by", "place")
        watched_case = ("case_no", "department", "started_at", "deadline", "ended_at")
        watched_step = ("step_no", "case_no", "activity", "performed_by", "done_at")
        found = []
        every_case, few_of_case = self.cases(*case_fields), self.cases(*watched_case)
        for place in self.place_of.values():
            unit = f"permit_desk@{place}"
            held = self._held(unit, self._layout(place)[2], case_fields)
            found += _compare(f"cases at {unit}", every_case, held)
        unit = f"supervision@{DISTRICT}"
        held = self._held(unit, "watched_case", watched_case)
        found += _compare(f"cases at {unit}", few_of_case, held)
        held = self._held(unit, "watched_step", watched_step)
        found += _compare(f"steps at {unit}", self.steps(*watched_step), held)
        with Register(self._url) as register:
            names = ", ".join(step_fields)
            rows = register.rows(f"SELECT {names} FROM blbz") if register.has("blbz") else []
        held = {row[0]: dict(zip(step_fields, row, strict=True)) for row in rows}
        found += _compare(f"steps at permit_desk@{DISTRICT}", self.steps(*step_fields), held)
        return found

    def _held(self, unit: str, table: str, fields: tuple[str, ...]) -> dict[str, Fields]:
        connection = sqlite3.connect(self.file(unit), timeout=30)
        try:
            known = connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = ?", (table,)
            ).fetchone()
            rows = connection.execute(f"SELECT {', '.join(fields)} FROM {table}") if known else ()
            return {
                row[0]: {f: _read(f, v) for f, v in zip(fields, row, strict=True)} for row in rows
            }
        finally:
            connection.close()

    def parked(self) -> list[tuple[str, Any]]:
        """Rows that stand still anywhere, at a source or at a recipient: there is to be none."""
        found: list[tuple[str, Any]] = []
        for unit in (*(f"permit_desk@{p}" for p in self.place_of.values()), "supervision@330106"):
            connection = sqlite3.connect(self.file(unit), timeout=30)
            for look in (
                "SELECT dataset, parked FROM deptbus_ledger WHERE parked IS NOT NULL",
                "SELECT dataset, reason FROM deptbus_parked",
            ):
                table = look.split()[4]
                if connection.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = ?", (table,)
                ).fetchone():
                    found += [(unit, row) for row in connection.execute(look)]
            connection.close()
        with Register(self._url) as register:
            found += [("register", tuple(row)) for row in register.rows(
                "SELECT dataset, parked FROM deptbus.ledger WHERE parked IS NOT NULL "
                "UNION ALL SELECT dataset, reason FROM deptbus.parked")]  # fmt: skip
        return found


class Register:
    """A connection to the register's PostgreSQL, from code that does not wait."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        self._connection = self._loop.run_until_complete(asyncpg.connect(self._url))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()

    def execute(self, statement: str) -> None:
        self._loop.run_until_complete(self._connection.execute(statement))

    def rows(self, statement: str) -> list[Any]:
        found: list[Any] = self._loop.run_until_complete(self._connection.fetch(statement))
        return found

    def has(self, table: str) -> bool:
        return bool(self.rows(f"SELECT 1 FROM pg_tables WHERE tablename = '{table}'"))

    def transaction(self, statements: list[tuple[str, tuple[Any, ...]]]) -> None:
        async def run() -> None:
            async with self._connection.transaction():
                for statement, values in statements:
                    await self._connection.execute(statement, *values)

        self._loop.run_until_complete(run())


def _case_mapping() -> dict[str, Any]:
    columns = {field: own for field, (own, _) in REGISTER.items()}
    mapping = {"table": "ajdj", "columns": columns, "constants": {"place": DISTRICT}}
    return {"permit_case": mapping}


def _into(table: str, *fields: str) -> dict[str, Any]:
    """A receiving table that the bus makes: its columns are called as the fields."""
    return {"table": table, "columns": {f: f for f in fields}}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _own(field: str, text: str) -> Any:
    """The log's text as the value it means: an empty cell is none, a time is an instant."""
    if text == "":
        return None
    return _moment(text) if field in MOMENTS else text


def _read(field: str, value: Any) -> Any:
    return _own(field, value) if isinstance(value, str) else value


def _compare(name: str, should: dict[str, Fields], has: dict[str, Fields]) -> list[str]:
    missing, extra = should.keys() - has.keys(), has.keys() - should.keys()
    wrong = [key for key in should.keys() & has.keys() if should[key] != has[key]]
    found = []
    for word, keys in (("missing", missing), ("too many", extra), ("different", wrong)):
        if keys:
            found.append(f"{name}: {len(keys)} {word}, as {sorted(keys)[0]}")
    return found

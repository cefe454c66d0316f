"""A small district: a registry of accounts, who receives them, and contracts that change.

registry@330106     publishes `account` from the table `zh` (SQLite)
audit@330106        the same government: table `held` in SQLite
archive@330106      the same government: table `held` in PostgreSQL, when it is given one
registry@330106109  its own line below: accounts of one town
bank@330106         joins later
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import yaml
from installed import sql

TOWN, OTHER_TOWN = "330106109", "330106005"
OWN = {"no": "bh", "place": "dz", "owner": "hm", "amount": "je", "phone": "dh", "note": "bz"}
KEPT = ("no", "place", "owner", "amount", "phone", "note")  # columns of every table `held`

Row = tuple[Any, ...]


def write_contract(
    folder: Path,
    *,
    note_is_open: bool = False,
    phone_is_granted: bool = True,
    units: tuple[str, ...] = (),
    fingerprint: str | None = None,
) -> Path:
    """A contract of this district. `units` are added to the four that are always there."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "schemas").mkdir(parents=True)
    fields = ["no", "place", "owner", "amount", "phone", *(["note"] if note_is_open else [])]
    receivers = [
        {"rule": "accounts_beside", "direction": "horizontal",
         "lines": ["audit", "archive", "bank"], "fields": fields},
        {"rule": "accounts_below", "direction": "downward", "lines": ["registry"],
         "fields": ["no", "place", "owner", "amount"]},
    ]  # fmt: skip
    account = {
        "title": "Account", "title_zh": "账户", "line": "registry", "levels": ["county"],
        "schema_version": 1, "key": ["no"], "division": "place",
        "sharing": {f: "conditional" if f == "phone" else "unconditional" for f in KEPT},
        "receivers": receivers,
    }  # fmt: skip
    schema = {
        "type": "record", "name": "Account",
        "fields": [{"name": "no", "type": "string"}, {"name": "place", "type": "string"},
                   {"name": "owner", "type": ["null", "string"], "default": None},
                   {"name": "amount", "type": "long"},
                   {"name": "phone", "type": ["null", "string"], "default": None},
                   {"name": "note", "type": ["null", "string"], "default": None}],
    }  # fmt: skip
    names = ("registry@330106", "audit@330106", "archive@330106", f"registry@{TOWN}", *units)
    described: list[dict[str, str]] = [
        {"unit": u, "title": u, "title_zh": "单位", "owner": "信息科"} for u in names
    ]
    if fingerprint is not None:
        described[0]["key_fingerprint"] = fingerprint
    grants = [
        {"grant": "audit_calls", "unit": "audit@330106", "dataset": "account", "fields": ["phone"],
         "purpose": "回访", "territory": "330106", "starts": "2026-01-01",
         "until": "2099-12-31" if phone_is_granted else "2026-01-31"},
    ]  # fmt: skip
    _dump(folder / "topics.yml", {"partitions": 4, "datasets": {"account": account}})
    _dump(folder / "grants.yml", {"grants": grants})
    _dump(folder / "departments.yml", {
        "territories": {"33": "浙江省", "3301": "杭州市", "330106": "西湖区",
                        TOWN: "三墩镇", OTHER_TOWN: "翠苑街道"},
        "lines": {line: {"title": line, "title_zh": line}
                  for line in ("registry", "audit", "archive", "bank")},
        "units": described,
    })  # fmt: skip
    text = json.dumps(schema, ensure_ascii=False, indent=2)
    (folder / "schemas" / "account.v1.avsc").write_text(text, encoding="utf-8")
    return folder


class District:
    """The departments' folders and tables below `data`."""

    def __init__(self, data: Path, archive_url: str | None = None) -> None:
        self.data = data
        self.archive_url = archive_url

    def build(self, accounts: list[Row]) -> None:
        self.write_department("registry@330106", publishes={"table": "zh", "columns": OWN})
        self.write_department("audit@330106", columns=KEPT)
        self.write_department(f"registry@{TOWN}", columns=KEPT[:4])
        if self.archive_url is not None:
            self.write_department("archive@330106", self.archive_url, columns=KEPT[:4])
        columns = "bh INTEGER PRIMARY KEY, dz TEXT, hm TEXT, je INTEGER, dh TEXT, bz TEXT"
        with closing(sqlite3.connect(self.source)) as connection, connection:
            connection.execute(f"CREATE TABLE zh ({columns})")
            connection.executemany("INSERT INTO zh VALUES (?, ?, ?, ?, ?, ?)", accounts)

    def write_department(
        self,
        unit: str,
        database: str = "sqlite:///own.db",
        *,
        publishes: dict[str, Any] | None = None,
        columns: tuple[str, ...] = (),
        folder: Path | None = None,
    ) -> Path:
        home = (folder or self.data) / unit.replace("@", "-")
        home.mkdir(parents=True, exist_ok=True)
        system: dict[str, Any] = {"database": database}
        if publishes is not None:
            # Clerks of a test move and remove in seconds what others do in years.
            spared = {"hold_removals": {"percent": 100}}
            system["publishes"] = {"account": spared | publishes}
        if columns:
            mapping = {"table": "held", "columns": {c: c for c in columns}}
            system["receives"] = {"account": mapping}
        _dump(home / "department.yml", {"unit": unit, "systems": {"main": system}})
        return home / "department.yml"

    @property
    def source(self) -> Path:
        return self.file("registry@330106")

    def file(self, unit: str) -> Path:
        return self.data / unit.replace("@", "-") / "own.db"

    def config(self, unit: str) -> Path:
        return self.file(unit).with_name("department.yml")

    def accounts(self, columns: int = len(KEPT), place: str = "") -> list[Row]:
        """What the registry has now, in the others' words, by number."""
        rows = sql(self.source, "SELECT CAST(bh AS TEXT), dz, hm, je, dh, bz FROM zh ORDER BY 1")
        return [row[:columns] for row in rows if row[1].startswith(place)]

    def held(self, unit: str, columns: int = len(KEPT), file: Path | None = None) -> list[Row]:
        """What this department's copy holds now, by number; nothing before there is a table."""
        path = file or self.file(unit)
        if not path.exists() or not sql(path, "SELECT 1 FROM sqlite_master WHERE name = 'held'"):
            return []
        return sql(path, f"SELECT {', '.join(KEPT[:columns])} FROM held ORDER BY 1")

    def archived(self) -> list[Row]:
        """What the archive's PostgreSQL holds now, by number; the first four columns."""
        assert self.archive_url is not None
        return asyncio.run(_rows(self.archive_url, "held", KEPT[:4]))

    def is_carried(self) -> bool:
        """Whether the audit's copy and the town's are the registry's, in the fields of the first
        contract (the note is not open)."""
        wanted = [(*row[:5], None) for row in self.accounts()]
        return self.held("audit@330106") == wanted and self.town_is_carried()

    def town_is_carried(self) -> bool:
        return self.held(f"registry@{TOWN}", 4) == self.accounts(4, TOWN)

    def sums(self) -> list[tuple[Any, ...]]:
        """Count and sum of the amounts at the registry, the audit, the town and the archive: a
        look that is cheap enough to be repeated while 100,000 rows are on their way."""
        town = f"WHERE dz LIKE '{TOWN}%'"
        found = [sql(self.source, "SELECT count(*), sum(je) FROM zh")[0]]
        found += sql(self.source, f"SELECT count(*), sum(je) FROM zh {town}")
        for unit in ("audit@330106", f"registry@{TOWN}"):
            found += sql(self.file(unit), "SELECT count(*), sum(amount) FROM held")
        if self.archive_url is not None:
            found += asyncio.run(_rows(self.archive_url, "held", ("count(*)", "sum(amount)"), ""))
        return found

    def sums_agree(self) -> bool:
        here, of_town, audit, town, *archive = self.sums()
        return (audit, town) == (here, of_town) and all(a == here for a in archive)


def accounts(count: int, start: int = 1) -> list[Row]:
    """Made-up rows of the registry's table, every third in the town."""
    return [
        (n, TOWN if n % 3 == 0 else OTHER_TOWN, f"户{n}", n * 7, f"1990{n:07d}", f"备注{n}")
        for n in range(start, start + count)
    ]


async def _rows(
    url: str, table: str, columns: tuple[str, ...], order: str = 'ORDER BY no COLLATE "C"'
) -> list[Row]:
    connection = await asyncpg.connect(url)
    try:
        if not await connection.fetch("SELECT 1 FROM pg_tables WHERE tablename = $1", table):
            return []
        # In the order of bytes, as SQLite sorts.
        query = f"SELECT {', '.join(columns)} FROM {table} {order}"
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


def _dump(path: Path, content: Any) -> None:
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    path.write_text(text, encoding="utf-8")

"""The county that is tortured: contract, departments, tables; and who may have what, by hand.

registry@330106     publishes `account` from SQLite; receives `house` beside it
housing@330106      publishes `house` from PostgreSQL; receives `account` beside it
audit@330106        beside, SQLite: both datasets, `phone` of accounts by a grant
archive@330106      beside, PostgreSQL: both datasets
registry@3301       above, SQLite: accounts
registry@330106109  below, SQLite: accounts of this town and notices to the whole district
registry@330106005  the same for another town
clinic@330106109    another line below, SQLite: accounts of its town flow back to it
tax@3301            above and of another line, SQLite: accounts of one town, by a grant alone
bank@330106         beside, SQLite: joins later, see `County.write(bank=True)`

Both datasets have the same fields. `seq` is the writer's own number and goes wherever a record
goes; `phone` is conditional; `note` is open to nobody; `secret` is never shared and full of
canaries. Every recipient has a column for each of the first seven, so that what it should not have
would show.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .desks import Desk, PostgresDesk, SqliteDesk

DISTRICT, TOWN, OTHER_TOWN = "330106", "330106109", "330106005"
ELSEWHERE = "330108001"  # outside of the district: who moves there is gone
FIELDS = ("no", "place", "owner", "amount", "phone", "note", "seq")
OPEN = ("no", "place", "owner", "amount", "seq")
PARTITIONS = 4

REGISTRY, HOUSING = "registry@330106", "housing@330106"
AUDIT, ARCHIVE, CITY = "audit@330106", "archive@330106", "registry@3301"
BELOW, OTHER_BELOW = f"registry@{TOWN}", f"registry@{OTHER_TOWN}"
CLINIC, TAX, BANK = f"clinic@{TOWN}", "tax@3301", "bank@330106"
SOURCES = {REGISTRY: "account", HOUSING: "house"}
IN_POSTGRES = (HOUSING, ARCHIVE)

CANARY = "canary-"
# In the sources' own words: the mapping is a department's own affair.
OWN = {"no": "bh", "place": "dz", "owner": "hm", "amount": "je", "phone": "dh", "note": "bz",
       "seq": "xh"}  # fmt: skip
SOURCE_TABLE, LOG_TABLE = "zh", "witness_log"
# Of a typist's table beside its columns: a row whose record goes stays, as it was typed.
TYPED = {"forms": {"no": "trim"}, "mark": {"state": "gone"}}


@dataclass(frozen=True)
class Right:
    """What one unit may have of one dataset: records about places that begin with `within`, in
    these fields; with `notices` also those about a place that has `within` inside it."""

    within: str
    fields: frozenset[str]
    notices: bool = False

    def covers(self, place: str) -> bool:
        if not place.startswith(DISTRICT):
            return False  # moved out of its source's territory: gone everywhere
        return place.startswith(self.within) or (self.notices and self.within.startswith(place))


Rights = Mapping[tuple[str, str], Right]


def rights(*, bank: bool = False) -> dict[tuple[str, str], Right]:
    """(unit, dataset) -> what it may have. Written from the description above, not from the
    contract's files and not by the bus's rules."""
    open_ = frozenset(OPEN)
    found = {
        (REGISTRY, "house"): Right(DISTRICT, open_),
        (HOUSING, "account"): Right(DISTRICT, open_),
        (AUDIT, "account"): Right(DISTRICT, open_ | {"phone"}),
        (AUDIT, "house"): Right(DISTRICT, open_),
        (ARCHIVE, "account"): Right(DISTRICT, open_),
        (ARCHIVE, "house"): Right(DISTRICT, open_),
        (CITY, "account"): Right(DISTRICT, open_),
        (BELOW, "account"): Right(TOWN, open_, notices=True),
        (OTHER_BELOW, "account"): Right(OTHER_TOWN, open_, notices=True),
        (CLINIC, "account"): Right(TOWN, frozenset(("no", "place", "owner", "seq"))),
        (TAX, "account"): Right(TOWN, frozenset(("no", "place", "phone", "seq"))),
    }
    if bank:
        found[BANK, "account"] = Right(DISTRICT, open_)
        found[BANK, "house"] = Right(DISTRICT, open_)
    return found


@dataclass
class County:
    """Files and tables below `data`; `urls`: database of each unit in IN_POSTGRES."""

    data: Path
    urls: Mapping[str, str]
    extra_units: list[str] = field(default_factory=list)
    # Units whose tables had rows of their own before the bus came, see `typed`.
    typists: Collection[str] = ()
    # Source -> its `hold_removals`; by default nothing is ever held.
    guards: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def contract_folder(self) -> Path:
        return self.data / "contract"

    def folder(self, unit: str) -> Path:
        return self.data / "departments" / unit.replace("@", "-")

    def config(self, unit: str) -> Path:
        return self.folder(unit) / "department.yml"

    def file(self, unit: str) -> Path:
        return self.folder(unit) / "own.db"

    def desk(self, unit: str, *, read_only: bool = False) -> Desk:
        """A new desk at a unit's own database."""
        if unit in self.urls:
            return PostgresDesk(self.urls[unit])
        return SqliteDesk(self.file(unit), read_only=read_only)

    def units(self, rights: Rights) -> list[str]:
        return sorted({*SOURCES, *(unit for unit, _ in rights)})

    # -- files ------------------------------------------------------------------------------------

    def write(self, rights: Rights, *, bank: bool = False) -> None:
        """The contract, and department.yml and tables of every unit that has none yet."""
        self.write_contract(self.contract_folder, bank=bank)
        for unit in self.units(rights):
            if not self.config(unit).exists():
                self._write_department(unit, sorted(d for u, d in rights if u == unit))

    def write_contract(self, folder: Path, *, bank: bool = False, **changed: Any) -> Path:
        """`changed`: whole contents of topics, grants or departments instead of ours."""
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "schemas").mkdir(parents=True)
        for name, content in (self.contract(bank=bank) | changed).items():
            _dump(folder / f"{name}.yml", content)
        for dataset in SOURCES.values():
            text = json.dumps(_schema(dataset), indent=2)
            (folder / "schemas" / f"{dataset}.v1.avsc").write_text(text, encoding="utf-8")
        return folder

    def contract(self, *, bank: bool = False) -> dict[str, Any]:
        """Contents of topics.yml, grants.yml and departments.yml."""
        beside = ["registry", "housing", "audit", "archive", *(["bank"] if bank else [])]
        with_phone = [*OPEN, "phone"]  # flows to whoever holds a grant
        account_rules = [
            {"rule": "beside", "direction": "horizontal",
             "lines": [b for b in beside if b != "registry"], "fields": with_phone},
            {"rule": "above", "direction": "upward", "lines": ["registry"], "fields": list(OPEN)},
            {"rule": "below", "direction": "downward", "lines": ["registry"],
             "fields": list(OPEN)},
            {"rule": "back", "direction": "return", "lines": ["clinic"],
             "fields": ["no", "place", "owner", "seq"]},
        ]  # fmt: skip
        house_rules = [
            {"rule": "houses_beside", "direction": "horizontal",
             "lines": [b for b in beside if b != "housing"], "fields": list(OPEN)},
        ]  # fmt: skip
        grants = [
            _grant("audit_calls", AUDIT, ["phone"], DISTRICT),
            _grant("tax_of_town", TAX, ["no", "place", "phone", "seq"], TOWN),
        ]
        units = [*SOURCES, AUDIT, ARCHIVE, CITY, BELOW, OTHER_BELOW, CLINIC, TAX]
        units += [*([BANK] if bank else []), *self.extra_units]
        lines = sorted({unit.partition("@")[0] for unit in units})
        return {
            "topics": {
                "partitions": PARTITIONS,
                "datasets": {
                    "account": _dataset("Account", "registry", account_rules),
                    "house": _dataset("House", "housing", house_rules),
                },
            },
            "grants": {"grants": grants},
            "departments": {
                "territories": {"33": "浙江省", "3301": "杭州市", DISTRICT: "西湖区",
                                TOWN: "三墩镇", OTHER_TOWN: "翠苑街道"},
                "lines": {line: {"title": line, "title_zh": line} for line in lines},
                "units": [{"unit": u, "title": u, "title_zh": "单位", "owner": "信息科"}
                          for u in units],
            },
        }  # fmt: skip

    def _write_department(self, unit: str, receives: Sequence[str]) -> None:
        folder = self.folder(unit)
        folder.mkdir(parents=True, exist_ok=True)
        system: dict[str, Any] = {"database": self.urls.get(unit, "sqlite:///own.db")}
        if unit in SOURCES:
            # Its clerks move and remove in minutes what others do in years.
            guard = {"hold_removals": dict(self.guards.get(unit, {"percent": 100}))}
            system["publishes"] = {SOURCES[unit]: {"table": SOURCE_TABLE, "columns": OWN} | guard}
        if receives:
            more = TYPED if unit in self.typists else {}
            table = typed if unit in self.typists else held
            system["receives"] = {
                d: {"table": table(d), "columns": {f: f for f in FIELDS}} | more for d in receives
            }
        _dump(self.config(unit), {"unit": unit, "systems": {"main": system}})
        self._make_tables(unit, receives)

    # -- tables -----------------------------------------------------------------------------------

    def _make_tables(self, unit: str, receives: Iterable[str]) -> None:
        script = ""
        if unit in SOURCES:
            script += _SOURCE.format(table=SOURCE_TABLE)
        in_postgres = unit in self.urls
        script += _LOG_POSTGRES if in_postgres else _LOG_SQLITE
        templates = (_TYPED_POSTGRES, _TYPED_SQLITE) if unit in self.typists else (
            _HELD_POSTGRES, _HELD_SQLITE)  # fmt: skip
        for dataset in receives:
            template = templates[0] if in_postgres else templates[1]
            script += template.format(
                table=held(dataset), typed=typed(dataset), visits=visits(dataset), dataset=dataset
            )
        desk = self.desk(unit)
        if isinstance(desk, PostgresDesk):
            desk.script(script)
            desk.close()
        else:
            desk.close()
            _sqlite_script(self.file(unit), script)


def held(dataset: str) -> str:
    """What a recipient has of the bus: its table, or the view of a typist's on its own."""
    return f"held_{dataset}"


def typed(dataset: str) -> str:
    """A typist's own table; rows of hand have the number 0."""
    return f"typed_{dataset}"


def visits(dataset: str) -> str:
    """Another table of his, which refers to it."""
    return f"visits_{dataset}"


def canary() -> str:
    """A unique string that must be in no place but its own row."""
    return f"{CANARY}{secrets.token_hex(8)}"


def _sqlite_script(file: Path, script: str) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(file)) as connection:
        connection.executescript("PRAGMA journal_mode=WAL;" + script)


def _schema(dataset: str) -> dict[str, Any]:
    optional = ["null", "string"]
    kinds: dict[str, Any] = {
        "no": "string", "place": "string", "owner": optional, "amount": "long",
        "phone": optional, "note": optional, "seq": "long",
    }  # fmt: skip
    fields: list[dict[str, Any]] = []
    for name, kind in kinds.items():
        extra = {"default": None} if kind is optional else {}
        fields.append({"name": name, "type": kind, **extra})
    return {"type": "record", "name": dataset.capitalize(), "fields": fields}


def _dataset(title: str, line: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    sharing = dict.fromkeys(FIELDS, "unconditional")
    return {
        "title": title, "title_zh": title, "line": line, "levels": ["county"],
        "schema_version": 1, "key": ["no"], "division": "place",
        "sharing": sharing | {"phone": "conditional", "secret": "not_shared"},
        "receivers": rules,
    }  # fmt: skip


def _grant(name: str, unit: str, fields: list[str], territory: str) -> dict[str, Any]:
    return {
        "grant": name, "unit": unit, "dataset": "account", "fields": fields, "purpose": "回访",
        "territory": territory, "starts": "2026-01-01", "until": "2099-12-31",
    }  # fmt: skip


def _dump(path: Path, content: Any) -> None:
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    path.write_text(text, encoding="utf-8")


_SOURCE = """
CREATE TABLE {table} (bh TEXT PRIMARY KEY, dz TEXT NOT NULL, hm TEXT, je BIGINT NOT NULL, dh TEXT,
  bz TEXT, xh BIGINT NOT NULL, mm TEXT);
"""
# No unique key: a row that came twice would be there twice.
_HELD_COLUMNS = (
    "no TEXT NOT NULL, place TEXT, owner TEXT, amount BIGINT, phone TEXT, note TEXT, seq BIGINT"
)
_LOG_SQLITE = f"""
CREATE TABLE {LOG_TABLE} (id INTEGER PRIMARY KEY AUTOINCREMENT, dataset TEXT, op TEXT, no TEXT,
  place TEXT, owner TEXT, amount BIGINT, phone TEXT, note TEXT, seq BIGINT);
"""
_HELD_SQLITE = (
    "CREATE TABLE {table} ("
    + _HELD_COLUMNS
    + ");\nCREATE INDEX {table}_no ON {table} (no);\n"
    + "".join(
        f"CREATE TRIGGER {{table}}_{event} AFTER {event} ON {{table}} BEGIN INSERT INTO "
        f"{LOG_TABLE} (dataset, op, {', '.join(FIELDS)}) VALUES ('{{dataset}}', '{op}', "
        f"{', '.join(f'{row}.{name}' for name in FIELDS)}); END;\n"
        for event, op, row in (
            ("INSERT", "w", "NEW"), ("UPDATE", "w", "NEW"), ("DELETE", "d", "OLD"),
        )
    )
)  # fmt: skip
_LOG_POSTGRES = f"""
CREATE TABLE {LOG_TABLE} (id BIGSERIAL PRIMARY KEY, dataset TEXT, op TEXT, {_HELD_COLUMNS});
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO {LOG_TABLE} (dataset, op, {", ".join(FIELDS)})
      VALUES (TG_ARGV[0], 'd', {", ".join(f"OLD.{f}" for f in FIELDS)});
  ELSE
    INSERT INTO {LOG_TABLE} (dataset, op, {", ".join(FIELDS)})
      VALUES (TG_ARGV[0], 'w', {", ".join(f"NEW.{f}" for f in FIELDS)});
  END IF;
  RETURN NULL;
END $$;
"""
_HELD_POSTGRES = (
    "CREATE TABLE {table} ("
    + _HELD_COLUMNS
    + ");\nCREATE INDEX {table}_no ON {table} (no);\n"
    + "CREATE TRIGGER {table}_witness AFTER INSERT OR UPDATE OR DELETE ON {table} "
    "FOR EACH ROW EXECUTE FUNCTION witness('{dataset}');\n"
)
_OWN_COLUMNS = (
    "no TEXT, place TEXT, owner TEXT, amount BIGINT, phone TEXT, note TEXT, seq BIGINT, "
    "remark TEXT, state TEXT"
)
# The bus's alone, and no row that it has marked.
_VIEW = f"CREATE VIEW {{table}} AS SELECT {', '.join(FIELDS)} FROM {{typed}} WHERE seq > 0;\n"
_TYPED_SQLITE = (
    f"CREATE TABLE {{typed}} (bh INTEGER PRIMARY KEY, {_OWN_COLUMNS});\n"
    "CREATE INDEX {typed}_no ON {typed} (no);\n"
    "CREATE TABLE {visits} (nr INTEGER PRIMARY KEY, bh INTEGER REFERENCES {typed} (bh), "
    "said TEXT);\n"
    + _VIEW
    + "".join(
        f"CREATE TRIGGER {{typed}}_{event} AFTER {event} ON {{typed}} WHEN {row}.seq > 0 BEGIN "
        f"INSERT INTO {LOG_TABLE} (dataset, op, {', '.join(FIELDS)}) VALUES ('{{dataset}}', "
        f"'{op}', {', '.join(f'{row}.{name}' for name in FIELDS)}); END;\n"
        for event, op, row in (
            ("INSERT", "w", "NEW"), ("UPDATE", "w", "NEW"), ("DELETE", "d", "OLD"),
        )
    )
)  # fmt: skip
_TYPED_POSTGRES = (
    "CREATE TABLE {typed} (bh BIGINT GENERATED BY DEFAULT AS IDENTITY (START WITH 1000000) "
    f"PRIMARY KEY, {_OWN_COLUMNS});\n"
    "CREATE INDEX {typed}_no ON {typed} (no);\n"
    "CREATE TABLE {visits} (nr BIGINT PRIMARY KEY, bh BIGINT REFERENCES {typed} (bh), said TEXT);\n"
    + _VIEW
    + "".join(
        f"CREATE TRIGGER {{typed}}_{event} AFTER {event} ON {{typed}} FOR EACH ROW "
        f"WHEN ({row}.seq > 0) EXECUTE FUNCTION witness('{{dataset}}');\n"
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
    )
)

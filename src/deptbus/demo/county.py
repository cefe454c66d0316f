"""Builds the county: the contract, and a folder for each department with its own database.

    DIR/contract/             the bundled contract, with the fingerprints of this county's keys
    DIR/departments/<unit>/   department.yml, key.secret, own.db (or a PostgreSQL database)

Each department's tables, columns and codes are in its own dialect (`demo.dialects`). Columns of
fields that are not shared hold canaries: unique strings that must never be seen elsewhere.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from deptbus.contract.load import load
from deptbus.contract.model import Contract, Policy, Sharing, Unit
from deptbus.demo import dialects
from deptbus.demo.desk import Desk
from deptbus.demo.people import address, credit_code, enterprise_name, people
from deptbus.operations.rights import Rights, rights_of
from deptbus.wire.keys import fingerprint, new_secret

Row = dict[str, Any]

# The table of civil affairs stood there before the bus, with a rule of its own: one of the bad
# changes of the demonstration breaks it and is parked.
LONGEST_NAME = 60

CANARY = "canary-"
OWNER_DIGITS = 8


@dataclass(frozen=True)
class Department:
    """One unit's folder and desk: `tables` are those that its clerks write."""

    unit: Unit
    folder: Path
    database: str
    dialect: dialects.Dialect
    publishes: tuple[str, ...]
    receives: dict[str, tuple[str, ...]]  # dataset -> fields for which this unit keeps a column

    @property
    def config(self) -> Path:
        return self.folder / "department.yml"

    def desk(self) -> Desk:
        return Desk(self.database, self.folder)

    def table(self, dataset: str) -> str:
        return f'"{self.table_name(dataset)}"'

    def table_name(self, dataset: str) -> str:
        # A department that publishes a dataset and receives it too (a notice of another government)
        # keeps what it received in a table of its own.
        return dialects.TABLES[dataset][self.dialect]

    def column(self, field: str) -> str:
        return f'"{dialects.column(self.dialect, field)}"'

    def form(self, dataset: str) -> str:
        """On what its clerks typed a record of this dataset until the bus came."""
        return dialects.form(self.dialect, dataset)

    def code(self, field: str, value: str | None) -> str | None:
        return dialects.code(self.dialect, field, value)


@dataclass(frozen=True)
class County:
    folder: Path
    contract: Contract
    departments: dict[str, Department]

    @property
    def contract_folder(self) -> Path:
        return self.folder / "contract"

    @property
    def configs(self) -> list[Path]:
        return [d.config for d in self.departments.values()]


def build(
    folder: Path,
    bundled: Path,
    *,
    residents: int,
    seed: int,
    postgres: Callable[[str], str] | None = None,
) -> County:
    """Builds a county in an empty or absent folder.

    `postgres` makes a database by name and returns its URL; the offices at county level
    then live in PostgreSQL, the others stay with SQLite.
    """
    rng = random.Random(seed)
    contract = load(bundled)
    now = datetime.now(UTC)
    policy = Policy(number=1, activated_at=now, activated_by="demo", contract=contract)
    departments: dict[str, Department] = {}
    fingerprints: dict[str, str] = {}
    for unit in contract.units:
        place = folder / "departments" / unit.unit.replace("@", "-")
        place.mkdir(parents=True, exist_ok=True)
        secret = new_secret()
        fingerprints[unit.unit] = fingerprint(secret)
        _write_secret(place / "key.secret", secret)
        rights = rights_of(policy, unit.unit, now)
        in_postgres = postgres is not None and len(unit.territory) == 6
        database = (
            postgres(unit.unit.replace("@", "_")) if in_postgres else "sqlite:///own.db"  # type: ignore[misc]
        )
        departments[unit.unit] = Department(
            unit,
            place,
            database,
            dialects.DIALECT_OF_LINE[unit.line],
            rights.publishes,
            _columns_kept(contract, rights),
        )
    _write_contract(folder / "contract", bundled, fingerprints)
    county = County(folder, load(folder / "contract"), departments)
    _fill(rng, contract, departments, residents)
    for department in departments.values():
        _write_department(department, contract)
    return county


def _columns_kept(contract: Contract, rights: Rights) -> dict[str, tuple[str, ...]]:
    """Per dataset received: the fields that flow, and those that a grant opened or will open."""
    kept: dict[str, set[str]] = {}
    for flow in rights.receives:
        kept.setdefault(flow.dataset, set()).update(flow.fields)
    for grant in contract.grants:
        if grant.unit == rights.unit and grant.dataset in kept:
            kept[grant.dataset].update(grant.fields)
    return {
        name: tuple(f for f in contract.field_names(name) if f in kept[name])
        for name in sorted(kept)
    }


def _write_secret(path: Path, secret: bytes) -> None:
    path.touch(mode=0o600)
    path.write_text(secret.hex() + "\n", encoding="ascii")


def _write_contract(folder: Path, bundled: Path, fingerprints: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("topics.yml", "grants.yml"):
        shutil.copyfile(bundled / name, folder / name)
    shutil.copytree(bundled / "schemas", folder / "schemas", dirs_exist_ok=True)
    lines = []
    for line in (bundled / "departments.yml").read_text(encoding="utf-8").splitlines():
        lines.append(line)
        head, _, unit = line.partition("- unit: ")
        if not head.strip() and unit.strip() in fingerprints:
            lines.append(f"    key_fingerprint: {fingerprints[unit.strip()]}")
    (folder / "departments.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_department(department: Department, contract: Contract) -> None:
    system: dict[str, Any] = {"database": department.database}
    publishes, receives = {}, {}
    for name in department.publishes:
        publishes[name] = _mapping(department, name, contract.field_names(name))
        # In minutes a demonstration moves as many people as a county does in years.
        publishes[name]["hold_removals"] = {"percent": 100}
    for name, fields in department.receives.items():
        mapping = _mapping(department, name, fields)
        mapping["replaces"] = dialects.form(department.dialect, name)
        if name in department.publishes:
            mapping["table"] += "_in"
        receives[name] = mapping
    if publishes:
        system["publishes"] = publishes
    if receives:
        system["receives"] = receives
    text = yaml.safe_dump(
        {"unit": department.unit.unit, "secret_file": "key.secret", "systems": {"main": system}},
        allow_unicode=True,
        sort_keys=False,
    )
    department.config.write_text(text, encoding="utf-8")


def _mapping(department: Department, dataset: str, fields: tuple[str, ...]) -> dict[str, Any]:
    mapping: dict[str, Any] = {
        "table": department.table_name(dataset),
        "columns": {f: dialects.column(department.dialect, f) for f in fields},
    }
    values = {f: t for f in fields if (t := dialects.code_table(department.dialect, f))}
    if values:
        mapping["values"] = values
    return mapping


# -- tables and rows ------------------------------------------------------------------------------


def _fill(
    rng: random.Random, contract: Contract, departments: dict[str, Department], residents: int
) -> None:
    """Makes every source table with its rows."""
    for department in departments.values():
        desk = department.desk()
        for dataset in department.publishes:
            desk.execute(_create(department, contract, dataset))
            rows = _ROWS[dataset](rng, contract, department, residents)
            insert(desk, department, contract, dataset, rows)
        if department.unit.unit == "civil_affairs@330106":
            desk.execute(_create(department, contract, "resident", check=True, shared_only=True))
        desk.close()


def insert(
    desk: Desk, department: Department, contract: Contract, dataset: str, rows: list[Row]
) -> None:
    """Types rows (bus fields and values) into the own table, each with its canaries."""
    hidden = [f for f, s in contract.datasets[dataset].sharing.items() if s is Sharing.NOT_SHARED]
    fields = [*contract.field_names(dataset), *hidden]
    columns = ", ".join(department.column(f) for f in fields)
    marks = ", ".join("?" for _ in fields)
    typed = []
    for row in rows:
        secret = [canary(department.unit.unit) for _ in hidden]
        shared = [department.code(f, row[f]) for f in contract.field_names(dataset)]
        typed.append([*shared, *secret])
    table = department.table(dataset)
    desk.insert_many(f"INSERT INTO {table} ({columns}) VALUES ({marks})", typed)


def canary(unit: str) -> str:
    """A unique string that says whose it is, and must be in no place but there."""
    return f"{CANARY}{canary_owner(unit)}{secrets.token_hex(8)}"


def canary_owner(unit: str) -> str:
    return hashlib.sha256(unit.encode()).hexdigest()[:OWNER_DIGITS]


def _create(
    department: Department,
    contract: Contract,
    dataset: str,
    *,
    check: bool = False,
    shared_only: bool = False,
) -> str:
    terms = contract.datasets[dataset]
    columns = []
    for field in contract.record_schema(dataset)["fields"]:
        name = field["name"]
        kind = "TEXT" if dialects.code_table(department.dialect, name) else _sql_type(field["type"])
        extra = " PRIMARY KEY" if (name,) == terms.key else ""
        if check and name == "name":
            extra += f" CHECK (length({department.column(name)}) <= {LONGEST_NAME})"
        columns.append(f"{department.column(name)} {kind}{extra}")
    if not shared_only:
        hidden = [f for f, s in terms.sharing.items() if s is Sharing.NOT_SHARED]
        columns += [f"{department.column(f)} TEXT" for f in hidden]
    return f"CREATE TABLE {department.table(dataset)} ({', '.join(columns)})"


def _sql_type(avro: Any) -> str:
    if isinstance(avro, list):
        return _sql_type(next(t for t in avro if t != "null"))
    if isinstance(avro, dict):
        logical = avro.get("logicalType")
        if logical == "decimal":
            return f"NUMERIC({avro['precision']},{avro['scale']})"
        return {"date": "DATE", "timestamp-micros": "TIMESTAMPTZ"}.get(logical or "", "TEXT")
    return {"int": "INTEGER", "long": "BIGINT"}.get(avro, "TEXT")


def communities(contract: Contract, territory: str) -> list[str]:
    """The communities of a territory that the contract names."""
    return sorted(c for c in contract.territories if len(c) == 12 and c.startswith(territory))


def _residents(
    rng: random.Random, contract: Contract, department: Department, count: int
) -> list[Row]:
    district = department.unit.territory
    # The neighbouring district is smaller, and its numbers begin where ours end.
    amount = count if district == "330106" else max(count // 10, 5)
    offset = 0 if district == "330106" else 500
    rows = []
    made = people(rng, amount, communities(contract, district), first_sequence=offset)
    for number, person in enumerate(made):
        rows.append(
            {
                "resident_id": person.resident_id,
                "name": person.name,
                "sex": person.sex,
                "birth_date": person.birth_date,
                "ethnic_group": rng.choice(("汉族", "畲族", "回族", None)),
                "division": person.place,
                "address": person.address,
                "household_id": f"{district}H{number // 3:06d}",
                "marital_status": rng.choice(
                    ("single", "married", "widowed", "divorced", "unknown")
                ),
                "registered_on": date(2010, 1, 1) + timedelta(days=rng.randrange(5000)),
                "phone": person.phone,
                "employer": rng.choice((None, enterprise_name(rng, rng.randrange(50)))),
            }
        )
    return rows


def _households(
    rng: random.Random, contract: Contract, department: Department, count: int
) -> list[Row]:
    district = department.unit.territory
    amount = (count if district == "330106" else max(count // 10, 5)) // 3
    heads = people(rng, max(amount, 1), communities(contract, district), first_sequence=700)
    return [
        {
            "household_id": f"{district}H{number:06d}",
            "head_resident_id": head.resident_id,
            "kind": rng.choice(("family", "family", "collective")),
            "members": rng.randint(1, 6),
            "division": head.place,
            "address": head.address,
            "registered_on": date(2012, 3, 1) + timedelta(days=rng.randrange(4000)),
        }
        for number, head in enumerate(heads)
    ]


def _housing_units(
    rng: random.Random, contract: Contract, department: Department, count: int
) -> list[Row]:
    places = communities(contract, department.unit.territory)
    owners = people(rng, max(count // 2, 1), places, first_sequence=600)
    return [
        {
            "house_code": f"F{department.unit.territory}{number:08d}",
            "division": owner.place,
            "address": owner.address,
            "usage": rng.choice(("residential", "residential", "commercial", "office", "other")),
            "area_sqm": Decimal(rng.randrange(2500, 22000)) / 100,
            "rooms": rng.choice((None, 1, 2, 3, 4, 5)),
            "built_year": rng.choice((None, *range(1980, 2025))),
            "registered_at": moment(rng),
            "owner_resident_id": owner.resident_id,
            "monthly_rent": rng.choice((None, Decimal(rng.randrange(1500, 12000)))),
        }
        for number, owner in enumerate(owners)
    ]


def _enterprises(
    rng: random.Random, contract: Contract, department: Department, count: int
) -> list[Row]:
    places = communities(contract, department.unit.territory)
    heads = people(rng, max(count // 10, 3), places, first_sequence=800)
    return [
        {
            "credit_code": credit_code(number),
            "name": enterprise_name(rng, number),
            "status": rng.choice(("active", "active", "suspended", "revoked")),
            "industry": rng.choice((None, "零售业", "软件业", "餐饮业")),
            "division": head.place,
            "address": address(rng),
            "established_on": date(2001, 1, 1) + timedelta(days=rng.randrange(8000)),
            "registered_capital": rng.choice((None, Decimal(rng.randrange(10, 900) * 10_000))),
            "employees": rng.choice((None, rng.randint(1, 400))),
            "legal_representative": head.name,
            "legal_representative_id": head.resident_id,
        }
        for number, head in enumerate(heads)
    ]


def _incidents(
    rng: random.Random, contract: Contract, department: Department, count: int
) -> list[Row]:
    return [incident(rng, department, number) for number in range(max(count // 100, 2))]


def incident(rng: random.Random, department: Department, number: int) -> Row:
    return {
        "incident_no": f"SJ{department.unit.territory}{number:06d}",
        "division": department.unit.territory,
        "category": rng.choice(("safety_hazard", "dispute", "environment", "facility", "other")),
        "urgency": rng.randint(1, 4),
        "place": address(rng),
        "description": rng.choice(("测试：楼道堆物", "测试：路灯不亮", "测试：占道停车")),
        "occurred_at": moment(rng),
        "closed_at": None,
        "reporter_phone": f"1990000{rng.randrange(10_000):04d}",
    }


def _notices(
    rng: random.Random, contract: Contract, department: Department, count: int
) -> list[Row]:
    return [notice(rng, department, number, department.unit.territory) for number in range(3)]


def notice(rng: random.Random, department: Department, number: int, division: str) -> Row:
    return {
        "notice_no": f"测政发〔2026〕{department.unit.territory}-{number}号",
        "title": f"关于测试事项第{number}号的通知",
        "body": "本文件由演示程序生成，不具有任何效力。",
        "topic": rng.choice(("economy", "livelihood", "safety", "environment")),
        "division": division,
        "issued_at": moment(rng),
        "effective_on": date(2026, 12, 1),
        "budget_yuan": rng.choice((None, Decimal(rng.randrange(1, 500) * 10_000))),
        "drafter": "测试员甲",
    }


def moment(rng: random.Random) -> datetime:
    """Some time in 2025, to the millisecond."""
    start = datetime(2025, 1, 1, tzinfo=UTC)
    return start + timedelta(milliseconds=rng.randrange(365 * 86_400_000))


_ROWS: dict[str, Callable[[random.Random, Contract, Department, int], list[Row]]] = {
    "resident": _residents,
    "household": _households,
    "housing_unit": _housing_units,
    "enterprise": _enterprises,
    "grid_incident": _incidents,
    "policy_notice": _notices,
}

"""One resident's story: the police change an address once; who knew it, when, with which fields.

Everything is seen from outside, in the departments' own tables, by plain SQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from deptbus.demo.county import County, Department, insert
from deptbus.demo.desk import Desk
from deptbus.demo.people import resident_id
from deptbus.demo.referee import Referee
from deptbus.errors import DeptbusError

POLICE = "public_security@330106"
DEADLINE_SECONDS = 60.0
LOOK_SECONDS = 0.002
OLD_PLACE, NEW_PLACE = "330106005055", "330106007001"


@dataclass(frozen=True, slots=True)
class Told:
    """One department's line of the story."""

    unit: str
    milliseconds: float
    fields: tuple[str, ...]
    form: str  # on which its clerks would have typed it


@dataclass(frozen=True, slots=True)
class Story:
    moved_in: tuple[Told, ...]  # who has the resident after the move, the quickest first
    gone_from: tuple[Told, ...]  # who had the resident and has to forget: milliseconds until then


def tell(county: County, sleep: Callable[[float], None] = time.sleep) -> Story:
    """Registers a new resident, waits until all know, then moves the resident to another
    sub-district by one UPDATE and watches every table. Raises DeptbusError."""
    police = county.departments[POLICE]
    key = resident_id(date(1960, 2, 3), 985)
    readers = {d.unit.unit: d for d in county.departments.values() if "resident" in d.receives}
    desks = {unit: department.desk() for unit, department in readers.items()}
    desk = police.desk()
    try:
        row = _resident(key)
        insert(desk, police, county.contract, "resident", [row])
        expected = _expected(county, OLD_PLACE)
        _watch(readers, desks, key, dict.fromkeys(expected, "旧址测试路1号"), sleep)
        new = _expected(county, NEW_PLACE)
        desk.execute(
            f"UPDATE {police.table('resident')} SET {police.column('division')} = ?, "
            f"{police.column('address')} = ? WHERE {police.column('resident_id')} = ?",
            [NEW_PLACE, "新址测试路2号", key],
        )
        wanted: dict[str, str | None] = dict.fromkeys(expected - new)
        wanted |= dict.fromkeys(new, "新址测试路2号")
        seen = _watch(readers, desks, key, wanted, sleep)
        told = [_told(readers[u], desks[u], key, ms) for u, ms in sorted(seen.items(), key=_by_ms)]
        return Story(
            tuple(t for t in told if t.unit in new), tuple(t for t in told if t.unit not in new)
        )
    finally:
        desk.close()
        for other in desks.values():
            other.close()


def _expected(county: County, place: str) -> set[str]:
    """Units that should have a resident of this place in a table with addresses, as the referee
    reads the contract (the story does not ask routing)."""
    referee = Referee(county.contract_folder, county.configs)
    return {
        unit
        for unit, department in county.departments.items()
        if "address" in department.receives.get("resident", ())
        and referee.may_have(unit, "resident", POLICE, place)
    }


def _watch(
    readers: dict[str, Department],
    desks: dict[str, Desk],
    key: str,
    wanted: dict[str, str] | dict[str, str | None],
    sleep: Callable[[float], None],
) -> dict[str, float]:
    """Unit -> milliseconds from now until its table shows the wanted address (None: no row)."""
    began = time.monotonic()
    seen: dict[str, float] = {}
    while len(seen) < len(wanted):
        for unit, address in wanted.items():
            if unit not in seen and _address(readers[unit], desks[unit], key) == address:
                seen[unit] = (time.monotonic() - began) * 1000
        if time.monotonic() - began > DEADLINE_SECONDS:
            missing = ", ".join(sorted(set(wanted) - set(seen)))
            raise DeptbusError(
                f"one resident's change did not reach {missing} in {DEADLINE_SECONDS:.0f} s",
                mend="Run it again with --keep DIR and see DIR/logs",
            )
        sleep(LOOK_SECONDS)
    return seen


def _address(department: Department, desk: Desk, key: str) -> str | None:
    rows = desk.rows(
        f"SELECT {department.column('address')} FROM {department.table('resident')} "
        f"WHERE {department.column('resident_id')} = ?",
        [key],
    )
    return rows[0][0] if rows else None


def _told(department: Department, desk: Desk, key: str, milliseconds: float) -> Told:
    fields = department.receives["resident"]
    columns = ", ".join(department.column(f) for f in fields)
    rows = desk.rows(
        f"SELECT {columns} FROM {department.table('resident')} "
        f"WHERE {department.column('resident_id')} = ?",
        [key],
    )
    filled = tuple(f for f, v in zip(fields, rows[0], strict=True) if v is not None) if rows else ()
    return Told(department.unit.unit, milliseconds, filled, department.form("resident"))


def _by_ms(item: tuple[str, float]) -> float:
    return item[1]


def _resident(key: str) -> dict[str, object]:
    return {
        "resident_id": key,
        "name": "测试甲",
        "sex": "female",
        "birth_date": date(1960, 2, 3),
        "ethnic_group": "汉族",
        "division": OLD_PLACE,
        "address": "旧址测试路1号",
        "household_id": "330106H000001",
        "marital_status": "married",
        "registered_on": date(2020, 5, 6),
        "phone": "19900000001",
        "employer": "杭州测试软件有限公司",
    }

"""The clerks: edit their own departments' databases by plain SQL, as on any working day.

One thread a department; all that they do is drawn from a seeded random generator. They know nothing
of the bus, and it is never waited for.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from deptbus.demo.county import County, Department, communities, incident, insert, notice
from deptbus.demo.desk import Desk
from deptbus.demo.people import address, resident_id

Edit = Callable[["Clerk"], str]


class Clerk:
    """Edits one department's tables until told to stop; `done` counts the edits by kind."""

    def __init__(self, county: County, department: Department, seed: int) -> None:
        self.county = county
        self.department = department
        self.rng = random.Random(seed)
        self.desk: Desk = department.desk()
        self.serial = 0
        self.done: Counter[str] = Counter()
        self.keys = {dataset: self._keys(dataset) for dataset in department.publishes}

    def work(self, stop: threading.Event, edits_per_second: float) -> None:
        """Runs in the clerk's own thread until `stop` is set."""
        try:
            edits = [e for dataset in self.department.publishes for e in _EDITS[dataset]]
            while not stop.is_set():
                kind = self.rng.choice(edits)(self)
                self.done[kind] += 1
                stop.wait(self.rng.expovariate(edits_per_second))
        finally:
            self.desk.close()

    def _keys(self, dataset: str) -> list[str]:
        key = self.column(self.key_field(dataset))
        rows = self.desk.rows(f"SELECT {key} FROM {self.department.table(dataset)}")
        return [str(row[0]) for row in rows]

    def key_field(self, dataset: str) -> str:
        return self.county.contract.datasets[dataset].key[0]

    def column(self, field: str) -> str:
        return self.department.column(field)

    def place(self) -> str:
        return self.rng.choice(communities(self.county.contract, self.department.unit.territory))

    def any_key(self, dataset: str) -> str:
        return self.rng.choice(self.keys[dataset])

    def set(self, dataset: str, key: str, **values: object) -> None:
        """UPDATE of one row; values are bus fields and bus values."""
        assignments = ", ".join(f"{self.column(f)} = ?" for f in values)
        parameters = [
            self.department.code(f, v) if isinstance(v, str) else v for f, v in values.items()
        ]
        self.desk.execute(
            f"UPDATE {self.department.table(dataset)} SET {assignments} "
            f"WHERE {self.column(self.key_field(dataset))} = ?",
            [*parameters, key],
        )

    def delete(self, dataset: str, key: str) -> None:
        self.desk.execute(
            f"DELETE FROM {self.department.table(dataset)} "
            f"WHERE {self.column(self.key_field(dataset))} = ?",
            [key],
        )
        self.keys[dataset].remove(key)


# -- what they do --


def _new_address(clerk: Clerk) -> str:
    clerk.set("resident", clerk.any_key("resident"), address=address(clerk.rng))
    return "address"


def _new_phone(clerk: Clerk) -> str:
    number = f"1990000{clerk.rng.randrange(10_000):04d}"
    clerk.set("resident", clerk.any_key("resident"), phone=number)
    return "phone"


def _move(clerk: Clerk) -> str:
    key = clerk.any_key("resident")
    clerk.set("resident", key, division=clerk.place(), address=address(clerk.rng))
    return "move"


def _birth(clerk: Clerk) -> str:
    clerk.serial += 1
    own = 900 if clerk.department.unit.territory == "330106" else 950
    day = datetime(1985, 1, 1, tzinfo=UTC).date()
    day = day.replace(year=1985 + clerk.serial // 350, month=1 + clerk.serial % 12)
    key = resident_id(day.replace(day=1 + clerk.serial % 28), own + clerk.serial // 336 % 50)
    if key in clerk.keys["resident"]:
        return "none"
    row = {
        "resident_id": key,
        "name": "新测试",
        "sex": "unknown",
        "birth_date": day,
        "ethnic_group": None,
        "division": clerk.place(),
        "address": address(clerk.rng),
        "household_id": None,
        "marital_status": "single",
        "registered_on": day,
        "phone": None,
        "employer": None,
    }
    insert(clerk.desk, clerk.department, clerk.county.contract, "resident", [row])
    clerk.keys["resident"].append(key)
    return "birth"


def _death(clerk: Clerk) -> str:
    if len(clerk.keys["resident"]) < 4:
        return "none"
    clerk.delete("resident", clerk.any_key("resident"))
    return "removal"


def _household(clerk: Clerk) -> str:
    key = clerk.any_key("household")
    clerk.set("household", key, members=clerk.rng.randint(1, 7), address=address(clerk.rng))
    return "household"


def _tenancy(clerk: Clerk) -> str:
    key = clerk.any_key("housing_unit")
    clerk.set("housing_unit", key, usage=clerk.rng.choice(("residential", "commercial", "office")))
    return "housing"


def _recoded(clerk: Clerk) -> str:
    """A house gets a new code: the key itself changes."""
    key = clerk.any_key("housing_unit")
    clerk.serial += 1
    new = f"N{clerk.department.unit.territory}{clerk.serial:08d}"
    if new in clerk.keys["housing_unit"]:
        return "none"
    clerk.set("housing_unit", key, house_code=new)
    clerk.keys["housing_unit"].remove(key)
    clerk.keys["housing_unit"].append(new)
    return "key"


def _enterprise(clerk: Clerk) -> str:
    key = clerk.any_key("enterprise")
    status = clerk.rng.choice(("active", "suspended", "revoked"))
    clerk.set("enterprise", key, status=status, employees=clerk.rng.randint(1, 500))
    return "enterprise"


def _incident(clerk: Clerk) -> str:
    clerk.serial += 1
    row = incident(clerk.rng, clerk.department, 100_000 + clerk.serial)
    if row["incident_no"] in clerk.keys["grid_incident"]:
        return "none"
    insert(clerk.desk, clerk.department, clerk.county.contract, "grid_incident", [row])
    clerk.keys["grid_incident"].append(row["incident_no"])
    return "incident"


def _close_incident(clerk: Clerk) -> str:
    key = clerk.any_key("grid_incident")
    clerk.set("grid_incident", key, closed_at=datetime.now(UTC).replace(microsecond=0))
    return "incident"


def _notice(clerk: Clerk) -> str:
    clerk.serial += 1
    territory = clerk.department.unit.territory
    below = [t for t in clerk.county.contract.territories if t.startswith(territory)]
    row = notice(clerk.rng, clerk.department, 1000 + clerk.serial, clerk.rng.choice(below))
    if row["notice_no"] in clerk.keys["policy_notice"]:
        return "none"
    insert(clerk.desk, clerk.department, clerk.county.contract, "policy_notice", [row])
    clerk.keys["policy_notice"].append(row["notice_no"])
    return "notice"


def _amend_notice(clerk: Clerk) -> str:
    clerk.set("policy_notice", clerk.any_key("policy_notice"), topic="livelihood")
    return "notice"


_EDITS: dict[str, list[Edit]] = {
    "resident": [*[_new_address] * 8, *[_new_phone] * 3, *[_move] * 4, _birth, _birth, _death],
    "household": [_household] * 3,
    "housing_unit": [*[_tenancy] * 5, _recoded],
    "enterprise": [_enterprise] * 3,
    "grid_incident": [_incident, _close_incident],
    "policy_notice": [_notice, _amend_notice],
}


class Clerks:
    """All clerks of a county, each in a thread."""

    def __init__(self, county: County, seed: int) -> None:
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self.clerks = [
            Clerk(county, department, seed + number)
            for number, department in enumerate(county.departments.values())
            if department.publishes
        ]
        self._threads: list[threading.Thread] = []

    def start(self, edits_per_second: float) -> None:
        """`edits_per_second` of all clerks together."""
        each = edits_per_second / len(self.clerks)
        for clerk in self.clerks:
            thread = threading.Thread(target=self._work, args=(clerk, each), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _work(self, clerk: Clerk, each: float) -> None:
        try:
            clerk.work(self._stop, each)
        except BaseException as failure:  # noqa: BLE001 - told to the main thread by `stop`
            self._failures.append(failure)

    def stop(self) -> Counter[str]:
        """Ends the working day; raises what a clerk's program met: the bus may never cause it."""
        self._stop.set()
        deadline = time.monotonic() + 30
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        if self._failures:
            raise self._failures[0]
        return self.so_far()

    def so_far(self) -> Counter[str]:
        """Edits by kind."""
        total: Counter[str] = Counter()
        for clerk in self.clerks:
            total += clerk.done
        del total["none"]
        return total

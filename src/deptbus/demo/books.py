"""Reads what the adapters wrote down in the departments' databases, beside their own tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import quantiles

from deptbus.demo.county import Department
from deptbus.demo.desk import Desk


@dataclass
class Books:
    """Sums over all departments. Latencies in milliseconds: commit at the source (by its clock) to
    commit at the recipient (by its adapter's clock), of live upserts that are the newest of their
    record; `first_load_per_second` is deliveries applied by all recipients together."""

    parked: int = 0
    reentries: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    first_load_per_second: float = 0.0

    def latency(self) -> dict[str, float]:
        """p50, p99, max; zeros where nothing was delivered live."""
        values = sorted(self.latencies_ms)
        if len(values) < 2:
            return dict.fromkeys(("p50", "p99", "max"), round(sum(values), 1))
        cuts = quantiles(values, n=100, method="inclusive")
        return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "max": round(values[-1], 1)}


def parked_rows(departments: Iterable[Department]) -> int:
    """Rows that are parked now, at sources and at recipients."""
    return sum(_parked(department) for department in departments)


def read_books(departments: Iterable[Department]) -> Books:
    books = Books()
    loaded, first, last = 0, 0, 0
    for department in departments:
        books.parked += _parked(department)
        desk = department.desk()
        dot = _prefix(desk)
        if department.receives:
            books.reentries += _one(
                desk,
                f"SELECT sum(deliveries) FROM {dot}statistics WHERE outcome = 'reentry'",
            )
            books.latencies_ms += [
                float(us) / 1000
                for (us,) in desk.rows(
                    f"SELECT applied_at_us - source_time_us FROM {dot}ledger "
                    "WHERE op = 'upsert' AND cause = 'live' AND parked IS NULL"
                )
            ]
            for count, began, ended in desk.rows(
                f"SELECT count(*), min(applied_at_us), max(applied_at_us) FROM {dot}ledger "
                "WHERE op = 'upsert' AND cause = 'snapshot'"
            ):
                if count:
                    loaded += count
                    first = min(first or began, began)
                    last = max(last, ended)
        desk.close()
    if last > first:
        books.first_load_per_second = loaded / ((last - first) / 1_000_000)
    return books


def _parked(department: Department) -> int:
    desk = department.desk()
    dot = _prefix(desk)
    parked = 0
    if department.publishes:
        parked += _one(desk, f"SELECT count(*) FROM {dot}parked")
    if department.receives:
        parked += _one(desk, f"SELECT count(*) FROM {dot}ledger WHERE parked IS NOT NULL")
    desk.close()
    return parked


def _prefix(desk: Desk) -> str:
    return "deptbus." if desk.is_postgres else "deptbus_"


def _one(desk: Desk, statement: str) -> int:
    return int(desk.rows(statement)[0][0] or 0)

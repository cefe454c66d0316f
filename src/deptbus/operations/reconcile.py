"""Proves copies equal to their sources: which legs of which datasets, one after the other, and what
came of them as one document.

1. A unit's copies are of every dataset that it may receive now or ever might: what a right that
   ended left behind is looked for too.
2. The sources of a unit are the units that publish one of those datasets about places of its own,
   above or below it, or that a grant names to it; and the unit itself, of what it publishes.
3. What could not be told is neither equal nor different, and says why.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import DeptbusError, Exit
from deptbus.operations.leg import LegResult
from deptbus.operations.office import Office
from deptbus.operations.reconcile_copy import (
    DEADLINE_SECONDS,
    NOT_JOINED,
    CopyProved,
    prove_copy,
)
from deptbus.operations.reconcile_source import prove_source
from deptbus.routing.table import is_within
from deptbus.stream.log import end_offsets

Legs = Literal["source", "copy", "both"]
SHOWN_KEYS = 10_000  # in one document


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be proved. `unit` None: every unit; `dataset` None: every one."""

    unit: str | None
    dataset: str | None = None
    legs: Legs = "both"
    deep: bool = False
    deadline_seconds: float = DEADLINE_SECONDS


@dataclass(frozen=True, slots=True)
class Reconciled:
    """All that was found. `copies` has what a repair needs."""

    results: tuple[LegResult, ...]
    copies: tuple[CopyProved, ...]
    seconds: float

    @property
    def differences(self) -> int:
        return sum(result.differences for result in self.results)

    @property
    def held(self) -> int:
        return sum(result.held for result in self.results)

    @property
    def untold(self) -> list[LegResult]:
        return [result for result in self.results if result.could_not_tell]

    @property
    def exit_code(self) -> Exit:
        """A difference is an answer, whatever else could not be told; where there was nothing to
        prove, nothing is proved. What is held at its source is not equal either."""
        if self.differences or self.held:
            return Exit.ANSWER_IS_NO
        is_told = not self.untold and not all(result.absent for result in self.results)
        return Exit.DONE if is_told else Exit.COULD_NOT


Told = Callable[[LegResult], None]


async def reconcile(
    office: Office,
    connection: Connection,
    scope: Scope,
    told: Told = lambda result: None,
) -> Reconciled:
    """`told`: each result as it comes. Raises DeptbusError when there is nothing of that name,
    BusUnreachable, BusRefused."""
    began = time.monotonic()
    contract = office.policies.current().contract
    _check(contract, scope)
    copies = copies_of(office, scope)
    results: list[LegResult] = []
    proved: list[CopyProved] = []
    if scope.legs != "copy":
        for unit, dataset in sources_of(contract, scope, copies):
            results.append(await _source(office, connection, unit, dataset))
            told(results[-1])
    if scope.legs != "source":
        for unit, dataset in copies:
            found = await prove_copy(
                office,
                connection,
                unit,
                dataset,
                deep=scope.deep,
                deadline_seconds=scope.deadline_seconds,
            )
            proved += found
            results += [one.result for one in found]
            for one in found:
                told(one.result)
    if not results:
        raise DeptbusError(
            "there is nothing to prove: no copy and no source is in that choice",
            mend="`deptbus contract show` says who receives and publishes what",
        )
    return Reconciled(tuple(results), tuple(proved), time.monotonic() - began)


async def _source(office: Office, connection: Connection, unit: str, dataset: str) -> LegResult:
    """A source announces itself before anything else; who never did has nothing to prove."""
    if not any(await end_offsets(connection, names.out_topic(unit))):
        return LegResult("source", unit, "", dataset, absent=NOT_JOINED)
    return await prove_source(office, connection, unit, dataset)


def _check(contract: Contract, scope: Scope) -> None:
    if scope.unit is not None and scope.unit not in contract.unit_by_name:
        raise DeptbusError(
            f"the contract in force has no unit {scope.unit}", mend="See `deptbus contract show`"
        )
    if scope.dataset is not None and scope.dataset not in contract.datasets:
        raise DeptbusError(
            f"the contract in force has no dataset {scope.dataset}",
            mend="See `deptbus contract show`",
        )


def copies_of(office: Office, scope: Scope) -> list[tuple[str, str]]:
    """(unit, dataset), by name: rule 1."""
    library = office.tools.library
    contract = office.policies.current().contract
    found = {
        (unit, dataset)
        for number in library.numbers()
        for unit, of_unit in library.digests(number).items()
        for dataset in of_unit
    }
    return sorted(
        (unit, dataset)
        for unit, dataset in found
        if unit in contract.unit_by_name
        and scope.unit in (None, unit)
        and (dataset in contract.datasets if scope.dataset is None else dataset == scope.dataset)
    )


def sources_of(
    contract: Contract, scope: Scope, copies: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """(unit, dataset), by name: rule 2."""
    datasets = {dataset for _, dataset in copies}
    found = set()
    for unit in contract.unit_by_name:
        for dataset in contract.published_by(unit):
            if scope.dataset not in (None, dataset):
                continue
            is_own = scope.unit in (None, unit)
            if is_own or (dataset in datasets and _feeds(contract, unit, dataset, scope.unit)):
                found.add((unit, dataset))
    return sorted(found)


def _feeds(contract: Contract, source: str, dataset: str, unit: str | None) -> bool:
    assert unit is not None
    here, there = (contract.unit_by_name[name].territory for name in (unit, source))
    return (
        is_within(here, there)
        or is_within(there, here)
        or any(
            grant.unit == unit
            and grant.dataset == dataset
            and (is_within(grant.territory, there) or is_within(there, grant.territory))
            for grant in contract.grants
        )
    )


def document(found: Reconciled) -> dict[str, Any]:
    """As JSON. A key is the bus's own, by which nobody is known who has not its unit's secret."""
    by_class: Counter[str] = Counter()
    for result in found.results:
        by_class.update(result.by_class)
    keys = [
        {
            "unit": result.unit,
            "dataset": result.dataset,
            "leg": result.leg,
            "key": finding.key.hex(),
            "class": finding.word,
            "reason": finding.reason,
        }
        for result in found.results
        for finding in result.findings
    ]
    return {
        "differences": found.differences,
        "held": found.held,
        "could_not_tell": len(found.untold),
        "by_class": dict(sorted(by_class.items())),
        "units": [_of_result(result) for result in found.results],
        "keys": keys[:SHOWN_KEYS],
        "bytes": sum(result.bytes for result in found.results),
        "seconds": round(found.seconds, 3),
    }


def _of_result(result: LegResult) -> dict[str, Any]:
    return {
        "unit": result.unit,
        "system": result.system,
        "dataset": result.dataset,
        "leg": result.leg,
        "deep": result.deep,
        "could_not_tell": result.could_not_tell,
        "absent": result.absent,
        "rows": result.rows,
        "differences": result.differences,
        "held": result.held,
        "holds": list(result.holds),
        "by_class": dict(result.by_class),
        "cut": {topic: list(offsets) for topic, offsets in result.cut.items()},
        "seconds": round(result.seconds, 3),
        "bytes": result.bytes,
    }

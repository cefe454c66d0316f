"""Rows that recipients could not write, as their adapters tell it. Pure; `parked_desk` reads it.

They lie in the departments' own databases. The bus knows how many and why, from the last sign of
life of each recipient's adapter (`ParkedRows`), and which ones, those that wait the longest first
(`ParkedRecord`), from the list that each adapter keeps in `control.<unit>`. Adapters try them again
by themselves, at growing intervals.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from deptbus.contract.model import Contract
from deptbus.operations.stages import parked_of
from deptbus.wire.control import AppliedBeat, ParkedList


class ParkedRows(NamedTuple):
    """`told_at_us`: when its adapter said so."""

    unit: str
    owner: str
    system: str
    dataset: str
    reason: str
    rows: int
    told_at_us: int

    def is_of(self, unit: str, dataset: str, reason: str) -> bool:
        """Whether it is of all of these that are given."""
        return (
            unit in ("", self.unit)
            and dataset in ("", self.dataset)
            and reason in ("", self.reason)
        )


class ParkedRecord(NamedTuple):
    """One row, by the name of its record on the bus. `told_at_us`: when its adapter listed it."""

    unit: str
    owner: str
    system: str
    dataset: str
    source_unit: str
    key: bytes
    version: int
    reason: str
    parked_at_us: int
    attempts: int
    told_at_us: int

    def is_of(self, unit: str, dataset: str, reason: str, key: bytes | None) -> bool:
        """Whether it is of all of these that are given."""
        return (
            unit in ("", self.unit)
            and dataset in ("", self.dataset)
            and reason in ("", self.reason)
            and key in (None, self.key)
        )


def parked_rows(contract: Contract, beats: Iterable[AppliedBeat]) -> list[ParkedRows]:
    """The most rows first."""
    found = [
        ParkedRows(
            beat.unit,
            contract.unit_by_name[beat.unit].owner,
            beat.system,
            *one,
            told_at_us=beat.at_us,
        )
        for beat in beats
        for one in parked_of(beat)
    ]
    return sorted(found, key=lambda row: (-row.rows, row.unit, row.dataset, row.reason))


def parked_records(contract: Contract, lists: Iterable[ParkedList]) -> list[ParkedRecord]:
    """Those that wait the longest first. Of units that the contract has no more nothing is shown:
    nobody runs their adapters."""
    found = []
    for told in lists:
        if told.unit not in contract.unit_by_name:
            continue
        owner = contract.unit_by_name[told.unit].owner
        for dataset, source, key, version, reason, since, attempts in zip(
            told.datasets,
            told.source_units,
            told.keys,
            told.versions,
            told.reasons,
            told.parked_at_us,
            told.attempts,
            strict=False,
        ):
            found.append(
                ParkedRecord(
                    told.unit,
                    owner,
                    told.system,
                    dataset,
                    source,
                    key,
                    version,
                    reason,
                    since,
                    attempts,
                    told.at_us,
                )
            )
    return sorted(found, key=lambda row: (row.parked_at_us, row.unit, row.dataset, row.key))

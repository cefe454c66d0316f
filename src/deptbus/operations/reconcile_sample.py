"""Some records side by side for an auditor: what the bus has, what it gives one unit and by which
rule and grant, and what the unit's copy says it has.

1. The sample is drawn from all records that the unit is given, by a seed that the auditor chooses:
   the same seed draws the same keys from the same records, and nobody else chooses them.
2. Values are shown by their sharing class, as everywhere at the office (`masking`): the copy and
   the source are read by their departments, which compare their own rows with what is shown. What
   the office itself compares are digests, over every value.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from deptbus.change import Cause, Change, Delivery
from deptbus.errors import DeptbusError
from deptbus.operations.carrier import Owed
from deptbus.operations.copy_expected import Entitled
from deptbus.operations.leg import LegResult
from deptbus.operations.masking import masked_fields
from deptbus.operations.office import Office
from deptbus.operations.reconcile_classes import GIVEN

_STRETCH = 500


@dataclass(frozen=True, slots=True)
class Sampled:
    """One record. `found`: leg -> what the proof said of it: `equal`, a class, or that it could not
    tell."""

    unit: str
    dataset: str
    key: bytes
    source_unit: str
    version: int
    record: Mapping[str, str]  # as the canonical topic has it, masked
    fields: Sequence[str]  # that the unit is given
    direction: str
    rule: str
    grants: Sequence[str]
    found: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "dataset": self.dataset,
            "key": self.key.hex(),
            "source_unit": self.source_unit,
            "version": self.version,
            "record": dict(self.record),
            "fields": list(self.fields),
            "direction": self.direction,
            "rule": self.rule,
            "grants": list(self.grants),
            "source_row": self.found["source"],
            "copy": self.found["copy"],
        }


async def sample(
    office: Office,
    unit: str,
    dataset: str,
    results: Sequence[LegResult],
    *,
    count: int,
    seed: int,
) -> list[Sampled]:
    """By key. `results`: what was just proved of this unit and dataset, and of its sources. Raises
    DeptbusError where the unit is given nothing, BusUnreachable, BusRefused."""
    library = office.tools.library
    policy = office.policies.current()
    owed = Owed(library, office.tools.now, unit, policy.number, "", lambda _: Cause.REPAIR)
    given = await _given(office, Entitled(library, owed), dataset)
    if not given:
        raise DeptbusError(f"{unit} is given no record of {dataset}: there is nothing to draw")
    chosen = random.Random(seed).sample(sorted(given), min(count, len(given)))
    found = []
    for change in await _changes(office, dataset, {key: given[key] for key in chosen}):
        delivery = owed.delivery(change)
        assert delivery is not None
        found.append(_sampled(office, unit, change, delivery, results))
    return sorted(found, key=lambda one: one.key)


async def _given(office: Office, entitled: Entitled, dataset: str) -> dict[bytes, int]:
    """Key -> version, of all that the unit is given."""
    versions: dict[bytes, int] = {}
    given: dict[bytes, int] = {}
    logs = office.tools.logs
    for partition, span in enumerate(await logs.spans(dataset)):
        async with aclosing(logs.read(dataset, partition, span)) as batches:
            async for records in batches:
                for number, record in enumerate(records, 1):
                    change = await logs.decode(record)
                    if change is not None and change.version >= versions.get(change.key, 0):
                        versions[change.key] = change.version
                        given.pop(change.key, None)
                        if entitled.of(change).kind == GIVEN:
                            given[change.key] = change.version
                    if number % _STRETCH == 0:
                        await asyncio.sleep(0)
        versions.clear()  # a key lies in one partition
    return given


async def _changes(office: Office, dataset: str, wanted: Mapping[bytes, int]) -> list[Change]:
    found: dict[bytes, Change] = {}
    logs = office.tools.logs
    for partition, span in enumerate(await logs.spans(dataset)):
        async with aclosing(logs.read(dataset, partition, span)) as batches:
            async for records in batches:
                for record in records:
                    if record.key in wanted:
                        change = await logs.decode(record)
                        if change is not None and change.version == wanted[change.key]:
                            found[change.key] = change
    return list(found.values())


def _sampled(
    office: Office, unit: str, change: Change, delivery: Delivery, results: Sequence[LegResult]
) -> Sampled:
    codec = office.tools.library.codecs.record_codec(change.dataset, change.schema_version)
    assert change.record is not None
    dataset = office.policies.current().contract.datasets.get(change.dataset)
    return Sampled(
        unit,
        change.dataset,
        change.key,
        change.source_unit,
        change.version,
        masked_fields(dataset, codec.decode(change.record)),
        delivery.fields,
        delivery.direction.value,
        delivery.rule,
        delivery.grants,
        {
            "source": _said(results, "source", change.source_unit, change),
            "copy": _said(results, "copy", unit, change),
        },
    )


def _said(results: Sequence[LegResult], leg: str, unit: str, change: Change) -> str:
    """What the proof said of this record; `not proved` where nobody asked."""
    words = []
    for result in results:
        if (result.leg, result.unit, result.dataset) != (leg, unit, change.dataset):
            continue
        if result.could_not_tell or result.absent:
            words.append(result.could_not_tell or result.absent)
        else:
            named = [f.word for f in result.findings if f.key == change.key]
            is_whole = len(result.findings) == result.differences + result.held
            words.append(named[0] if named else "equal" if is_whole else "not named")
    return ", ".join(words) or "not proved"

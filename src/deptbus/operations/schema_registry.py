"""Answers of a read-only schema registry, as Confluent's gives them: pure, from what the bus has.

Rules, by which tools that know a registry find the schemas of our topics:

1. An id is ours: 31 bits of the SHA-256 of the schema's canonical JSON, the four bytes that stand
   in every record. It is answered for every schema that lies on the bus, also of contracts that
   were, and for our control records.
2. A subject is `<topic>-value` (keys are 16 bytes and no Avro): of `data.<dataset>` and
   `out.<unit>` the changes, of `in.<unit>` the deliveries of just the projections that come to that
   unit and the control records beside them, of `control.<unit>` and `bus.*` control records.
3. Versions within a subject are those of the dataset's schema where each has one of its own, and
   else the ids: a number that is the same tomorrow, which a place in a list would not be.
4. `latest` is the highest version of a dataset's schema, of several with that one the highest id.
5. Nothing can be written. What is not known yet, because the bus was never reached, is no 404.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deptbus import names
from deptbus.operations.picture import UnitSheet
from deptbus.wire.control import control_schemas

SUBJECT_NOT_FOUND, VERSION_NOT_FOUND, SCHEMA_NOT_FOUND = 40401, 40402, 40403
NO_LEVEL_OF_ITS_OWN, NO_MODE_OF_ITS_OWN = 40408, 40409
INVALID_VERSION = 42202
COMPATIBILITY = "BACKWARD"  # `contract check` holds it: a new version reads what was written
MODE = "READONLY"

# Control records by the topic that they lie in; the value is the kind that their schema names.
_OF_EVERY_UNIT = {
    names.out_topic: ("announcement", "marker"),
    names.in_topic: ("policy_marker", "resend_request", "inventory", "inventory_end"),
    names.control_topic: (
        "incarnated",
        "heartbeat",
        "applied_beat",
        "outbox_seen",
        "inventory_request",
    ),
}
_OF_THE_BUS = {
    names.CONTRACT: ("policy",),
    names.QUARANTINE: ("quarantine_note", "resolution"),
    names.AUDIT: ("act",),
    names.AGENTS: ("agent_report",),
    names.JOBS: ("job_progress", "topic_noted"),
    names.ALARMS: ("alarm_told", "alarm_seen"),
    names.PROOFS: ("proof_outcome",),
}


class Unanswerable(Exception):
    """An error as a registry tells it: its HTTP status and its own code."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class Stored:
    """A schema with what its attribute `deptbus` says of it."""

    id: int
    text: str
    kind: str
    dataset: str = ""
    version: int = 0
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    number: int
    schema: Stored


def stored(number: int, text: str) -> Stored | None:
    """None for a schema that does not say what it holds."""
    said = json.loads(text).get("deptbus")
    if not isinstance(said, Mapping) or not isinstance(said.get("kind"), str):
        return None
    version, fields = said.get("schema_version", 0), said.get("fields", [])
    if not isinstance(version, int) or not isinstance(fields, list):
        return None
    dataset = str(said.get("dataset", ""))
    return Stored(number, text, said["kind"], dataset, version, tuple(map(str, fields)))


class Registry:
    """What there is at one moment. `sheets`: what each unit publishes and receives; `datasets`: of
    the contract."""

    def __init__(
        self,
        schemas: Iterable[Stored],
        sheets: Iterable[UnitSheet] = (),
        datasets: Iterable[str] = (),
    ) -> None:
        ours = (stored(number, text) for number, text in control_schemas().items())
        self._by_id = {s.id: s for s in (*(s for s in ours if s is not None), *schemas)}
        self._sheets, self._datasets = tuple(sheets), tuple(datasets)

    # --- by id --------------------------------------------------------------------------------

    def schema(self, number: str) -> Stored:
        found = self._by_id.get(int(number)) if number.isascii() and number.isdecimal() else None
        if found is None:
            raise Unanswerable(404, SCHEMA_NOT_FOUND, f"Schema {number} not found")
        return found

    def places_of(self, number: str) -> list[dict[str, Any]]:
        wanted = self.schema(number)
        return [
            {"subject": subject, "version": version.number}
            for subject, versions in self.by_subject.items()
            for version in versions
            if version.schema is wanted
        ]

    # --- by subject ---------------------------------------------------------------------------

    @cached_property
    def by_subject(self) -> dict[str, tuple[Version, ...]]:
        """Subject -> its versions, ascending; subjects without a schema are none."""
        found = {f"{topic}-value": schemas for topic, schemas in self._topics()}
        return {s: _versions(schemas) for s, schemas in sorted(found.items()) if schemas}

    def versions(self, subject: str) -> tuple[Version, ...]:
        if subject not in self.by_subject:
            raise Unanswerable(404, SUBJECT_NOT_FOUND, f"Subject '{subject}' not found.")
        return self.by_subject[subject]

    def version(self, subject: str, wanted: str) -> Version:
        """`wanted`: a number, `latest`, or -1, which means the same."""
        versions = self.versions(subject)
        if wanted in ("latest", "-1"):
            return versions[-1]
        if not (wanted.isascii() and wanted.isdecimal() and 0 < int(wanted) < 2**31):
            raise Unanswerable(
                422,
                INVALID_VERSION,
                f"The specified version '{wanted}' is not a valid version id. Allowed values are "
                'between [1, 2^31-1] and the string "latest"',
            )
        for version in versions:
            if version.number == int(wanted):
                return version
        raise Unanswerable(404, VERSION_NOT_FOUND, f"Version {wanted} not found.")

    def _topics(self) -> Iterable[tuple[str, list[Stored]]]:
        every = list(self._by_id.values())
        for dataset in self._datasets:
            of_it = [s for s in every if s.kind == "change" and s.dataset == dataset]
            yield names.data_topic(dataset), of_it
        for sheet in self._sheets:
            control = {
                topic(sheet.unit): [s for s in every if s.kind in kinds]
                for topic, kinds in _OF_EVERY_UNIT.items()
            }
            published = {one.dataset for one in sheet.publishes}
            control[names.out_topic(sheet.unit)] += [
                s for s in every if s.kind == "change" and s.dataset in published
            ]
            control[names.in_topic(sheet.unit)] += _deliveries(every, sheet)
            yield from control.items()
        for topic, kinds in _OF_THE_BUS.items():
            yield topic, [s for s in every if s.kind in kinds]


def _deliveries(schemas: Iterable[Stored], sheet: UnitSheet) -> list[Stored]:
    """Those that may lie in the unit's inbox today: what it may have, and deletes, which have no
    field."""
    mine = {(one.dataset, frozenset(one.fields)) for one in sheet.receives}
    mine |= {(one.dataset, frozenset[str]()) for one in sheet.receives}
    return [s for s in schemas if s.kind == "delivery" and (s.dataset, frozenset(s.fields)) in mine]


def _versions(schemas: list[Stored]) -> tuple[Version, ...]:
    """Rule 3 and 4. Control records, which have no version, come before what flows."""
    inner = sorted(schemas, key=lambda s: (s.version, s.id))
    numbers = [s.version for s in inner]
    is_by_version = 0 not in numbers and len(set(numbers)) == len(numbers)
    return tuple(Version(s.version if is_by_version else s.id, s) for s in inner)

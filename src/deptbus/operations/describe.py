"""What lies at one place of the bus, for an operator: read under guard, masked by sharing class.

Bytes that cannot be read are told by their size, never quoted, and by no digest: what is masked of
a record whose rest is known could be guessed against one.
"""

from __future__ import annotations

from typing import Any

from deptbus.change import Change
from deptbus.contract.model import Dataset, Policy
from deptbus.errors import WireRefused
from deptbus.operations.masking import masked, masked_fields
from deptbus.stream.data import decode_data
from deptbus.stream.log import LogRecord
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Announcement, Marker
from deptbus.wire.guard import KEY_BYTES, RefusedBatch


def describe(codecs: Codecs, policy: Policy, entry: LogRecord) -> dict[str, Any]:
    """A document for machines and people; nothing in it that the operator may not see."""
    value = entry.value
    found: dict[str, Any] = {
        "written_at_ms": entry.timestamp_ms,
        "bytes": None if value is None or isinstance(value, RefusedBatch) else len(value),
        # A key of any other length is not ours, and may be a number that nobody may see.
        "key": entry.key.hex() if entry.key is not None and len(entry.key) == KEY_BYTES else None,
        "unreadable": None,
        "kind": None,
    }
    try:
        record = _decoded(codecs, entry)
    except WireRefused as error:
        return found | {"unreadable": error.reason}
    if isinstance(record, Change):
        return found | {"kind": "change", "change": _change(codecs, policy, record)}
    return found | {"kind": type(record).__name__.lower()}


def _decoded(codecs: Codecs, entry: LogRecord) -> Change | Announcement | Marker:
    if entry.topic.startswith("data."):
        return decode_data(codecs, entry.key, entry.value)
    return codecs.decode_out(entry.key, entry.value)


def _change(codecs: Codecs, policy: Policy, change: Change) -> dict[str, Any]:
    dataset = policy.contract.datasets.get(change.dataset)
    return {
        "dataset": change.dataset,
        "schema_version": change.schema_version,
        "op": change.op.value,
        "reason": change.reason.value if change.reason is not None else None,
        # Texts of hostile bytes: a unit is named only when the contract knows it too.
        "source_unit": change.source_unit
        if change.source_unit in policy.contract.unit_by_name
        else None,
        "incarnation": change.incarnation.number,
        "version": change.version,
        "source_time_us": change.source_time_us,
        "publication": change.publication,
        "division": _place(dataset, change.division),
        "former_divisions": [_place(dataset, place) for place in change.former_divisions],
        "cause": change.cause.value,
        "policy": change.policy,
        "fields": _fields(codecs, dataset, change),
    }


def _place(dataset: Dataset | None, place: str) -> str:
    """Where a record lies is as open as the field that says so."""
    return masked(dataset, dataset.division if dataset is not None else "", place)


def _fields(codecs: Codecs, dataset: Dataset | None, change: Change) -> dict[str, str] | None:
    """None in a delete, and where the record's own bytes cannot be read."""
    if change.record is None:
        return None
    try:
        codec = codecs.record_codec(change.dataset, change.schema_version)
        return masked_fields(dataset, codec.decode(change.record))
    except WireRefused:
        return None

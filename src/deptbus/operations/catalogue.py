"""The catalogue: every dataset with its fields and their classes, sources, recipients, promises.

Pure. A field that is not shared is listed by its name and class, as the contract does, so that
everybody can see that it was thought of; it has no type, because no published schema has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from deptbus.contract.model import Contract, Policy, Sharing
from deptbus.operations.picture import DatasetSheet, FieldSheet, Recipient
from deptbus.operations.rights import Flow, flows_of

_LOGICAL = {"date": "date", "timestamp-micros": "time", "timestamp-millis": "time", "uuid": "uuid"}


def dataset_sheets(policy: Policy, now: datetime) -> tuple[DatasetSheet, ...]:
    """Of every dataset, in the order of the contract."""
    return tuple(dataset_sheet(policy, name, now) for name in policy.contract.datasets)


def dataset_sheet(policy: Policy, name: str, now: datetime) -> DatasetSheet:
    """Raises KeyError when the contract does not know the dataset."""
    contract = policy.contract
    dataset = contract.datasets[name]
    return DatasetSheet(
        name,
        dataset.title,
        dataset.title_zh,
        dataset.line,
        tuple(level.value for level in dataset.levels),
        dataset.division,
        tuple(_fields(contract, name)),
        tuple(u.unit for u in contract.units if contract.may_publish(u.unit, name)),
        tuple(_recipients(contract, name, flows_of(policy, name, now))),
        contract.schema_versions(name),
        dataset.schema_version,
        dataset.freshness_hours,
        dataset.retention_hours,
    )


def _fields(contract: Contract, name: str) -> Iterable[FieldSheet]:
    dataset = contract.datasets[name]
    published = {field["name"]: field for field in contract.record_schema(name)["fields"]}
    for field in dict.fromkeys((*published, *dataset.sharing)):
        schema = published.get(field, {})
        yield FieldSheet(
            field,
            type_in_words(schema["type"]) if schema else "",
            dataset.sharing.get(field, Sharing.NOT_SHARED).value,
            field in dataset.key,
            schema.get("doc", ""),
        )


def _recipients(
    contract: Contract, name: str, flows: Mapping[str, tuple[Flow, ...]]
) -> Iterable[Recipient]:
    """A line for each unit and direction, the fields in the order of the schema."""
    order = {field: number for number, field in enumerate(contract.field_names(name))}
    for unit, mine in flows.items():
        fields: dict[str, set[str]] = defaultdict(set)
        grants: dict[str, dict[str, None]] = defaultdict(dict)
        for flow in mine:
            fields[flow.direction].update(flow.fields)
            if flow.grant is not None:
                grants[flow.direction][flow.grant] = None
        for direction, names in fields.items():
            ordered = tuple(sorted(names, key=lambda f: order.get(f, len(order))))
            yield Recipient(unit, str(direction), ordered, tuple(grants[direction]))


def type_in_words(schema: Any) -> str:
    """An Avro type as a person reads it: `date or null`, `decimal(18, 2)`, `one of a, b`."""
    if isinstance(schema, list):
        others = [type_in_words(branch) for branch in schema if branch != "null"]
        return " or ".join([*others, *(["null"] if "null" in schema else [])])
    if isinstance(schema, str):
        return schema
    logical = schema.get("logicalType")
    if logical == "decimal":
        return f"decimal({schema['precision']}, {schema.get('scale', 0)})"
    if logical in _LOGICAL:
        return _LOGICAL[logical]
    kind = schema["type"]
    if kind == "enum":
        return f"one of {', '.join(schema['symbols'])}"
    if kind == "array":
        return f"list of {type_in_words(schema['items'])}"
    if kind == "map":
        return f"{type_in_words(schema['values'])} by name"
    if kind == "fixed":
        return f"{schema['size']} bytes"
    return kind if isinstance(kind, str) else type_in_words(kind)

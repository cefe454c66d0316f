"""The Avro schemas of changes and deliveries, generated from each dataset's record schema.

The envelope stands first and the record last, so that an encoded change is envelope bytes followed
by record bytes and nothing has to be moved (design, section 4). Every schema says in its attribute
`deptbus` what it holds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from deptbus.change import Cause, ChangeOp, DeliveryOp, Direction, Reason
from deptbus.contract.record_schema import record_name
from deptbus.errors import WireRefused
from deptbus.wire.guard import BAD_SCHEMA, TOKEN_BYTES

ATTRIBUTE = "deptbus"
_NAMESPACE = "deptbus"
# Envelope types have a namespace to themselves: a dataset may be called `reason` or `cause`.
_ENVELOPE = "deptbus.envelope"

CHANGE_CAUSES = (Cause.LIVE, Cause.SNAPSHOT, Cause.RESEND)
DELIVERY_CAUSES = tuple(Cause)

_TIME = {"type": "long", "logicalType": "timestamp-micros"}


def change_schema(dataset: str, version: int, record_schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of `<Dataset>Change`, as it lies in `out.<unit>` and `data.<dataset>`."""
    names = [f["name"] for f in record_schema["fields"]]
    return {
        "type": "record",
        "name": f"{record_name(dataset)}Change",
        "namespace": _NAMESPACE,
        "doc": "This key now has this state, at this version.",
        ATTRIBUTE: _attribute("change", dataset, version, names),
        "fields": [
            _field("op", _enum("ChangeOp", ChangeOp), "What happened at the source."),
            _field("reason", ["null", _enum("Reason", Reason)], "Why it was deleted."),
            _field("source_unit", "string", "The unit that published it: line@territory."),
            _field("incarnation", "long", "Which start of the source's adapter sent it."),
            _field(
                "token",
                {"type": "fixed", "name": "Token", "namespace": _ENVELOPE, "size": TOKEN_BYTES},
                "Random; breaks a tie of incarnations of copied databases.",
            ),
            _field("version", "long", "Grows per (source unit, dataset, key)."),
            _field("source_time", _TIME, "By the source database's clock; decides nothing."),
            _field("publication", "long", "Number of the batch that the source published."),
            _field("division", "string", "Where the record lies; of a delete, where it lay last."),
            _field(
                "former_divisions",
                {"type": "array", "items": "string"},
                "All other places that the source ever named for this key.",
            ),
            _field("cause", _enum("Cause", CHANGE_CAUSES), "Why it was sent."),
            _field("job", ["null", "string"], "The job that asked for it."),
            _field("policy", "long", "The contract that the source's adapter worked under."),
            _field("record", ["null", record_schema], "The state; null in a delete."),
        ],
    }


def delivery_schema(
    dataset: str, version: int, record_schema: Mapping[str, Any], fields: Sequence[str]
) -> dict[str, Any]:
    """The schema of `<Dataset>Delivery` for one projection, as it lies in `in.<unit>`.

    `fields` are brought into the order of the record schema; none for deletes and withdrawals,
    whose record is always null.
    """
    record = project(record_schema, fields)
    names = [f["name"] for f in record["fields"]]
    return {
        "type": "record",
        "name": f"{record_name(dataset)}Delivery",
        "namespace": _NAMESPACE,
        "doc": "One change on its way to one recipient: what it may have of it, and by what right.",
        ATTRIBUTE: _attribute("delivery", dataset, version, names),
        "fields": [
            _field("op", _enum("DeliveryOp", DeliveryOp), "What the recipient does."),
            _field("source_unit", "string", "The unit that published it: line@territory."),
            _field("version", "long", "Of the change; newer means a greater (version, policy)."),
            _field("source_time", _TIME, "By the source database's clock; decides nothing."),
            _field("policy", "long", "The contract under which it was routed."),
            _field("direction", _enum("Direction", Direction), "Computed from the division tree."),
            _field("rule", "string", "The rule of the contract that it flows by."),
            _field(
                "grants",
                {"type": "array", "items": "string"},
                "Grants without which some of the fields would not flow.",
            ),
            _field("cause", _enum("Cause", DELIVERY_CAUSES), "Why it was sent."),
            _field("job", ["null", "string"], "The job that sent it."),
            _field("record", ["null", record], "The projection; null unless upsert."),
        ],
    }


def project(record_schema: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """A record schema with only these fields, in its own order.

    Each field's type stands by itself: the contract's lint lets none refer to a type that another
    field defines. Raises KeyError for a field that the schema does not have.
    """
    known = {f["name"] for f in record_schema["fields"]}
    for name in fields:
        if name not in known:
            raise KeyError(name)
    wanted = set(fields)
    kept = [f for f in record_schema["fields"] if f["name"] in wanted]
    return copy.deepcopy({**record_schema, "fields": kept})


def attribute_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attribute `deptbus` of a schema; empty when it has none."""
    attribute = schema.get(ATTRIBUTE)
    return attribute if isinstance(attribute, Mapping) else {}


def embedded_record(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record schema within a change or delivery schema, which is valid Avro.

    Raises WireRefused (`bad_schema`) when there is none.
    """
    fields = schema.get("fields")
    last = fields[-1] if isinstance(fields, list) and fields else None
    union = last.get("type") if isinstance(last, Mapping) and last.get("name") == "record" else None
    record = union[1] if isinstance(union, list) and len(union) == 2 else None
    if not isinstance(record, Mapping) or record.get("type") != "record":
        raise WireRefused(BAD_SCHEMA, "a schema does not hold a record where its kind has one")
    return record


def _attribute(kind: str, dataset: str, version: int, fields: Sequence[str]) -> dict[str, Any]:
    return {"kind": kind, "dataset": dataset, "schema_version": version, "fields": list(fields)}


def _field(name: str, kind: Any, doc: str) -> dict[str, Any]:
    return {"name": name, "type": copy.deepcopy(kind), "doc": doc}


def _enum(name: str, symbols: Any) -> dict[str, Any]:
    return {
        "type": "enum",
        "name": name,
        "namespace": _ENVELOPE,
        "symbols": [s.value for s in symbols],
    }

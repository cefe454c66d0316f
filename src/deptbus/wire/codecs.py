"""Codecs: every schema that a bus under a contract uses, and what reads and writes by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from deptbus.change import Cause, Change, Delivery, Incarnation, Received
from deptbus.contract.model import Contract
from deptbus.errors import WireRefused
from deptbus.wire.codec import RecordCodec
from deptbus.wire.control import (
    Announcement,
    Control,
    Marker,
    ParkedRetry,
    PolicyMarker,
    ProofRequest,
    RebuildOrder,
    RepairOrder,
    ResendOrder,
    ResendRequest,
    check_key,
    control_schemas,
    decode_control,
    is_control,
)
from deptbus.wire.envelope import Memory, change_decoder, delivery_decoder
from deptbus.wire.fold_pass import FoldPass, fold_pass
from deptbus.wire.framing import HEADER_BYTES, canonical_json, header, id_of_text, unframe
from deptbus.wire.guard import (
    BAD_SCHEMA,
    MAX_CHANGE_BYTES,
    MAX_RECORD_BYTES,
    SCHEMA_COLLISION,
    SCHEMA_MISMATCH,
    TOO_LARGE,
    UNKNOWN_SCHEMA,
    WRONG_KIND,
)
from deptbus.wire.outgoing import DeliveryWriter, UpsertWriter, change_bytes
from deptbus.wire.passage import Passage, passage
from deptbus.wire.schema_text import lint_embedded, parse_schema_text
from deptbus.wire.schemas import attribute_of, change_schema, delivery_schema, embedded_record
from deptbus.wire.types import resolve


class _Known(NamedTuple):
    dataset: str
    schema_version: int
    record_schema: Mapping[str, Any]


# What may lie in an inbox beside deliveries.
InboxControl = (
    PolicyMarker
    | ResendRequest
    | ResendOrder
    | ParkedRetry
    | ProofRequest
    | RepairOrder
    | RebuildOrder
)

_ProjectionName = tuple[str, int, tuple[str, ...]]  # dataset, schema version, fields


class Codecs:
    """Reads and writes changes, deliveries and control records; grows with the schemas that come.

    Not for several threads at once. Control schemas are known from the start, change schemas from
    the contract (`add_contract` for each newer one), delivery schemas as they are made here
    (`delivery_schema_for`) or read from `bus.schemas` (`add_schema`).
    """

    def __init__(self, contract: Contract | None = None) -> None:
        """Raises WireRefused (`bad_schema`, `schema_collision`)."""
        self._texts: dict[int, str] = {}
        self._new: dict[int, str] = {}
        self._records: dict[tuple[str, int], dict[str, Any]] = {}
        self._codecs: dict[tuple[str, int, tuple[str, ...] | None], RecordCodec] = {}
        self._change_heads: dict[tuple[str, int], tuple[bytes, int]] = {}
        self._projections: dict[_ProjectionName, tuple[bytes, tuple[int, ...]]] = {}
        self._memory = Memory()
        # By the five bytes of their frame: one lookup finds the decoder of a well-framed record.
        # Written at first use: a recipient sees few of all the projections of a bus.
        self._changes: dict[bytes, Callable[[bytes | None, bytes], Change]] = {}
        self._deliveries: dict[bytes, Callable[[bytes | None, bytes], Received]] = {}
        self._passages: dict[tuple[bytes, str | None], Passage] = {}
        self._fold_passes: dict[bytes, FoldPass] = {}
        self._known_changes: dict[bytes, _Known] = {}
        self._known_deliveries: dict[bytes, _Known] = {}
        self._writer = DeliveryWriter(self._projection)
        for number, text in control_schemas().items():
            self._intern(number, text)
        if contract is not None:
            self.add_contract(contract)

    def add_contract(self, contract: Contract) -> None:
        """Learn the change schemas of all released versions of all datasets.

        Raises WireRefused: `schema_mismatch` when a released version differs from what was released
        under its number before.
        """
        for dataset in contract.datasets:
            for version in contract.schema_versions(dataset):
                self._add_record_schema(dataset, version, contract.record_schema(dataset, version))

    def _add_record_schema(self, dataset: str, version: int, schema: dict[str, Any]) -> None:
        known = self._records.get((dataset, version))
        if known is not None:
            if known != schema:
                raise WireRefused(SCHEMA_MISMATCH, "a released schema version was edited")
            return
        whole = change_schema(dataset, version, schema)
        resolve(whole)
        record = resolve(schema)
        head = self._intern_schema(whole)
        self._records[dataset, version] = schema
        self._change_heads[dataset, version] = head, len(record.fields)
        self._known_changes[head] = _Known(dataset, version, schema)

    def _intern_schema(self, schema: dict[str, Any]) -> bytes:
        """Take in a schema made here; returns its frame."""
        text = canonical_json(schema)
        number = id_of_text(text.encode())
        self._intern(number, text)
        return header(number)

    def _intern(self, number: int, text: str) -> None:
        known = self._texts.get(number)
        if known is None:
            self._texts[number] = self._new[number] = text
        elif known != text:
            raise WireRefused(SCHEMA_COLLISION, "two schemas have one id")

    def schemas(self, projections: Iterable[_ProjectionName] = ()) -> dict[int, str]:
        """id -> canonical JSON of all schemas known, those of the projections given among them."""
        for dataset, version, fields in projections:
            self.delivery_schema_for(dataset, version, fields)
        return dict(self._texts)

    def take_new_schemas(self) -> dict[int, str]:
        """Schemas made here since the last call: they must lie in `bus.schemas` before the first
        record that uses them is sent."""
        new, self._new = self._new, {}
        return new

    def delivery_schema_for(
        self, dataset: str, version: int, fields: Sequence[str]
    ) -> tuple[int, str]:
        """(id, canonical JSON) of a projection's delivery schema. KeyError for an unknown field."""
        head, _ = self._projection(dataset, version, tuple(fields))
        number = int.from_bytes(head[1:], "big")
        return number, self._texts[number]

    def _projection(
        self, dataset: str, version: int, fields: tuple[str, ...]
    ) -> tuple[bytes, tuple[int, ...]]:
        known = self._projections.get((dataset, version, fields))
        if known is None:
            record = self._record_schema(dataset, version)
            wanted = set(fields)
            schema = delivery_schema(dataset, version, record, fields)
            head = self._intern_schema(schema)
            self._known_deliveries[head] = _Known(dataset, version, embedded_record(schema))
            names = [f["name"] for f in record["fields"]]
            places = tuple(i for i, name in enumerate(names) if name in wanted)
            known = self._projections[dataset, version, fields] = head, places
        return known

    def _record_schema(self, dataset: str, version: int) -> dict[str, Any]:
        known = self._records.get((dataset, version))
        if known is None:
            raise WireRefused(UNKNOWN_SCHEMA, "the contract has no such dataset or schema version")
        return known

    def record_codec(
        self, dataset: str, version: int, fields: Sequence[str] | None = None
    ) -> RecordCodec:
        """The codec of a dataset's record, or of a projection of it."""
        key = dataset, version, None if fields is None else tuple(fields)
        codec = self._codecs.get(key)
        if codec is None:
            codec = self._codecs[key] = RecordCodec(self._record_schema(dataset, version), fields)
        return codec

    def add_schema(self, number: int, text: bytes) -> None:
        """Take in a schema read from `bus.schemas`. What it holds is believed only as far as it
        proves itself: the id is the hash of the text, and the text is the very one that this
        package would have made for the dataset, version and projection that it names.

        Raises WireRefused: `too_large`, `schema_mismatch`, `bad_schema`, `schema_collision`.
        """
        schema = parse_schema_text(number, text)
        known = self._texts.get(number)
        if known is not None:
            self._new.pop(number, None)
            if known.encode() != text:
                raise WireRefused(SCHEMA_COLLISION, "two schemas have one id")
            return
        attribute = attribute_of(schema)
        dataset, version = attribute.get("dataset"), attribute.get("schema_version")
        if not isinstance(dataset, str) or type(version) is not int or version < 1:
            raise WireRefused(BAD_SCHEMA, "a schema does not say what it holds")
        record = embedded_record(schema)
        lint_embedded(schema)
        released = self._records.get((dataset, version), record)
        fields = [f["name"] for f in record["fields"]]
        if not {f["name"] for f in released["fields"]}.issuperset(fields):
            raise WireRefused(SCHEMA_MISMATCH, "a schema is not the one of its dataset")
        kind = attribute.get("kind")
        if kind == "delivery":
            expected = delivery_schema(dataset, version, released, fields)
        elif kind == "change":
            expected = change_schema(dataset, version, released)
        else:
            raise WireRefused(BAD_SCHEMA, "a schema is of no kind that this bus has")
        if expected != schema:
            raise WireRefused(SCHEMA_MISMATCH, "a schema is not the one of its dataset")
        self._texts[number] = text.decode()
        if kind == "delivery":
            self._known_deliveries[header(number)] = _Known(dataset, version, record)

    def missing_schema(self, value: bytes | None) -> int | None:
        """The id of the schema that a value names when it is not known here: what to look up in
        `bus.schemas` after a refusal with `unknown_schema`. Raises as `unframe`."""
        number, _ = unframe(value)
        return None if number in self._texts else number

    def encode_change(self, c: Change) -> bytes:
        """A framed change. Raises WireRefused: `unknown_schema`, `bad_value`, `too_large`."""
        head, count = self._change_head(c.dataset, c.schema_version)
        return change_bytes(head, count, c)

    def _change_head(self, dataset: str, schema_version: int) -> tuple[bytes, int]:
        known = self._change_heads.get((dataset, schema_version))
        if known is None:
            raise WireRefused(UNKNOWN_SCHEMA, "the contract has no such dataset or schema version")
        return known

    def upsert_writer(
        self,
        dataset: str,
        schema_version: int,
        *,
        source_unit: str,
        incarnation: Incarnation,
        publication: int,
        cause: Cause,
        job: str | None,
        policy: int,
    ) -> UpsertWriter:
        """`encode_change` for upserts of keys that never left their place; raises as it does."""
        head, _ = self._change_head(dataset, schema_version)
        return UpsertWriter(head, source_unit, incarnation, publication, cause, job, policy)

    def decode_change(self, key: bytes | None, value: bytes | None) -> Change:
        """The change in a record of `out` or `data`. Raises WireRefused: `no_value`, `too_large`,
        `not_framed`, `unknown_schema`, `wrong_kind`, `bad_key`, `malformed`, `inconsistent`."""
        if value is not None and len(value) <= MAX_CHANGE_BYTES:
            decode = self._changes.get(value[:HEADER_BYTES]) or self._change_decoder(value)
            if decode is not None:
                return decode(key, value)
        raise self._refusal(value)

    def _change_decoder(self, value: bytes) -> Callable[[bytes | None, bytes], Change] | None:
        """Write the decoder of a change schema that was not met yet; None where it is none."""
        head = value[:HEADER_BYTES]
        known = self._known_changes.get(head)
        if known is None:
            return None
        dataset, version, schema = known
        decode = change_decoder(dataset, version, resolve(schema), self._memory)
        self._changes[head] = decode
        return decode

    def _delivery_decoder(self, value: bytes) -> Callable[[bytes | None, bytes], Received] | None:
        """As `_change_decoder`, of deliveries."""
        head = value[:HEADER_BYTES]
        known = self._known_deliveries.get(head)
        if known is None:
            return None
        dataset, version, schema = known
        decode = delivery_decoder(dataset, version, resolve(schema), self._memory)
        self._deliveries[head] = decode
        return decode

    def passage(self, head: bytes, dataset: str | None = None) -> Passage | None:
        """The quick pass over changes whose value begins with the frame `head`: to deliveries of
        `dataset`, or, without one, whole. None where the frame is not of such a change."""
        key = head, dataset
        found = self._passages.get(key)
        if found is None:
            known = self._known_changes.get(head)
            if known is None or (dataset is not None and known.dataset != dataset):
                return None
            record, whole = resolve(known.record_schema), dataset is None
            found = self._passages[key] = passage(head, record, self._memory, whole=whole)
        return found

    def fold_pass(self, head: bytes, dataset: str) -> FoldPass | None:
        """The pass of a proof over changes of `dataset` whose value begins with the frame `head`.
        None where the frame is not of such a change."""
        found = self._fold_passes.get(head)
        known = self._known_changes.get(head)
        if known is None or known.dataset != dataset:
            return None
        if found is None:
            record = resolve(known.record_schema)
            found = self._fold_passes[head] = fold_pass(head, record, self._memory)
        return found

    def around(
        self, change: Change, delivery: Delivery, policy: int
    ) -> tuple[bytes, bytes, tuple[int, ...] | None]:
        """See `outgoing.DeliveryWriter.around`."""
        return self._writer.around(change, delivery, policy)

    def encode_deliveries(
        self,
        change: Change,
        deliveries: Sequence[Delivery],
        policy: int,
        *,
        cause: Cause | None = None,
        job: str | None = None,
    ) -> list[bytes]:
        """A framed delivery for each, in the order given; see `outgoing.DeliveryWriter`."""
        return self._writer.write(change, deliveries, policy, cause, job)

    def decode_out(self, key: bytes | None, value: bytes | None) -> Change | Announcement | Marker:
        """The record in `out.<unit>`. Raises as `decode_change`."""
        if value is not None and len(value) <= MAX_CHANGE_BYTES:
            decode = self._changes.get(value[:HEADER_BYTES]) or self._change_decoder(value)
            if decode is not None:
                return decode(key, value)
        control = self._control(key, value)
        if not isinstance(control, Announcement | Marker):
            raise self._refusal(value)
        return control

    def decode_inbox(self, key: bytes | None, value: bytes | None) -> Received | InboxControl:
        """The record in `in.<unit>`. Raises as `decode_change`."""
        if value is not None and len(value) <= MAX_RECORD_BYTES:
            decode = self._deliveries.get(value[:HEADER_BYTES]) or self._delivery_decoder(value)
            if decode is not None:
                return decode(key, value)
        control = self._control(key, value)
        if not isinstance(control, InboxControl):
            raise self._refusal(value)
        return control

    def _control(self, key: bytes | None, value: bytes | None) -> Control:
        number, _ = unframe(value)
        if not is_control(number):
            raise self._refusal(value)
        control = decode_control(value)
        check_key(key, control)
        return control

    def _refusal(self, value: bytes | None) -> WireRefused:
        """Why no decoder was found; raises where the frame itself is wrong."""
        number, _ = unframe(value)
        head = header(number)
        if value is not None and head in self._known_changes and len(value) > MAX_CHANGE_BYTES:
            return WireRefused(TOO_LARGE, "the change is larger than the cap")
        known = head in self._known_changes or head in self._known_deliveries
        if known or is_control(number):
            return WireRefused(WRONG_KIND, "a record of this kind does not belong here")
        return WireRefused(UNKNOWN_SCHEMA, "the schema of the record is not known")

"""Pure core of publishing: outbox row, mapping and what is remembered -> a change, or why not.

Nothing here does I/O or reads a clock; `Batch` carries explicit state in and out, so that a model
can run it under any schedule. Numbered rules, each with a test:

1. The key is made from the natural key's values in the bus's words, in canonical form.
2. Only mapped fields of the schema in force are read; a code without an entry, a value that does
   not fit, a failed check: the row is parked with a constant reason, and what was published stays.
3. Every change names all places that were ever named for its key. A place is remembered when the
   key leaves it, when a change that names another place is prepared (also when the row is then
   parked), and on delete; typing errors and places outside the territory are never named.
4. A valid place outside the unit's territory is a delete with reason `moved_out`.
5. Of several raw keys with one canonical form one holds the bus key, the others are parked as
   `duplicate`. When the holder goes, the least of the others takes the key, and is enqueued
   afresh: versions are drawn under the lock of one row, so only a fresh one is sure to be newer
   than all that was published from another row. For the same reason nothing of such a key is ever
   forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from deptbus.change import Cause, Change, ChangeOp, Incarnation, Reason
from deptbus.contract.department import Publish
from deptbus.contract.model import Check, Contract
from deptbus.department.capture import (
    GONE,
    HOLDS,
    PARKED,
    Known,
    OutboxRow,
    Parked,
    Prepared,
    RawKey,
    Variant,
    Wanted,
)
from deptbus.department.checks import is_credit_code, is_resident_id
from deptbus.department.own_values import Convert, Unfit, converter, text_of
from deptbus.department.places import Places, Where
from deptbus.department.quick_rows import Field, NotPlain, Place, QuickRow, quick_row
from deptbus.department.raw import is_text, raw_text
from deptbus.errors import DeptbusError, WireRefused
from deptbus.wire.codec import RecordCodec
from deptbus.wire.keys import KeyMaker, canonical
from deptbus.wire.types import Type, resolve
from deptbus.wire.varint import text_bytes

# Reasons of parking: constants, for a person and for a metric.
NO_KEY = "no_key"
NOT_TEXT = "not_text"
UNKNOWN_CODE = "unknown_code"
BAD_VALUE = "bad_value"
MISSING = "missing"
DUPLICATE = "duplicate"
CHECK_REASONS = {
    Check.DIVISION: "bad_division",
    Check.RESIDENT_ID: "bad_resident_id",
    Check.CREDIT_CODE: "bad_credit_code",
}

_NO_KNOWLEDGE = Known()


class _Refused(Exception):
    def __init__(self, reason: str, column: str | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.column = column


@dataclass(frozen=True, slots=True)
class Stamp:
    """What every change of one batch bears."""

    incarnation: Incarnation
    publication: int
    policy: int


@dataclass(frozen=True, slots=True)
class KeyOf:
    """Which bus key an outbox row is about."""

    key: bytes | None  # None: the row has none, whatever is typed in its place
    raw: str  # `raw_text`
    plain: RawKey | None  # the own key in canonical form, where this one is not in it
    column: str | None = None  # which own column is not a key


class Publication:
    """One dataset of one unit under one contract and mapping, compiled. Immutable."""

    def __init__(
        self, unit: str, dataset: str, publish: Publish, contract: Contract, secret: bytes
    ) -> None:
        known = contract.datasets[dataset]
        schema = contract.record_schema(dataset)
        types = self._types = {f.name: f.type for f in resolve(schema).fields}
        self.unit = unit
        self.dataset = dataset
        self.schema_version = known.schema_version
        self._codec = RecordCodec(schema)
        self._territory = contract.unit_by_name[unit].territory
        self._places = Places(self._territory, contract.territories)
        self._forms = known.canonical
        self._keys = KeyMaker(secret, dataset, known.canonical)
        self._publish = publish
        self._convert: dict[str, Convert] = {n: converter(t) for n, t in types.items()}
        self._key_fields = [(f, publish.columns[f]) for f in known.key]
        # Only what the schema has: a mapping may still name a field that it lost.
        self._fields = [(f, c) for f, c in publish.columns.items() if f in types]
        self._constants = self._converted(publish.constants)
        self._division = known.division
        constant = self._constants.get(known.division)
        within = self._places.where(constant) is Where.WITHIN
        self._constant_place: str | None = str(constant) if within else None
        self._checks = [
            (f, check) for f, check in known.checks.items() if f in types and f != known.division
        ]
        self._quick: dict[tuple[str, ...], QuickRow | None] = {}

    def _converted(self, constants: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {f: self._convert[f](v) for f, v in constants.items() if f in self._convert}
        except Unfit:
            raise DeptbusError(
                f"dataset {self.dataset}: a constant does not fit its field",
                mend="Check `constants:` in department.yml",
            ) from None

    def key_of(self, row: OutboxRow) -> KeyOf:
        """Rule 1. Never raises: a row without a key has `key` None."""
        if row.key is not None:
            return KeyOf(row.key, "", None)
        return self.key_of_raw(row.raw)

    def key_of_raw(self, raw: RawKey) -> KeyOf:
        named = raw_text(raw)
        natural: list[str] = []
        typed: list[str | None] = []
        for (name, column), value in zip(self._key_fields, raw, strict=True):
            try:
                found = self._value(name, column, value)
                natural.append(found if isinstance(found, str) else _plain_text(found))
                typed.append(text_of(value) if isinstance(value, str | int | float) else None)
            except (_Refused, Unfit):
                return KeyOf(None, named, None, column)
        forms = [canonical(part, self._forms) for part in natural]
        try:
            key = self._keys.key(natural)
        except WireRefused:
            return KeyOf(None, named, None, self._key_fields[0][1])
        if typed == forms:
            return KeyOf(key, named, None)
        return KeyOf(
            key,
            named,
            tuple(v if t == f else f for v, t, f in zip(raw, typed, forms, strict=True)),
        )

    def is_served_by(self, columns: Collection[str]) -> bool:
        """Whether a row of these own columns has all that the mapping names."""
        return all(column in columns for _, column in self._fields)

    def own_place(self, own: Any) -> str | None:
        """The place that an own value of the division column names, if it may be named (rule 3).
        Without such a column every row was at the constant place."""
        column = self._publish.columns.get(self._division)
        if column is None:
            return self._constant_place
        if own is None:
            return None
        try:
            place = self._value(self._division, column, own)
        except (_Refused, Unfit):
            return None
        return place if self._places.where(place) is Where.WITHIN else None

    def lies(self, row: OutboxRow) -> tuple[Where, str]:
        """Where the row of an upsert lies, and the place; all else of it may yet be refused."""
        column = self._publish.columns.get(self._division)
        if column is None:
            place = self._constants.get(self._division)
        else:
            try:
                place = self._value(self._division, column, row.values.get(column))
            except (_Refused, Unfit):
                return Where.NOWHERE, ""
        return self._places.where(place), str(place)

    def state(self, row: OutboxRow) -> tuple[Where, str, dict[str, Any]]:
        """(where it lies, the place, values by field) of an upsert; raises _Refused (rule 2)."""
        values: dict[str, Any] = dict(self._constants)
        row_values = row.values
        for name, column in self._fields:
            own = row_values.get(column)
            if not is_text(own):
                own = self._as_text(own, column)
            try:
                values[name] = self._value(name, column, own)
            except Unfit:
                raise _Refused(MISSING if own is None else BAD_VALUE, column) from None
        for name, check in self._checks:
            if not self._passes(check, values.get(name)):
                raise _Refused(CHECK_REASONS[check], self._publish.columns.get(name))
        place = values.get(self._division)
        where = self._places.where(place)
        if where is Where.NOWHERE:
            raise _Refused(CHECK_REASONS[Check.DIVISION], self._publish.columns.get(self._division))
        return where, str(place), values

    def _as_text(self, own: Any, column: str) -> str:
        """Text of stray bytes, in the encoding that the mapping names for it."""
        if self._publish.encoding is not None:
            try:
                return str(own).encode("utf-8", "surrogateescape").decode(self._publish.encoding)
            except UnicodeError:
                pass
        raise _Refused(NOT_TEXT, column)

    def why_not(self, values: Mapping[str, Any]) -> str | None:
        """Why a row of these own values could not be published, as reason and column; None if it
        could.

        For files that people drop: the row comes back to them before it is anywhere.
        """
        raw = tuple(values.get(column) for _, column in self._key_fields)
        found = self.key_of_raw(raw)
        if found.key is None:
            return f"{NO_KEY}: {found.column}"
        row = OutboxRow(
            *(0, self.dataset, "u", Cause.LIVE, None, 0, None, None, raw),
            tuple(values),
            tuple(values.values()),
        )
        try:
            where, _, record = self.state(row)
            if where is Where.WITHIN:
                self.encode(record)
        except _Refused as refused:
            return f"{refused.reason}: {refused.column}" if refused.column else refused.reason
        return None

    def published(self, row: OutboxRow) -> tuple[str, tuple[bytes, ...] | None] | None:
        """(place, record) as a row of this state is published: without a record when it has moved
        out, None when it would be parked."""
        try:
            where, place, values = self.state(row)
            return place, self.encode(values) if where is Where.WITHIN else None
        except _Refused:
            return None

    def refusal(self, row: OutboxRow) -> str:
        """The reason, a constant, why `published` gives None of this row; empty: it does not."""
        try:
            where, _, values = self.state(row)
            if where is Where.WITHIN:
                self.encode(values)
        except _Refused as refused:
            return refused.reason
        return ""

    def encode(self, values: Mapping[str, Any]) -> tuple[bytes, ...]:
        """The record's fields; raises _Refused."""
        try:
            return self._codec.encode(values)
        except WireRefused:
            pass
        raise _Refused(BAD_VALUE, self._unfit_column(values))

    def _unfit_column(self, values: Mapping[str, Any]) -> str | None:
        """The own column of the first field that the codec refuses; None: the record as a whole."""
        for i, name in enumerate(self._codec.names):
            try:
                self._codec.encode_field(i, values)
            except WireRefused:
                return self._publish.columns.get(name)
        return None

    # --- rows that need no rule -----------------------------------------------------------

    def quick(self, columns: tuple[str, ...]) -> QuickRow | None:
        """The function for plain rows with these columns; None when no row of them is plain."""
        if columns not in self._quick:
            try:
                self._quick[columns] = self._write_quick(columns)
            except (NotPlain, WireRefused):
                self._quick[columns] = None
        return self._quick[columns]

    def _write_quick(self, columns: tuple[str, ...]) -> QuickRow:
        key_types = [self._types[f] for f, _ in self._key_fields]
        if any(not _is_plain_key(t) for t in key_types) or any(
            f in self._publish.values for f, _ in self._key_fields
        ):
            raise NotPlain
        index = None
        if self._division in self._publish.columns:
            index = self._codec.names.index(self._division)
        elif self._constant_place is None:
            raise NotPlain
        constant = None if self._constant_place is None else text_bytes(self._constant_place)
        return quick_row(
            [self._quick_field(i, columns) for i in range(len(self._codec.names))],
            len(columns),
            key_types,
            self._forms,
            self._keys,
            Place(index, self._place_bytes, constant),
        )

    def _quick_field(self, i: int, columns: tuple[str, ...]) -> Field | bytes:
        name = self._codec.names[i]
        check = next((c for f, c in self._checks if f == name), None)
        passes = None if check is None else partial(self._passes, check)
        column = self._publish.columns.get(name)
        if column is None:
            if passes is not None and not passes(self._constants.get(name)):
                raise NotPlain
            return self._codec.encode_field(i, self._constants)
        return Field(
            self._types[name],
            columns.index(column) if column in columns else None,
            partial(self._plain_value, name, column),
            self._codec.encoders[i],
            passes,
            name in self._publish.values,
        )

    def _plain_value(self, name: str, column: str, own: Any) -> Any:
        try:
            return self._value(name, column, own)
        except (_Refused, Unfit):
            pass
        raise NotPlain

    def _place_bytes(self, place: Any) -> bytes:
        if self._places.where(place) is not Where.WITHIN:
            raise NotPlain
        return text_bytes(str(place))

    @property
    def territory(self) -> str:
        return self._territory

    def _value(self, name: str, column: str, own: Any) -> Any:
        codes = self._publish.values.get(name)
        if codes is not None:
            own_code = "" if own is None else text_of(own)
            if own_code in codes:
                own = codes[own_code]
            elif own is not None:
                raise _Refused(UNKNOWN_CODE, column)
        return self._convert[name](own)

    def _passes(self, check: Check, value: Any) -> bool:
        if value is None:
            return True
        if check is Check.DIVISION:
            return self._places.where(value) is not Where.NOWHERE
        if not isinstance(value, str):
            return False
        form = canonical(value, self._forms)
        return is_resident_id(form) if check is Check.RESIDENT_ID else is_credit_code(form)


def _is_plain_key(t: Type) -> bool:
    inner = t.optional[2] if t.optional else t
    return inner.logical is None and inner.kind in ("string", "int", "long")


def _plain_text(value: Any) -> str:
    """Text of a converted value that is a part of the key: numbers and dates as ISO writes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if value is None or isinstance(value, bytes):
        raise Unfit
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


@dataclass(slots=True)
class Batch:
    """The judgement of some outbox rows, in their order.

    In: `known` per (dataset, key), `borne` (whether a row with the plain own key is there, for the
    keys of `plain_keys`), `parked` (every parked row). Out: `changes` to send and `prepared`, which
    has to be durable before. `known` and `parked` are brought up to date as the rows are judged.
    """

    publications: Mapping[str, Publication]
    stamp: Stamp
    known: dict[tuple[str, bytes], Known]
    borne: Mapping[tuple[str, bytes], bool]
    parked: set[tuple[str, str]]
    changes: list[Change] = field(default_factory=list)
    prepared: Prepared = field(default_factory=Prepared)

    def remember(self, dataset: str, key: bytes, place: str) -> None:
        """A key whose removal is held lies there on the bus: what comes of it has to name it."""
        self._remember((dataset, key), place)

    def take(self, row: OutboxRow, found: KeyOf) -> None:
        """Judge one row; `found` is `key_of(row)`."""
        publication = self.publications[row.dataset]
        if found.key is None:
            if row.op == "u":
                self._park(row, found.raw, NO_KEY, found.column)
            else:
                self._unpark(row.dataset, found.raw)
                self.prepared.drop.append(row.position)
            return
        pair = (row.dataset, found.key)
        if not self._admit(row, found, pair):
            # What it names of places counts all the same: another row of the key was there.
            self._remember(pair, publication.own_place(row.was))
            return
        if row.op == "u":
            self._upsert(publication, row, found, pair)
        else:
            self._delete(publication, row, pair, publication.own_place(row.was), Reason.REMOVED)
            self._unpark(row.dataset, found.raw)

    # --- rule 5 ---------------------------------------------------------------------------

    def _admit(self, row: OutboxRow, found: KeyOf, pair: tuple[str, bytes]) -> bool:
        """True when this row speaks for its key."""
        variants = {v.raw: v.state for v in self.known.get(pair, _NO_KNOWLEDGE).variants}
        if row.key is not None:
            if HOLDS not in variants.values():
                return True
            self.prepared.drop.append(row.position)  # the key is borne after all
            return False
        if not variants and found.plain is None:
            return True
        if not variants and found.plain is not None and self.borne.get(pair, False):
            variants[raw_text(found.plain)] = HOLDS
            self._set_variants(pair, variants)
        holder = next((raw for raw, state in variants.items() if state == HOLDS), None)
        if row.op == "u":
            return self._admit_upsert(row, found, pair, variants, holder)
        if holder is None or holder == found.raw:
            variants[found.raw] = GONE
            heir = min((raw for raw, state in variants.items() if state == PARKED), default=None)
            if heir is not None:
                variants[heir] = HOLDS
                self._want(row, heir)
            self._set_variants(pair, variants)
            return True
        variants[found.raw] = GONE
        self._set_variants(pair, variants)
        self._unpark(row.dataset, found.raw)
        self.prepared.drop.append(row.position)
        return False

    def _admit_upsert(
        self,
        row: OutboxRow,
        found: KeyOf,
        pair: tuple[str, bytes],
        variants: dict[str, str],
        holder: str | None,
    ) -> bool:
        if holder == found.raw:
            return True
        if holder is None:
            variants[found.raw] = HOLDS
            self._set_variants(pair, variants)
            self._want(row, found.raw)
            return True
        variants[found.raw] = PARKED
        self._set_variants(pair, variants)
        self._park(row, found.raw, DUPLICATE, None)
        return False

    def _set_variants(self, pair: tuple[str, bytes], variants: Mapping[str, str]) -> None:
        made = tuple(Variant(raw, state) for raw, state in sorted(variants.items()))
        before = self.known.get(pair, _NO_KNOWLEDGE)
        if made != before.variants:
            self.known[pair] = Known(before.places, made)
            self.prepared.variants[pair] = made

    def _want(self, row: OutboxRow, raw: str) -> None:
        self.prepared.wanted.append(Wanted(row.dataset, raw, None, row.cause, row.job))

    # --- rules 2 to 4 ---------------------------------------------------------------------

    def _upsert(
        self, publication: Publication, row: OutboxRow, found: KeyOf, pair: tuple[str, bytes]
    ) -> None:
        was = publication.own_place(row.was)
        try:
            where, place, values = publication.state(row)
            record = publication.encode(values) if where is Where.WITHIN else None
        except _Refused as refused:
            self._remember(pair, was)
            self._park(row, found.raw, refused.reason, refused.column)
            return
        self._unpark(row.dataset, found.raw)
        if where is Where.OUTSIDE:
            self._delete(publication, row, pair, was, Reason.MOVED_OUT)
            return
        places = self._remember(pair, was, place)
        self._publish(publication, row, pair, ChangeOp.UPSERT, None, place, places, record)

    def _delete(
        self,
        publication: Publication,
        row: OutboxRow,
        pair: tuple[str, bytes],
        was: str | None,
        reason: Reason,
    ) -> None:
        places = self._remember(pair, was)
        # Where it lay last; a key that never named a place says no more than whose it was.
        last = was or (places[-1] if places else publication.territory)
        self._publish(publication, row, pair, ChangeOp.DELETE, reason, last, places, None)

    def _remember(
        self,
        pair: tuple[str, bytes],
        was: str | None,
        now: str | None = None,
    ) -> tuple[str, ...]:
        """Rule 3: adds to the places of a key, the last named last; returns all of them. A key that
        never left its first place has nothing written: its row still names it."""
        before = self.known.get(pair, _NO_KNOWLEDGE)
        places = list(before.places)
        if was is not None and was not in places and was != now:
            places.append(was)
        if now is not None and places:
            places = [p for p in places if p != now] + [now]
        made = tuple(places)
        if made != before.places:
            self.known[pair] = Known(made, before.variants)
            self.prepared.places[pair] = made
        return made

    def _publish(
        self,
        publication: Publication,
        row: OutboxRow,
        pair: tuple[str, bytes],
        op: ChangeOp,
        reason: Reason | None,
        place: str,
        places: Sequence[str],
        record: tuple[bytes, ...] | None,
    ) -> None:
        self.prepared.version = max(self.prepared.version, row.position)
        self.changes.append(
            Change(
                dataset=row.dataset,
                key=pair[1],
                op=op,
                reason=reason,
                source_unit=publication.unit,
                incarnation=self.stamp.incarnation,
                version=row.position,
                source_time_us=row.source_time_us,
                publication=self.stamp.publication,
                division=place,
                former_divisions=tuple(p for p in places if p != place),
                cause=Cause(row.cause),
                job=row.job,
                policy=self.stamp.policy,
                schema_version=publication.schema_version,
                record=record,
            )
        )

    # --- parking --------------------------------------------------------------------------

    def refuse(self, change: Change, raw: str, reason: str) -> None:
        """A change of this batch cannot be put on the wire (too large): park it after all."""
        self.changes.remove(change)
        self.prepared.drop.append(change.version)
        self.prepared.park.append(Parked(change.dataset, raw, reason, None, change.version))
        self.parked.add((change.dataset, raw))

    def _park(self, row: OutboxRow, raw: str, reason: str, column: str | None) -> None:
        self.prepared.drop.append(row.position)
        self.prepared.park.append(Parked(row.dataset, raw, reason, column, row.position))
        self.parked.add((row.dataset, raw))

    def _unpark(self, dataset: str, raw: str) -> None:
        if (dataset, raw) in self.parked:
            self.parked.discard((dataset, raw))
            self.prepared.unpark.append((dataset, raw))
            # Within one batch a row may be parked and mended: only the last word is written.
            self.prepared.park = [p for p in self.prepared.park if (p[0], p[1]) != (dataset, raw)]

"""Change and deliveries -> framed bytes; what several deliveries share is made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from deptbus.change import (
    Cause,
    Change,
    ChangeOp,
    Delivery,
    DeliveryOp,
    Direction,
    Incarnation,
    Reason,
    RecordFields,
)
from deptbus.errors import WireRefused
from deptbus.wire.envelope import LATEST_TIME
from deptbus.wire.guard import (
    KEY_BYTES,
    MAX_CHANGE_BYTES,
    MAX_RECORD_BYTES,
    TOKEN_BYTES,
    TOO_LARGE,
    refused_value,
)
from deptbus.wire.schemas import CHANGE_CAUSES, DELIVERY_CAUSES
from deptbus.wire.varint import ONE_BYTE, long_bytes, text_bytes

_NULL, _VALUE = ONE_BYTE[0], ONE_BYTE[1]

_HAPPENED: dict[tuple[ChangeOp, Reason | None], bytes] = {
    (ChangeOp.UPSERT, None): ONE_BYTE[0] + _NULL,
    **{
        (ChangeOp.DELETE, reason): ONE_BYTE[1] + _VALUE + ONE_BYTE[i]
        for i, reason in enumerate(Reason)
    },
}
_CHANGE_CAUSES = {cause: ONE_BYTE[i] for i, cause in enumerate(CHANGE_CAUSES)}
_DELIVERY_CAUSES = {cause: ONE_BYTE[i] for i, cause in enumerate(DELIVERY_CAUSES)}
_DELIVERY_OPS = {op: ONE_BYTE[i] for i, op in enumerate(DeliveryOp)}
_DIRECTIONS = {direction: ONE_BYTE[i] for i, direction in enumerate(Direction)}

# Routing hands out the same rules again and again; as many as a large contract has, and then anew.
_MOST_PLANS = 10_000


def natural_of(name: str, n: int) -> bytes:
    """The varint of what counts something. Raises WireRefused (`bad_value`) by name."""
    if not 0 <= n < 1 << 63:
        raise refused_value(name, "does not fit a count of 64 bits")
    return long_bytes(n)


def time_of(name: str, microseconds: int) -> bytes:
    """As `natural_of`, within what a datetime can hold."""
    if not 0 <= microseconds <= LATEST_TIME:
        raise refused_value(name, "is no time of the years 1970 to 9999")
    return long_bytes(microseconds)


@lru_cache(maxsize=20_000)
def _known_text(text: str) -> bytes:
    """`text_bytes` of what comes again and again: units, places, rules."""
    return text_bytes(text)


def text_of(name: str, text: str) -> bytes:
    """A text's bytes. Raises WireRefused (`bad_value`) by name."""
    try:
        return _known_text(text) if len(text) < 64 else text_bytes(text)
    except UnicodeEncodeError:
        pass
    raise refused_value(name, "is not valid Unicode")


def array_of(name: str, texts: Sequence[str]) -> bytes:
    if not texts:
        return _NULL
    return b"".join([long_bytes(len(texts)), *(text_of(name, t) for t in texts), _NULL])


def optional_text(name: str, text: str | None) -> bytes:
    return _NULL if text is None else _VALUE + text_of(name, text)


def capped(value: bytes, most: int = MAX_RECORD_BYTES) -> bytes:
    if len(value) > most:
        raise WireRefused(TOO_LARGE, "the record is larger than the cap")
    return value


def change_bytes(head: bytes, count: int, c: Change) -> bytes:
    """A framed change. `head` is its frame, `count` the fields of its record schema.

    The record's slices are taken as they are: they come from a RecordCodec or a decoded change.
    Raises WireRefused (`bad_value`, `too_large`).
    """
    happened = _HAPPENED.get((c.op, c.reason))
    cause = _CHANGE_CAUSES.get(c.cause)
    record = c.record
    if happened is None or cause is None or (record is None) is (c.op is ChangeOp.UPSERT):
        raise refused_value("of the envelope", "contradicts another one")
    if len(c.key) != KEY_BYTES or len(c.incarnation.token) != TOKEN_BYTES:
        raise refused_value("of the envelope", "is not of its fixed size")
    if record is not None and len(record) != count:
        raise refused_value("record", "has not one slice for each field of its schema")
    envelope = (
        head,
        happened,
        text_of("source_unit", c.source_unit),
        natural_of("incarnation", c.incarnation.number),
        c.incarnation.token,
        natural_of("version", c.version),
        time_of("source_time", c.source_time_us),
        natural_of("publication", c.publication),
        text_of("division", c.division),
        array_of("former_divisions", c.former_divisions),
        cause,
        optional_text("job", c.job),
        natural_of("policy", c.policy),
    )
    body = (_NULL,) if record is None else (_VALUE, *record)
    return capped(b"".join(envelope + body), MAX_CHANGE_BYTES)


def what_decides(c: Change) -> tuple[bytes, bytes]:
    """The bytes of a change that decide where it goes, as they lie in it: what it begins with
    behind the frame (op, reason, unit, incarnation), and what stands between publication and record
    (places, cause, job, policy). See `wire.passage`."""
    sender = (
        _HAPPENED[c.op, c.reason],
        text_of("source_unit", c.source_unit),
        natural_of("incarnation", c.incarnation.number),
        c.incarnation.token,
    )
    end = (
        text_of("division", c.division),
        array_of("former_divisions", c.former_divisions),
        _CHANGE_CAUSES[c.cause],
        optional_text("job", c.job),
        natural_of("policy", c.policy),
    )
    return b"".join(sender), b"".join(end)


class UpsertWriter:
    """Writes upserts of keys that never left their place, as `change_bytes` does: what is the same
    in all changes of one batch is made once."""

    def __init__(
        self,
        head: bytes,
        source_unit: str,
        incarnation: Incarnation,
        publication: int,
        cause: Cause,
        job: str | None,
        policy: int,
    ) -> None:
        """`head` is the frame. Raises WireRefused (`bad_value`)."""
        self._head = b"".join(
            (
                head,
                _HAPPENED[ChangeOp.UPSERT, None],
                text_of("source_unit", source_unit),
                natural_of("incarnation", incarnation.number),
                incarnation.token,
            )
        )
        self._publication = natural_of("publication", publication)
        self._tail = b"".join(
            (
                array_of("former_divisions", ()),
                _CHANGE_CAUSES[cause],
                optional_text("job", job),
                natural_of("policy", policy),
                _VALUE,
            )
        )
        self._time_us = -1
        self._between = b""

    def write(self, version: int, source_time_us: int, division: bytes, record: bytes) -> bytes:
        """A framed change; `division` and `record` are Avro bytes. Raises WireRefused
        (`bad_value`, `too_large`)."""
        if source_time_us != self._time_us:  # rows of one statement have one time
            self._between = time_of("source_time", source_time_us) + self._publication
            self._time_us = source_time_us
        number = natural_of("version", version)
        parts = (self._head, number, self._between, division, self._tail, record)
        return capped(b"".join(parts), MAX_CHANGE_BYTES)


class DeliveryWriter:
    """Writes deliveries of changes; keeps what is the same from one change to the next.

    `projection(dataset, schema_version, fields)` answers with the frame of the delivery schema and
    the places of the projection's fields in the record.
    """

    def __init__(
        self, projection: Callable[[str, int, tuple[str, ...]], tuple[bytes, tuple[int, ...]]]
    ) -> None:
        self._projection = projection
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self._by_identity: dict[tuple[Any, ...], tuple[_Plan, Delivery]] = {}

    def write(
        self,
        change: Change,
        deliveries: Sequence[Delivery],
        policy: int,
        cause: Cause | None,
        job: str | None,
    ) -> list[bytes]:
        """One framed delivery for each, in the order given; equal ones are one object.

        `cause` and `job` are those of the change unless they are given. Raises WireRefused
        (`bad_value`, `too_large`).
        """
        if not deliveries:
            return []
        common = (
            text_of("source_unit", change.source_unit)
            + natural_of("version", change.version)
            + time_of("source_time", change.source_time_us)
            + natural_of("policy", policy)
        )
        why = _DELIVERY_CAUSES[cause or change.cause]
        end = why + optional_text("job", change.job if job is None else job)
        record = change.record
        by_plan: dict[_Plan, bytes] = {}
        bodies: dict[tuple[int, ...], bytes] = {}
        written: list[bytes] = []
        for delivery in deliveries:
            plan = self._plan(change, delivery)
            value = by_plan.get(plan)
            if value is None:
                body = _NULL
                if plan.upsert:
                    if record is None:
                        raise refused_value("record", "is missing where a delivery upserts")
                    body = bodies.get(plan.places) or _joined(record, plan.places)
                    bodies[plan.places] = body
                value = capped(plan.head + common + plan.right + end + body)
                by_plan[plan] = value
            written.append(value)
        return written

    def around(
        self, change: Change, delivery: Delivery, policy: int
    ) -> tuple[bytes, bytes, tuple[int, ...] | None]:
        """A delivery's bytes before its version and behind its time, up to the record's fields;
        and the places of those fields, None where there is no record."""
        plan = self._plan(change, delivery)
        before = plan.head + text_of("source_unit", change.source_unit)
        end = _DELIVERY_CAUSES[change.cause] + optional_text("job", change.job)
        after = natural_of("policy", policy) + plan.right + end
        if plan.upsert:
            return before, after + _VALUE, plan.places
        return before, after + _NULL, None

    def _plan(self, change: Change, d: Delivery) -> _Plan:
        # Routing caches its rules, so their tuples are the same objects from change to change; they
        # are looked up by identity first, because to hash a dozen names costs more than all the
        # rest of a delivery. What was looked up is held on to, so that no identity is used twice.
        key = (
            change.dataset,
            change.schema_version,
            id(d.op),
            id(d.direction),
            d.rule,
            id(d.grants),
            id(d.fields),
        )
        known = self._by_identity.get(key)
        if known is not None:
            return known[0]
        if len(self._by_identity) >= _MOST_PLANS:
            self._by_identity.clear()
            self._plans.clear()
        plan = self._plan_by_value(change, d)
        self._by_identity[key] = plan, d
        return plan

    def _plan_by_value(self, change: Change, d: Delivery) -> _Plan:
        key = change.dataset, change.schema_version, d.op, d.direction, d.rule, d.grants, d.fields
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make_plan(change, d)
        return plan

    def _make_plan(self, change: Change, d: Delivery) -> _Plan:
        upsert = d.op is DeliveryOp.UPSERT
        if upsert is not bool(d.fields):
            raise refused_value("record", "has a projection exactly in an upsert")
        head, places = self._projection(change.dataset, change.schema_version, d.fields)
        right = _DIRECTIONS[d.direction] + text_of("rule", d.rule) + array_of("grants", d.grants)
        return _Plan(head + _DELIVERY_OPS[d.op], right, upsert, places)


class _Plan:
    """All of a delivery's bytes that do not depend on the change. Compared by identity."""

    __slots__ = ("head", "places", "right", "upsert")

    def __init__(self, head: bytes, right: bytes, upsert: bool, places: tuple[int, ...]) -> None:
        self.head = head
        self.right = right
        self.upsert = upsert
        self.places = places


def _joined(record: RecordFields, places: tuple[int, ...]) -> bytes:
    return _VALUE + b"".join([record[i] for i in places])

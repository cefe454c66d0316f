"""Bytes -> Change and Received: the envelope's values and the record's slices in one guarded pass.

A decoder is generated per schema: the walk over the envelope, which yields values, goes on into
the record's, which yields slices. Parts that come again and again (who sent it, which place, which
rule) are looked up by their very bytes: Avro encodings are prefix-free, so bytes that begin with an
encoding that was walked before hold the same values.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import fields as dataclass_fields
from dataclasses import make_dataclass
from enum import Enum
from typing import Any

from deptbus.change import (
    Change,
    ChangeOp,
    DeliveryOp,
    Direction,
    Incarnation,
    Reason,
    Received,
)
from deptbus.errors import WireRefused
from deptbus.wire.guard import BAD_KEY, INCONSISTENT, KEY_BYTES, TOKEN_BYTES
from deptbus.wire.schemas import CHANGE_CAUSES, DELIVERY_CAUSES
from deptbus.wire.types import Type
from deptbus.wire.varint import malformed, read_count, read_long, text_at
from deptbus.wire.walk import (
    FLUSH,
    LOGICAL_RANGES,
    Source,
    compiled,
    write_fields,
    write_refusals,
)

# Parts of envelopes that are remembered, some hundred bytes each: forgotten all at once when there
# are as many, so that hostile variety costs time and not memory.
MOST_REMEMBERED = 20_000
_LONGEST_REMEMBERED = 256

LATEST_TIME = LOGICAL_RANGES["timestamp-micros"][1]


class Memory:
    """What was read before, by its bytes. One per `Codecs`; not for several threads at once."""

    def __init__(self) -> None:
        self.senders: dict[bytes, tuple[ChangeOp, Reason | None, str, Incarnation]] = {}
        self.texts: dict[bytes, str] = {}
        self.rights: dict[bytes, tuple[Direction, str, tuple[str, ...]]] = {}
        # Those with grants, whose end is not known before they are read: the last few.
        self._granted: deque[tuple[bytes, tuple[Direction, str, tuple[str, ...]]]] = deque(maxlen=8)
        # The upper five bytes of a time, which change once a second -> half of what they add.
        self.times: dict[bytes, int] = {}

    def sender(self, v: bytes, p: int) -> tuple[ChangeOp, Reason | None, str, Incarnation, int]:
        """What a change begins with, read and remembered; and the offset behind it."""
        *values, end = _sender(v, p)
        _remember(self.senders, v[p:end], tuple(values))
        return *values, end  # type: ignore[return-value]

    def text(self, v: bytes, p: int) -> tuple[str, int]:
        text, end = text_at(v, p)
        _remember(self.texts, v[p:end], text)
        return text, end

    def time(self, v: bytes, p: int) -> tuple[int, int]:
        time, end = time_at(v, p)
        if end - p == 8:
            _remember(self.times, v[p + 3 : end], time >> 20 << 20)
        return time, end

    def right(self, v: bytes, p: int) -> tuple[Direction, str, tuple[str, ...], int]:
        """By what right a delivery comes: direction, rule, grants; and the offset behind."""
        for part, (direction, rule, grants) in self._granted:
            if v.startswith(part, p):
                return direction, rule, grants, p + len(part)
        direction = _symbol(_DIRECTIONS, v[p])
        rule, end = text_at(v, p + 1)
        grants, end = texts_at(v, end)
        part, found = v[p:end], (direction, rule, grants)
        if not grants:
            _remember(self.rights, part, found)
        elif len(part) <= _LONGEST_REMEMBERED:
            self._granted.appendleft((part, found))
        return *found, end


def _remember(memory: dict[bytes, Any], part: bytes, values: Any) -> None:
    if len(part) <= _LONGEST_REMEMBERED:
        if len(memory) >= MOST_REMEMBERED:
            memory.clear()
        memory[part] = values


def _by_byte(symbols: Iterable[Any]) -> dict[int, Any]:
    """Enum indexes as their one byte -> symbol."""
    return {2 * i: symbol for i, symbol in enumerate(symbols)}


_OPS = _by_byte(ChangeOp)
_REASONS = _by_byte(Reason)
_DIRECTIONS = _by_byte(Direction)


def _symbol(table: dict[int, Any], byte: int) -> Any:
    found = table.get(byte)
    if found is None:
        raise malformed()
    return found


def _sender(v: bytes, p: int) -> tuple[ChangeOp, Reason | None, str, Incarnation, int]:
    op = _symbol(_OPS, v[p])
    branch = v[p + 1]
    p += 2
    reason = None
    if branch == 2:
        reason = _symbol(_REASONS, v[p])
        p += 1
    elif branch:
        raise malformed()
    if (op is ChangeOp.DELETE) is (reason is None):
        raise inconsistent()
    unit, p = text_at(v, p)
    number, p = natural_at(v, p)
    token = v[p : p + TOKEN_BYTES]
    if len(token) != TOKEN_BYTES:
        raise malformed()
    return op, reason, unit, Incarnation(number, token), p + TOKEN_BYTES


def natural_at(v: bytes, p: int) -> tuple[int, int]:
    """(number, offset behind it) of a long that counts something: never below zero."""
    n, p = read_long(v, p)
    if n < 0:
        raise malformed()
    return n, p


def time_at(v: bytes, p: int) -> tuple[int, int]:
    """(microseconds since the epoch, offset behind them), within what a datetime can hold."""
    n, p = natural_at(v, p)
    if n > LATEST_TIME:
        raise malformed()
    return n, p


def texts_at(v: bytes, p: int) -> tuple[tuple[str, ...], int]:
    """(texts, offset behind them) of an array of text."""
    if v[p] == 0:
        return (), p + 1
    count, p = read_count(v, p, len(v), 1)
    found: list[str] = []
    for _ in range(count):
        text, p = text_at(v, p)
        found.append(text)
    if v[p]:
        raise malformed()
    return tuple(found), p + 1


def job_at(v: bytes, p: int) -> tuple[str, int]:
    """(job, offset behind it) where the union's byte is not that of null."""
    if v[p] != 2:
        raise malformed()
    return text_at(v, p + 1)


def bad_key() -> WireRefused:
    return WireRefused(BAD_KEY, "the key is not 16 bytes")


def inconsistent() -> WireRefused:
    return WireRefused(INCONSISTENT, "the fields of the envelope contradict each other")


def _twin(cls: type) -> type:
    """A class with the slots of a frozen dataclass and a plain `__init__`.

    A frozen dataclass of 15 fields takes 1.5 us to make, because every field is set through
    `object.__setattr__`; made as its twin and then given its class it takes 0.5 us.
    """
    names = [(f.name, f.type) for f in dataclass_fields(cls)]
    return make_dataclass(f"{cls.__name__}Twin", names, slots=True, eq=False, repr=False)


_CHANGE_TWIN = _twin(Change)
_RECEIVED_TWIN = _twin(Received)

_RUNTIME: dict[str, Any] = {
    "bad_key": bad_key,
    "bytes": bytes,
    "inconsistent": inconsistent,
    "job_at": job_at,
    "natural_at": natural_at,
    "text_at": text_at,
    "texts_at": texts_at,
}


def natural_source(name: str) -> str:
    """Source that reads a count: up to four bytes in place, as most versions and policies are."""
    return f"""
n = v[p]
if n < 128:
    if n & 1:
        raise malformed()
    {name} = n >> 1
    p += 1
elif n & 1:
    raise malformed()
elif 0 < v[p + 1] < 128:
    {name} = (n & 127 | v[p + 1] << 7) >> 1
    p += 2
elif v[p + 1] and 0 < v[p + 2] < 128:
    {name} = (n & 127 | (v[p + 1] & 127) << 7 | v[p + 2] << 14) >> 1
    p += 3
elif v[p + 1] & v[p + 2] & 128 and 0 < v[p + 3] < 128:
    {name} = (n & 127 | (v[p + 1] & 127) << 7 | (v[p + 2] & 127) << 14 | v[p + 3] << 21) >> 1
    p += 4
else:
    {name}, p = natural_at(v, p)
"""


_TIME_SOURCE = """
upper = times.get(v[p + 3:p + 8])
if upper is None or v[p] & 1 or not v[p] & v[p + 1] & v[p + 2] & 128:
    time, p = read_time(v, p)
else:
    time = upper + ((v[p] & 127 | (v[p + 1] & 127) << 7 | (v[p + 2] & 127) << 14) >> 1)
    p += 8
"""

# The offset 7 is where the source unit stands when the op is an upsert: frame, op, null. The slice
# is right when the incarnation has one or two bytes, and otherwise no key of `senders`.
_CHANGE_HEAD = f"""
if key.__class__ is not bytes or len(key) != {KEY_BYTES}:
    raise bad_key()
e = len(v)
p = {8 + 1 + TOKEN_BYTES} + (v[7] >> 1)
if v[p - {TOKEN_BYTES + 1}] > 127:
    p += 1
known = senders.get(v[5:p])
if known is None:
    op, reason, unit, incarnation, p = read_sender(v, 5)
else:
    op, reason, unit, incarnation = known
{natural_source("version")}
{_TIME_SOURCE}
{natural_source("publication")}
q = p + 1 + (v[p] >> 1)
division = texts.get(v[p:q])
if division is None:
    division, q = read_text(v, p)
p = q
if v[p]:
    former, p = texts_at(v, p)
else:
    former = ()
    p += 1
cause = causes.get(v[p])
if cause is None:
    raise malformed()
p += 1
if v[p]:
    job, p = job_at(v, p)
else:
    job = None
    p += 1
{natural_source("policy")}
"""

_CHANGE_TAIL = """
made = Twin(dataset, key, op, reason, unit, incarnation, version, time, publication, division,
            former, cause, job, policy, schema_version, record)
made.__class__ = Noun
return made
"""

_RECEIVED_HEAD = f"""
if key.__class__ is not bytes or len(key) != {KEY_BYTES}:
    raise bad_key()
e = len(v)
op = ops.get(v[5])
if op is None:
    raise malformed()
p = 7 + (v[6] >> 1)
unit = texts.get(v[6:p])
if unit is None:
    unit, p = read_text(v, 6)
{natural_source("version")}
{_TIME_SOURCE}
{natural_source("policy")}
q = p + 3 + (v[p + 1] >> 1)
known = rights.get(v[p:q])
if known is None:
    direction, rule, grants, p = read_right(v, p)
else:
    direction, rule, grants = known
    p = q
cause = causes.get(v[p])
if cause is None:
    raise malformed()
p += 1
if v[p]:
    job, p = job_at(v, p)
else:
    job = None
    p += 1
"""

_RECEIVED_TAIL = """
made = Twin(dataset, key, op, unit, version, time, policy, direction, rule, grants, cause, job,
            fields, record, schema_version)
made.__class__ = Noun
return made
"""


def change_decoder(
    dataset: str, schema_version: int, record: Type, memory: Memory
) -> Callable[[bytes | None, bytes], Change]:
    """`decode(key, framed value) -> Change` for one change schema; the frame was looked at before.

    Raises WireRefused: `bad_key`, `malformed`, `inconsistent`.
    """
    constants = {
        "causes": _by_byte(CHANGE_CAUSES),
        "read_sender": memory.sender,
        "senders": memory.senders,
        "upsert": ChangeOp.UPSERT,
    }
    return _decoder(
        dataset, schema_version, record, memory,
        head=_CHANGE_HEAD, tail=_CHANGE_TAIL, twin=_CHANGE_TWIN, noun=Change, constants=constants,
    )  # fmt: skip


def delivery_decoder(
    dataset: str, schema_version: int, record: Type, memory: Memory
) -> Callable[[bytes | None, bytes], Received]:
    """`decode(key, framed value) -> Received` for one delivery schema; raises as the other."""
    constants = {
        "causes": _by_byte(DELIVERY_CAUSES),
        "fields": tuple(f.name for f in record.fields),
        "ops": _by_byte(DeliveryOp),
        "read_right": memory.right,
        "rights": memory.rights,
        "upsert": DeliveryOp.UPSERT,
    }
    return _decoder(
        dataset, schema_version, record, memory,
        head=_RECEIVED_HEAD, tail=_RECEIVED_TAIL, twin=_RECEIVED_TWIN, noun=Received,
        constants=constants,
    )  # fmt: skip


def _decoder(
    dataset: str,
    schema_version: int,
    record: Type,
    memory: Memory,
    *,
    head: str,
    tail: str,
    twin: type,
    noun: type,
    constants: dict[str, Enum | Any],
) -> Callable[..., Any]:
    src = Source()
    with src.block("def decode(key, v):"):
        with src.block("try:"):
            src.add(*(line for line in head.splitlines() if line))
            src.add("n = v[p]", "p += 1", "a = p")
            with src.block("if n == 2:"):
                with src.block("if op is not upsert:"):
                    src.add("raise inconsistent()")
                cuts = write_fields(src, record)
                src.add(FLUSH)
                with src.block("if p != e:"):
                    src.add("raise malformed()")
                src.add(f"record = {cuts}")
            with src.block("else:"):
                with src.block("if n or p != e:"):
                    src.add("raise malformed()")
                with src.block("if op is upsert:"):
                    src.add("raise inconsistent()")
                src.add("record = None")
            src.add(*tail.strip().splitlines())
        write_refusals(src)
    return compiled(
        src.text(),
        "decode",
        {
            **_RUNTIME,
            **constants,
            "Noun": noun,
            "Twin": twin,
            "dataset": dataset,
            "read_text": memory.text,
            "read_time": memory.time,
            "schema_version": schema_version,
            "texts": memory.texts,
            "times": memory.times,
        },
    )

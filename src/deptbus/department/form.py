"""Writes, for one projection and one table, the function that turns slices of Avro into a row.

It is a short cut and nothing else: what it gives is what `target.MappedTarget.prepare` gives, and
whatever it cannot take (or any doubt) is None, so that the long way is taken, which knows the
reasons. Most columns are text that passes unchanged; their bytes are never made into a str where
the database takes bytes. Values of few kinds (codes, days) are converted once and remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from deptbus.change import RecordFields
from deptbus.department.values import Refusal
from deptbus.errors import WireRefused
from deptbus.wire.digest import DIGEST_BYTES, NULL, TEXT, encode_value
from deptbus.wire.types import Type
from deptbus.wire.varint import read_length
from deptbus.wire.walk import Source, compiled

# A value as it is needed: tag and bytes for the digests, and what the database is given.
Cell = tuple[int, bytes, Any]
# (slices of the record, its key) -> (the row's own key, digest of the values, payload), or None.
Take = Callable[[RecordFields, bytes], tuple[bytes, bytes, Any] | None]

LENGTHS = tuple(n.to_bytes(4, "big") for n in range(8200))
_DOUBTS = (
    Refusal, WireRefused, ValueError, TypeError, LookupError, ArithmeticError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One column. `at` is its place in the row, `place` that of its slice; None: `cell` is
    constant. Without `read` it is text that passes as it is, of the Avro type `kind`."""

    at: int
    place: int | None
    kind: Type | None = None
    read: Callable[[bytes], Any] | None = None  # slice -> value as the database is given it
    null: Any = None  # what stands for a null of the bus
    cell: Any = None
    remember: int = 0  # how many of its values, where the same ones come again and again


def write_form(
    steps: Sequence[Step], keys: Sequence[int], field: Sequence[Callable[[Any], bytes]] | None
) -> Take:
    """`keys`: places of the row's key columns. `field`: per column, value -> how it is handed over,
    for a database that takes bytes (the payload is their concatenation); without it the payload is
    the tuple of values."""
    constants: dict[str, Any] = {
        "DOUBTS": _DOUBTS,
        "LENGTHS": LENGTHS,
        "blake2b": blake2b,
        "long_text": _long_text,
        "pack_row": struct.Struct(f">H{len(steps)}B{len(steps)}I").pack,
        "pack_key": struct.Struct(f">H{len(keys)}B{len(keys)}I").pack,
    }
    src = Source()
    tags: list[str] = []
    with src.block("def take(f, key):"):
        with src.block("try:"):
            for step in steps:
                encode = None if field is None else field[step.at]
                tags.append(_write_step(src, step, encode, constants))
            for at in keys:
                if not tags[at].isdigit():
                    with src.block(f"if t{at} == {NULL}:"):
                        src.add("return None")
            _write_end(src, [f"b{s.at}" for s in steps], tags, keys, is_bytes=field is not None)
        with src.block("except DOUBTS:"):
            src.add("return None")
    made: Take = compiled(src.text(), "take", constants)
    return made


def _write_end(
    src: Source, bodies: list[str], tags: list[str], keys: Sequence[int], *, is_bytes: bool
) -> None:
    def head(name: str, places: Sequence[int]) -> str:
        words = [str(len(places)), *(tags[at] for at in places), *(f"n{at}" for at in places)]
        return f"{name}({', '.join(words)})"

    places = range(len(bodies))
    key = " + ".join((head("pack_key", keys), *(bodies[at] for at in keys)))
    joined = "".join(f"{body}, " for body in bodies)
    src.add(f"whole = {head('pack_row', places)} + b''.join(({joined}))")
    payload = "".join(f"x{at}, " for at in places)
    src.add(
        f"return {key}, blake2b(whole, digest_size={DIGEST_BYTES}).digest(), "
        + (f"b''.join(({payload}))" if is_bytes else f"({payload})")
    )


def _write_step(
    src: Source, step: Step, encode: Callable[[Any], bytes] | None, constants: dict[str, Any]
) -> str:
    """Lines that set b (bytes), n (their length), x (payload) of one column, and t (tag) unless it
    is constant; returns the tag as source."""
    at = step.at

    def cell(value: Any) -> Cell:
        tag, body = encode_value(value)
        return tag, body, value if encode is None else encode(value)

    if step.place is None:
        constants[f"cell{at}"] = cell(step.cell)
        src.add(f"t{at}, b{at}, x{at} = cell{at}", f"n{at} = len(b{at})")
        return f"t{at}"
    if step.read is None:
        constants[f"null{at}"] = cell(step.null)
        return _write_text(src, step, is_bytes=encode is not None)
    constants[f"read{at}"] = _reader(step, cell)
    if step.remember:
        known: dict[bytes, Cell] = {}
        constants[f"known{at}"] = known
        constants[f"read{at}"] = _remembering(known, constants[f"read{at}"], step.remember)
        src.add(f"c = known{at}.get(f[{step.place}])")
        with src.block("if c is None:"):
            src.add(f"c = read{at}(f[{step.place}])")
        src.add(f"t{at}, b{at}, x{at} = c")
    else:
        src.add(f"t{at}, b{at}, x{at} = read{at}(f[{step.place}])")
    src.add(f"n{at} = len(b{at})")
    return f"t{at}"


def _write_text(src: Source, step: Step, *, is_bytes: bool) -> str:
    assert step.kind is not None
    at, optional = step.at, step.kind.optional
    skip = 1 if optional is None else 2  # length; branch and length
    src.add(f"s = f[{step.place}]")

    def text() -> None:
        src.add(f"b{at} = s[{skip}:] if s[{skip - 1}] < 128 else long_text(s, {skip - 1})")
        src.add(f"n{at} = len(b{at})")
        src.add(f"x{at} = LENGTHS[n{at}] + b{at}" if is_bytes else f"x{at} = b{at}.decode()")

    if optional is None:
        text()
        return str(TEXT)
    with src.block(f"if s[0] == {2 * optional[0]}:"):
        src.add(f"t{at}, b{at}, x{at} = null{at}", f"n{at} = len(b{at})")
    with src.block("else:"):
        src.add(f"t{at} = {TEXT}")
        text()
    return f"t{at}"


def _long_text(s: bytes, p: int) -> bytes:
    """A text whose length takes more than a byte. LookupError (a doubt) beyond LENGTHS."""
    _, start = read_length(s, p)
    return s[start:]


def _reader(step: Step, cell: Callable[[Any], Cell]) -> Callable[[bytes], Cell]:
    read, null = step.read, step.null
    assert read is not None

    def made(part: bytes) -> Cell:
        value = read(part)
        return cell(null if value is None else value)

    return made


def _remembering(
    known: dict[bytes, Cell], read: Callable[[bytes], Cell], most: int
) -> Callable[[bytes], Cell]:
    def made(part: bytes) -> Cell:
        found = read(part)
        if len(known) >= most:
            known.clear()
        known[part] = found
        return found

    return made

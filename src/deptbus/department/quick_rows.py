"""Writes, for one dataset and one layout, the function from own values to the bytes of a change.

`publication` says rule by rule what becomes of a row. Most rows are plain: their key is canonical,
they lie within the unit's territory, each value fits. For these the function written here does all
of it at once; to any other row it says None, and the rules are gone through. What it gives is what
the rules give: it calls the same conversions, checks and encoders, and remembers what they made of
codes, days and places, which come again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from deptbus.contract.model import CanonicalForm
from deptbus.wire.codec import UNFIT
from deptbus.wire.keys import KeyMaker, canonical
from deptbus.wire.types import Type
from deptbus.wire.varint import ONE_BYTE, long_bytes
from deptbus.wire.walk import Source, compiled

# (own key, own values) -> (bus key, Avro bytes of the place, Avro bytes of the record), or None.
QuickRow = Callable[[Sequence[Any], Sequence[Any]], tuple[bytes, bytes, bytes] | None]

# Values of one field: all the days of a hundred and thirty years; time stamps, of which the rows
# of one statement have the same.
_MOST_REMEMBERED, _FEW_REMEMBERED = 50_000, 1_000
_SIZES = tuple(n.to_bytes(4, "big") for n in range(64))


class NotPlain(Exception):
    """A value that only the rules can judge; never leaves the function."""


class Field(NamedTuple):
    """One field of the record that is made from an own value."""

    type: Type
    at: int | None  # where its own value lies in `cells`; None: the row has none
    convert: Callable[[Any], Any]  # own value -> the bus's; raises what does not fit
    encode: Callable[[Any], bytes]
    check: Callable[[Any], bool] | None  # of the bus's value
    is_coded: bool


class Place(NamedTuple):
    """The division: the number of its field, and what makes the bytes by which an envelope names a
    place of the unit's (raises NotPlain for any other); `constant`: those of a unit without such a
    column."""

    field: int | None
    name: Callable[[Any], bytes]
    constant: bytes | None


def quick_row(
    fields: Sequence[Field | bytes],
    width: int,
    key_types: Sequence[Type],
    forms: Sequence[CanonicalForm],
    maker: KeyMaker,
    place: Place,
) -> QuickRow:
    """`fields` are those of the record in the order of its schema; bytes stand in every record as
    they are. `width` is the number of cells. Own keys are not coded, and text or whole numbers."""
    constants: dict[str, Any] = {
        "ONE": ONE_BYTE,
        "SIZES": _SIZES,
        "UNFIT": (NotPlain, *UNFIT),
        "canonical": canonical,
        "forms": tuple(forms),
        "int": int,
        "long_bytes": long_bytes,
        "sealed": maker.sealed,
        "str": str,
        "there": place.constant,
    }
    src = Source()
    with src.block("def row(raw, cells):"):
        with src.block("try:"):
            src.add(f"{''.join(f'k{i}, ' for i in range(len(key_types)))}= raw")
            src.add(f"{''.join(f'c{i}, ' for i in range(width))}= cells")
            for i, kind in enumerate(key_types):
                _write_key(src, i, kind)
            parts = [_write_field(src, i, f, place, constants) for i, f in enumerate(fields)]
            key = " + ".join(f"k{i}" for i in range(len(key_types)))
            src.add(f"return sealed({key}), there, b''.join(({''.join(parts)}))")
        with src.block("except UNFIT:"):
            src.add("return None  # the rules find out what it is, and say it")
    return compiled(src.text(), "row", constants)


def _write_key(src: Source, i: int, kind: Type) -> None:
    """A part that is in its canonical form as it was typed; any other is a variant, or none."""
    k = f"k{i}"
    number = (kind.optional[2] if kind.optional else kind).kind != "string"
    with src.block(f"if {k}.__class__ is int:"):
        src.add(f"{k} = str({k})")
    with src.block(f"elif {k}.__class__ is not str:"):
        src.add("return None")
    if number:  # as it would be written: no zeros ahead, which are another way to type it
        with src.block(f"elif not ({k}.isascii() and {k}.isdigit()) or {k}[0] == '0' != {k}:"):
            src.add("return None")
    usual = f"{k}.isalnum() and {k}.isascii() and {k}.upper() == {k}"
    with src.block(f"elif not ({usual}) and (not {k} or canonical({k}, forms) != {k}):"):
        src.add("return None")
    src.add(f"{k} = {k}.encode()", f"n = len({k})")
    src.add(f"{k} = (SIZES[n] if n < 64 else n.to_bytes(4, 'big')) + {k}")


def _write_field(
    src: Source, i: int, field: Field | bytes, place: Place, constants: dict[str, Any]
) -> str:
    """Lines that make the bytes of one field; returns them as items of a tuple."""
    if isinstance(field, bytes):
        constants[f"f{i}"] = field
        return f"f{i}, "
    x = "None" if field.at is None else f"c{field.at}"
    inner = field.type.optional[2] if field.type.optional else field.type
    if i == place.field:
        return _write_place(src, i, x, field, place, constants)
    make = _maker_of(field)
    if inner.kind == "string" and not field.is_coded:
        constants[f"make{i}"] = make
        _write_text(src, i, x, field, constants)
        return f"n{i}, f{i}, "
    if inner.kind in ("int", "long") and inner.logical is None and not field.is_coded:
        constants[f"make{i}"] = make
        _write_number(src, i, x, field, inner, constants)
        return f"f{i}, "
    if field.is_coded or inner.kind in ("enum", "boolean") or inner.logical == "date":
        _write_remembered(src, i, x, make, constants)
        return f"f{i}, "
    if inner.logical is not None and "timestamp" in inner.logical:
        _write_remembered(src, i, x, make, constants, _FEW_REMEMBERED)
        return f"f{i}, "
    constants[f"make{i}"] = make
    src.add(f"f{i} = make{i}({x})")
    return f"f{i}, "


def _maker_of(field: Field) -> Callable[[Any], bytes]:
    convert, encode, check = field.convert, field.encode, field.check

    def make(own: Any) -> bytes:
        value = convert(own)
        if check is not None and not check(value):
            raise NotPlain
        if own.__class__ is str:
            own.encode()  # raises for what is not Unicode, also where no text is made of it
        return encode(value)

    return make


def _write_text(src: Source, i: int, x: str, field: Field, constants: dict[str, Any]) -> None:
    heads, lead = "ONE", ""
    optional = field.type.optional
    with src.block(f"if {x}.__class__ is str:"):
        if field.check is not None:
            constants[f"check{i}"] = field.check
            with src.block(f"if not check{i}({x}):"):
                src.add("return None")
        src.add(f"f{i} = {x}.encode()", f"n = len(f{i})")
        if optional is not None:
            heads, lead = f"HEADS{i}", f"{ONE_BYTE[optional[1]]!r} + "
            constants[heads] = tuple(ONE_BYTE[optional[1]] + n for n in ONE_BYTE)
        src.add(f"n{i} = {heads}[n] if n < 64 else {lead}long_bytes(n)")
    if optional is not None:
        with src.block(f"elif {x} is None:"):
            src.add(f"n{i} = {ONE_BYTE[optional[0]]!r}", f"f{i} = b''")
    with src.block("else:"):
        src.add(f"n{i} = b''", f"f{i} = make{i}({x})")


def _write_number(
    src: Source, i: int, x: str, field: Field, inner: Type, constants: dict[str, Any]
) -> None:
    bits = 31 if inner.kind == "int" else 63
    lead = b"" if field.type.optional is None else ONE_BYTE[field.type.optional[1]]
    src.add(f"x = {x}")
    with src.block("if x.__class__ is str and len(x) < 19 and x.isdigit() and x.isascii():"):
        src.add("x = int(x)")
    within = f"x.__class__ is int and {-(1 << bits)} <= x < {1 << bits}"
    if field.check is not None:
        constants[f"check{i}"] = field.check
        within += f" and check{i}(x)"
    with src.block(f"if {within}:"):
        src.add(f"f{i} = {lead!r} + long_bytes(x)")
    with src.block("else:"):
        src.add(f"f{i} = make{i}({x})")


def _write_remembered(
    src: Source,
    i: int,
    x: str,
    make: Callable[[Any], Any],
    constants: dict[str, Any],
    most: int = _MOST_REMEMBERED,
) -> None:
    """Looked up by the own value. Apart by class: 1, 1.0 and True are one key of a dict."""
    texts: dict[Any, Any] = {}
    numbers: dict[Any, Any] = {}
    constants[f"texts{i}"], constants[f"numbers{i}"] = texts.get, numbers.get
    by_class: dict[type, dict[Any, Any]] = {str: texts, type(None): texts, int: numbers}
    constants[f"make{i}"] = _remembering(make, by_class, most)
    with src.block(f"if {x}.__class__ is int:"):
        src.add(f"f{i} = numbers{i}({x}) or make{i}({x})")
    with src.block(f"elif {x} is None or {x}.__class__ is str:"):
        src.add(f"f{i} = texts{i}({x}) or make{i}({x})")
    with src.block("else:"):
        src.add(f"f{i} = make{i}({x})")


def _remembering(
    make: Callable[[Any], Any], by_class: Mapping[type, dict[Any, Any]], most: int
) -> Callable[[Any], Any]:
    def made(own: Any) -> Any:
        value = make(own)
        known = by_class.get(own.__class__)
        if known is not None:
            if len(known) >= most:
                known.clear()
            known[own] = value
        return value

    return made


def _write_place(
    src: Source, i: int, x: str, field: Field, place: Place, constants: dict[str, Any]
) -> str:
    make = _maker_of(field)

    def named(own: Any) -> tuple[bytes, bytes]:
        return place.name(field.convert(own)), make(own)

    _write_remembered(src, i, x, named, constants)
    src.add(f"there, f{i} = f{i}")
    return f"f{i}, "

"""RecordCodec: the records of one schema (or one projection of it), as bytes, slices and values.

Source for each schema is written once and compiled: see `wire.walk` for how bytes are guarded and
split. fastavro is the slow path for fields that are more than one value (arrays, maps, records,
unions of several types); what it writes is walked before it is believed, what it reads was walked
before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import fastavro

from deptbus.change import RecordFields
from deptbus.errors import WireRefused
from deptbus.wire.guard import MAX_RECORD_BYTES, TOO_LARGE, refused_value
from deptbus.wire.schemas import project
from deptbus.wire.types import FieldType, Type, resolve
from deptbus.wire.values import Decode, Encode, Unfit, decoder, encoder
from deptbus.wire.varint import ONE_BYTE, long_bytes, malformed, text_at
from deptbus.wire.walk import FLUSH, Source, compiled, write_fields, write_refusals

# What Python, fastavro and the walk over its bytes raise for a value that does not fit.
UNFIT = (
    Unfit,
    WireRefused,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    struct.error,
    EOFError,
    RecursionError,
)


class RecordCodec:
    """Bytes <-> slices <-> values of one record schema, or of some of its fields.

    `names` are the fields of the projection in the order of the schema. Not bound to a thread; safe
    to share, as it holds nothing but its schema.
    """

    def __init__(
        self,
        record_schema: Mapping[str, Any],
        fields: Sequence[str] | None = None,
        *,
        logical: bool = True,
    ) -> None:
        """Raises WireRefused (`bad_schema`), and KeyError for a field that the schema has not.

        Without `logical`, dates, times and decimals are what they are on the wire: numbers, bytes.
        """
        self.schema: dict[str, Any] = (
            dict(record_schema) if fields is None else project(record_schema, fields)
        )
        self.type = resolve(self.schema, logical=logical)
        self.names: tuple[str, ...] = tuple(f.name for f in self.type.fields)
        coders = [self._coders(f) for f in self.type.fields]
        # One for each field; they raise UNFIT.
        self.encoders: tuple[Encode, ...] = tuple(encode for encode, _ in coders)
        self._encode = _compile_encode(self.type, self.encoders)
        self._decode = _compile_decode(self.type, [decode for _, decode in coders])
        self._split = _compile_split(self.type)

    def split(self, body: bytes) -> RecordFields:
        """Guard the bytes of one record and cut them into one slice per field.

        Raises WireRefused (`too_large`, `malformed`).
        """
        if len(body) > MAX_RECORD_BYTES:
            raise WireRefused(TOO_LARGE, "the record is larger than the cap")
        fields: RecordFields = self._split(body)
        return fields

    def encode(self, values: Mapping[str, Any]) -> RecordFields:
        """Slices of a mapping of field name to value (see `wire.values` for what is taken).

        A field that is absent takes the default of the schema; names that the schema does not have
        are ignored. Raises WireRefused (`bad_value`), naming the first field that does not fit.
        """
        try:
            fields: RecordFields = self._encode(values)
        except UNFIT:
            pass
        else:
            return fields
        # Again, one by one, to tell which field it was, or to fill in defaults.
        return tuple(self.encode_field(i, values) for i in range(len(self.names)))

    def encode_field(self, index: int, values: Mapping[str, Any]) -> bytes:
        """The slice of one field, as `encode` makes it. Raises WireRefused (`bad_value`)."""
        field, encode = self.type.fields[index], self.encoders[index]
        why = "does not fit its type"
        if field.name in values:
            value = values[field.name]
        elif field.has_default:
            return self._default(field, encode)
        else:
            raise refused_value(field.name, "is missing")
        try:
            return encode(value)
        except Unfit as unfit:
            why = str(unfit)
        except UnicodeEncodeError:
            why = "is not valid Unicode"
        except UNFIT:
            pass
        # Raised outside the except blocks: what Python and fastavro say holds the value.
        raise refused_value(field.name, why)

    def _default(self, field: FieldType, encode: Encode) -> bytes:
        try:
            return encode(_default_value(field.type, field.default))
        except UNFIT:
            pass
        raise refused_value(field.name, "is missing, and its default does not fit its type")

    def decode(self, fields: RecordFields) -> dict[str, Any]:
        """Values by field name, of slices that `split` (or a decoded change) gave."""
        if len(fields) != len(self.names):
            raise malformed()
        try:
            values: dict[str, Any] = self._decode(fields)
        except UNFIT:
            pass
        else:
            return values
        raise malformed()

    def _coders(self, field: FieldType) -> tuple[Encode, Decode]:
        encode, decode = encoder(field.type), decoder(field.type)
        if encode is not None and decode is not None:
            return encode, decode
        return _slow_coders(self.schema, field, self.type)


def _slow_coders(schema: Mapping[str, Any], field: FieldType, t: Type) -> tuple[Encode, Decode]:
    """fastavro for one field: a record of this field alone has the field's very bytes."""
    parsed = fastavro.parse_schema(project(schema, [field.name]))
    walk = _compile_split(Type("record", fields=(field,)))
    name = field.name

    def decode(f: bytes) -> Any:
        record = fastavro.schemaless_reader(BytesIO(f), parsed, None)
        assert isinstance(record, dict)
        return record[name]

    def encode(x: Any) -> bytes:
        out = BytesIO()
        fastavro.schemaless_writer(out, parsed, {name: x}, strict=True)
        (only,) = walk(out.getvalue())
        # fastavro guesses: it takes empty bytes for a list, and a time without a zone for one of
        # this machine's. What does not read back as itself is not sent.
        if decode(only) != (list(x) if isinstance(x, tuple) else x):
            raise Unfit("does not fit its type without a guess")
        return bytes(only)

    return encode, decode


def _default_value(t: Type, default: Any) -> Any:
    """A default is written in JSON: bytes as text of code points, and of a union's first branch."""
    if t.kind == "union":
        return _default_value(t.branches[0], default)
    if t.kind in ("bytes", "fixed") and isinstance(default, str):
        return default.encode("latin-1")
    return default


def _compile_split(t: Type) -> Callable[[bytes], RecordFields]:
    src = Source()
    with src.block("def split(v):"):
        with src.block("try:"):
            src.add("e = len(v)", "p = a = 0")
            cuts = write_fields(src, t)
            src.add(FLUSH)
            with src.block("if p == e:"):
                src.add(f"return {cuts}")
        write_refusals(src)
    return compiled(src.text(), "split", {})


def _compile_encode(t: Type, encoders: Sequence[Encode]) -> Callable[[Mapping[str, Any]], Any]:
    constants: dict[str, Any] = {"ONE": ONE_BYTE, "long_bytes": long_bytes, "str": str}
    src = Source()
    with src.block("def encode(values):"):
        for i, field in enumerate(t.fields):
            src.add(f"x = values[{field.name!r}]")
            optional = field.type.optional
            inner = optional[2] if optional else field.type
            constants[f"enc{i}"] = encoders[i]
            if inner.kind == "string":
                _write_text(src, i, optional, constants)
            else:
                src.add(f"f{i} = enc{i}(x)")
        src.add(f"return ({''.join(f'f{i}, ' for i in range(len(t.fields)))})")
    return compiled(src.text(), "encode", constants)


def _write_text(
    src: Source, i: int, optional: tuple[int, int, Type] | None, constants: dict[str, Any]
) -> None:
    """Text is most of what registers hold: written in place, without a call."""
    heads = "ONE"
    lead = ""
    if optional is not None:
        null, other, _ = optional
        heads, lead = f"HEAD{other}", f"{ONE_BYTE[other]!r} + "
        constants[heads] = tuple(ONE_BYTE[other] + n for n in ONE_BYTE)
        with src.block("if x is None:"):
            src.add(f"f{i} = {ONE_BYTE[null]!r}")
        word = "elif"
    else:
        word = "if"
    with src.block(f"{word} x.__class__ is str:"):
        src.add("x = x.encode()", "n = len(x)")
        src.add(f"f{i} = ({heads}[n] if n < 64 else {lead}long_bytes(n)) + x")
    with src.block("else:"):
        src.add(f"f{i} = enc{i}(x)")


def _compile_decode(t: Type, decoders: Sequence[Decode]) -> Callable[[RecordFields], Any]:
    constants: dict[str, Any] = {"text_at": text_at}
    src = Source()
    with src.block("def decode(f):"):
        src.add("return {")
        for i, field in enumerate(t.fields):
            optional = field.type.optional
            inner = optional[2] if optional else field.type
            if inner.kind == "string" and optional is None:
                value = f"f[{i}][1:].decode() if f[{i}][0] < 128 else text_at(f[{i}], 0)[0]"
            elif inner.kind == "string" and optional is not None:
                null = 2 * optional[0]
                value = (
                    f"None if f[{i}][0] == {null} else "
                    f"f[{i}][2:].decode() if f[{i}][1] < 128 else text_at(f[{i}], 1)[0]"
                )
            else:
                constants[f"dec{i}"] = decoders[i]
                value = f"dec{i}(f[{i}])"
            src.add(f"    {field.name!r}: {value},")
        src.add("}")
    return compiled(src.text(), "decode", constants)

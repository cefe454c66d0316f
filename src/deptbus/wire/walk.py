"""Writes, for one type, the Python source of a strict walk over its bytes.

The walk is guard and splitter in one (design, section 4): it moves over the record once, checks
everything that Avro and this bus ask of it, and never makes a value of what is only passed on.

What the written code relies on:
- `v` holds the whole record (bytes), `p` the offset, `e` the length. `p` only ever grows. A length
  that points beyond the end is not compared with `e` on the spot: the next look at `v[p]` raises
  IndexError, and at the very end `p != e` is refused. Loops are bounded on the spot (`read_count`).
- `a` is where bytes begin that are not yet known to be UTF-8. Lengths below 64, indexes and small
  numbers are ASCII bytes, and no UTF-8 sequence can cross an ASCII byte, so one `decode` over a run
  of such fields is valid exactly when each text in it is. Everything else ends the run ("flush").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deptbus.wire import varint
from deptbus.wire.types import Type

# Within what Python's datetime can hold; the reference implementation cannot read beyond either.
_DAYS = (-719162, 2932896)
_MICROS = (-62135596800000000, 253402300799999999)
LOGICAL_RANGES = {
    "date": _DAYS,
    "time-millis": (0, 86_399_999),
    "time-micros": (0, 86_399_999_999),
    "timestamp-millis": (_MICROS[0] // 1000, _MICROS[1] // 1000),
    "timestamp-micros": _MICROS,
    "local-timestamp-millis": (_MICROS[0] // 1000, _MICROS[1] // 1000),
    "local-timestamp-micros": _MICROS,
}

FLUSH = "v[a:p].decode()"

# What the written code may call: nothing else is in its reach.
RUNTIME: dict[str, Any] = {
    "bounded_end": varint.bounded_end,
    "check_decimal": varint.check_decimal,
    "check_fixed_decimal": varint.check_fixed_decimal,
    "check_double": varint.check_double,
    "check_float": varint.check_float,
    "instant_end": varint.instant_end,
    "int_end": varint.int_end,
    "long_end": varint.long_end,
    "malformed": varint.malformed,
    "read_count": varint.read_count,
    "read_length": varint.read_length,
    "read_long": varint.read_long,
}


class Source:
    """Lines of one function being written."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._names = 0
        self._indent = 0

    def add(self, *lines: str) -> None:
        self._lines += ["    " * self._indent + line for line in lines]

    def block(self, head: str) -> _Block:
        """`with source.block("if x:"):` indents what is added within."""
        self.add(head)
        return _Block(self)

    def fresh(self, stem: str) -> str:
        self._names += 1
        return f"{stem}_{self._names}"

    def deeper(self, by: int) -> None:
        self._indent += by

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


class _Block:
    def __init__(self, source: Source) -> None:
        self._source = source

    def __enter__(self) -> None:
        self._source.deeper(1)

    def __exit__(self, *_: object) -> None:
        self._source.deeper(-1)


def compiled(text: str, name: str, constants: dict[str, Any]) -> Callable[..., Any]:
    """The function `name` of source that this package wrote.

    No text of a schema is ever code in it: names enter as literals made by `repr` of a checked
    name, symbols as constants.
    """
    scope: dict[str, Any] = {"__builtins__": _BUILTINS, **RUNTIME, **constants}
    exec(compile(text, f"<deptbus {name}>", "exec"), scope)
    made: Callable[..., Any] = scope[name]
    return made


_BUILTINS = {
    "IndexError": IndexError,
    "UnicodeDecodeError": UnicodeDecodeError,
    "len": len,
    "range": range,
    "set": set,
}


def write_walk(src: Source, t: Type) -> None:
    """Lines that move `p` over one value of `t`."""
    _WRITERS[t.kind](src, t)


def write_fields(src: Source, t: Type) -> str:
    """Lines that walk over a record's fields from `p` on; returns the tuple of slices as source."""
    src.add("p0 = p")
    for i, field in enumerate(t.fields):
        write_walk(src, field.type)
        src.add(f"p{i + 1} = p")
    cuts = "".join(f"v[p{i}:p{i + 1}], " for i in range(len(t.fields)))
    return f"({cuts})"


def write_refusals(src: Source) -> None:
    """The end of every walk: whatever was wrong, one refusal that holds none of the bytes.

    It is raised outside the except blocks, because the codec's own error carries the text.
    """
    with src.block("except IndexError:"):
        src.add("pass")
    with src.block("except UnicodeDecodeError:"):
        src.add("pass")
    src.add("raise malformed()")


def write_refused_at(src: Source, then: str) -> None:
    """As `write_refusals`, where somebody else says what is wrong. The scope has `WireRefused`."""
    with src.block("except (IndexError, UnicodeDecodeError, WireRefused):"):
        src.add(then)


def _null(src: Source, t: Type) -> None:
    src.add("pass")


def _boolean(src: Source, t: Type) -> None:
    with src.block("if v[p] > 1:"):
        src.add("raise malformed()")
    src.add("p += 1")


def _number(src: Source, t: Type) -> None:
    if t.logical in LOGICAL_RANGES:
        least, most = LOGICAL_RANGES[t.logical]
        checked = "instant_end" if t.logical.endswith("timestamp-micros") else "bounded_end"
        end = f"{checked}(v, p, {least}, {most})"
    else:
        least, most = -(1 << 31), (1 << 31) - 1
        end = f"{t.kind}_end(v, p)"
    if least >= 0:  # a time of day: half of what a byte can say is negative
        src.add(FLUSH, f"p = a = {end}")
        return
    # Up to three bytes are read in place: a day, a count, a year. The last byte is not 0 (that
    # would be overlong) and so small that the number lies in its range, whatever the others are.
    third = min(128, (min(2 * most, -2 * least - 1) + 1) >> 14)
    with src.block("if v[p] < 128:"):
        src.add("p += 1")
    with src.block("elif 0 < v[p + 1] < 128:"):
        src.add(FLUSH, "p = a = p + 2")
    with src.block(f"elif v[p + 1] and 0 < v[p + 2] < {third}:"):
        src.add(FLUSH, "p = a = p + 3")
    with src.block("else:"):
        src.add(FLUSH, f"p = a = {end}")


def _float(src: Source, t: Type) -> None:
    size, exponent = (4, 0x80) if t.kind == "float" else (8, 0xF0)
    src.add(FLUSH)
    with src.block(f"if v[p + {size - 1}] & 127 == 127 and v[p + {size - 2}] >= {exponent}:"):
        src.add(f"check_{t.kind}(v, p)")
    src.add(f"p += {size}", "a = p")


def _string(src: Source, t: Type) -> None:
    src.add("n = v[p]")
    with src.block("if n & 129:"):
        src.add(FLUSH)
        with src.block("if not n & 1 and 0 < v[p + 1] < 128:"):  # up to 8,191 bytes, in place
            src.add("a = p + 2", "p = a + ((n & 127 | v[p + 1] << 7) >> 1)")
        with src.block("else:"):
            src.add("n, a = read_length(v, p)", "p = a + n")
    with src.block("else:"):
        src.add("p += 1 + (n >> 1)")


def _bytes(src: Source, t: Type) -> None:
    src.add(FLUSH, "n = v[p]")
    with src.block("if n & 129:"):
        src.add("n, p = read_length(v, p)")
    with src.block("else:"):
        src.add("n >>= 1", "p += 1")
    if t.logical == "decimal":
        bound = 10**t.precision
        # So many bytes that no number in them can have too many digits.
        safe = bound.bit_length() // 8
        with src.block(f"if not 0 < n <= {safe}:"):
            src.add(f"check_decimal(v, p, p + n, {bound})")
    src.add("p += n", "a = p")


def _fixed(src: Source, t: Type) -> None:
    src.add(FLUSH)
    if t.logical == "decimal":
        src.add(f"check_fixed_decimal(v, p, p + {t.size}, {10**t.precision})")
    src.add(f"p += {t.size}", "a = p")


def _enum(src: Source, t: Type) -> None:
    most = 2 * (len(t.symbols) - 1)
    if most < 128:
        src.add("n = v[p]")
        with src.block(f"if n & 1 or n > {most}:"):
            src.add("raise malformed()")
        src.add("p += 1")
    else:
        src.add(FLUSH, f"p = a = bounded_end(v, p, 0, {len(t.symbols) - 1})")


def _union(src: Source, t: Type) -> None:
    index = src.fresh("b")
    src.add(f"{index} = v[p]", "p += 1")
    # A record's values are there more often than not, so null is asked for last.
    order = sorted(range(len(t.branches)), key=lambda i: t.branches[i].kind == "null")
    word = "if"
    for i in order:
        with src.block(f"{word} {index} == {2 * i}:"):
            write_walk(src, t.branches[i])
        word = "elif"
    with src.block("else:"):
        src.add("raise malformed()")


def _collection(src: Source, t: Type) -> None:
    assert t.items is not None
    count, keys, start = src.fresh("c"), src.fresh("k"), src.fresh("s")
    is_map = t.kind == "map"
    least = t.items.least_bytes + 1 if is_map else t.items.least_bytes
    with src.block("if v[p]:"):
        src.add(FLUSH, f"{count}, p = read_count(v, p, e, {least})", "a = p")
        if is_map:
            src.add(f"{keys} = set()")
        with src.block(f"for _ in range({count}):"):
            if is_map:
                src.add(f"{start} = p")
                _string(src, t)
                src.add(f"{keys}.add(v[{start}:p])")
            write_walk(src, t.items)
        if is_map:
            with src.block(f"if len({keys}) != {count}:"):
                src.add("raise malformed()")
        with src.block("if v[p]:"):
            src.add("raise malformed()")
    src.add("p += 1")


def _record(src: Source, t: Type) -> None:
    if not t.fields:
        src.add("pass")
    for field in t.fields:
        write_walk(src, field.type)


_WRITERS: dict[str, Callable[[Source, Type], None]] = {
    "null": _null,
    "boolean": _boolean,
    "int": _number,
    "long": _number,
    "float": _float,
    "double": _float,
    "string": _string,
    "bytes": _bytes,
    "fixed": _fixed,
    "enum": _enum,
    "array": _collection,
    "map": _collection,
    "union": _union,
    "record": _record,
}

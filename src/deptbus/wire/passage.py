"""Change bytes -> what is sent on, in one guarded pass over a run of records and without a noun.

Most changes of a run come from one sender, lie at few places and go the same few ways. What
depends on that alone (the decision, the envelope around the record) is learnt once from a decoded
change and found again by the change's very bytes: Avro encodings are prefix-free, so bytes that
begin with an encoding that was read before hold the same values. The rest of a change is walked,
under the same guard as everywhere (`wire.walk`), and copied: version and time as one slice, the
record as slices of the fields that a projection keeps.

A record that is not of this kind, not known or not valid ends the run: its place is returned, and
`Codecs.decode_change` says what it is, or why it is none. Nothing of it has been sent on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

from deptbus.errors import WireRefused
from deptbus.wire.envelope import Memory, job_at, natural_at, texts_at
from deptbus.wire.guard import KEY_BYTES, MAX_CHANGE_BYTES, TOKEN_BYTES
from deptbus.wire.types import Type
from deptbus.wire.walk import FLUSH, Source, compiled, write_fields, write_refused_at

MOST_WAYS = 20_000

Pair = tuple[bytes | None, bytes]  # key, value
Cut = Callable[[bytes, tuple[int, ...]], bytes]


class Letter(NamedTuple):
    """One delivery but for what is its change's own: version and time go between the two parts."""

    before: bytes
    after: bytes
    boxes: tuple[int, ...]  # where it goes


class Way(NamedTuple):
    """Where changes with one beginning and one end go.

    `letters` are grouped by what is cut out of the record, so that it is cut once; None: nothing.
    `first` and `last`: the offsets within which this holds.
    """

    is_upsert: bool
    letters: tuple[tuple[Cut | None, tuple[Letter, ...]], ...]
    first: int = 0
    last: int = (1 << 63) - 1


W = TypeVar("W")


class Ways(Generic[W]):
    """What was learnt: sender's bytes -> the other bytes that decide -> way. Bounded."""

    def __init__(self) -> None:
        self.senders: dict[bytes, dict[bytes, W]] = {}
        self._count = 0

    def learn(self, sender: bytes, end: bytes, way: W) -> None:
        if self._count >= MOST_WAYS:
            self.forget()
        self.senders.setdefault(sender, {})[end] = way
        self._count += 1

    def forget(self) -> None:
        self.senders.clear()
        self._count = 0


# carry(records, first, end, senders, boxes) -> the place of the first record that was not sent on,
# or `end`. Records have key, value and offset; boxes[n] is a list of pairs.
Passage = Callable[[Sequence[Any], int, int, dict[bytes, dict[bytes, Way]], Any], int]

_SENDER = f"""
if known is not None and v.startswith(known, 5):
    p = behind
else:
    p = {8 + 1 + TOKEN_BYTES} + (v[7] >> 1) if v[6] == 0 else {9 + 1 + TOKEN_BYTES} + (v[8] >> 1)
    if v[p - {TOKEN_BYTES + 1}] > 127:
        p += 1
    known = v[5:p]
    behind = p
    ends = senders.get(known)
    if ends is None:
        return i
q = p
"""


def _skip_natural() -> str:
    """Source that moves over a count: up to four bytes in place."""
    return """
n = v[p]
if n & 1:
    return i
if n < 128:
    p += 1
elif 0 < v[p + 1] < 128:
    p += 2
elif v[p + 1] and 0 < v[p + 2] < 128:
    p += 3
elif v[p + 1] and v[p + 2] and 0 < v[p + 3] < 128:
    p += 4
else:
    n, p = natural_at(v, p)
"""


_SKIP_TIME = """
if v[p + 3:p + 8] in times and not v[p] & 1 and v[p] & v[p + 1] & v[p + 2] & 128:
    p += 8
else:
    n, p = read_time(v, p)
"""

# Division, former divisions, cause, job, policy. Lengths of one byte are taken as they come: where
# that is wrong the slice is not one that was learnt.
_END = """
d = p
p += 1 + (v[p] >> 1)
if v[p]:
    n, p = texts_at(v, p)
else:
    p += 1
p += 1
if v[p]:
    n, p = job_at(v, p)
else:
    p += 1
p += 2 if v[p] > 127 else 1
way = ends.get(v[d:p])
if way is None:
    return i
"""

_DELIVER = """
if letters:
    head = v[q:u]
    for cut, group in letters:
        if cut is None:
            for before, after, targets in group:
                pair = key, before + head + after
                for box in targets:
                    boxes[box].append(pair)
        else:
            body = cut(v, {offsets})
            for before, after, targets in group:
                pair = key, before + head + after + body
                for box in targets:
                    boxes[box].append(pair)
"""

# Whole and unchanged, to the one box.
_PASS_ON = """
if not first <= record.offset <= last:
    return i
boxes[0].append((key, v))
"""


def passage(frame: bytes, record: Type, memory: Memory, *, whole: bool) -> Passage:
    """The pass over changes of one schema, whose frame is `frame`. `whole`: valid changes are
    sent on as they are, to box 0; otherwise as the deliveries that their way names."""
    ends_of_fields = ", ".join(f"p{n}" for n in range(len(record.fields) + 1))
    deliver = _PASS_ON if whole else _DELIVER.format(offsets=f"({ends_of_fields},)")
    way = "is_upsert, letters, first, last = way"
    return written(frame, record, memory, arguments="boxes", way=way, then=deliver)


def written(
    frame: bytes,
    record: Type,
    memory: Memory,
    *,
    arguments: str,
    way: str,
    then: str,
    version: str = "",
    constants: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[..., int]:
    """A pass over changes that does `then` with each whose way is known: see `Passage`.

    `arguments`: names of what follows `senders`. `way`: takes the way apart; it says `is_upsert`.
    `version`: source that reads it where it is wanted. `then` may use what these name, `key`, `v`,
    and, of an upsert, the offsets of its fields, `p0` up to the record's end.
    """
    src = Source()
    with src.block(f"def carry(records, i, end, senders, {arguments}):"):
        src.add("known = None", "behind = 0", "ends = None")
        with src.block("try:"), src.block("for i in range(i, end):"):
            src.add("record = records[i]", "key = record.key", "v = record.value")
            with src.block(
                f"if key.__class__ is not bytes or len(key) != {KEY_BYTES} or "
                f"v.__class__ is not bytes or not v.startswith(frame):"
            ):
                src.add("return i")
            src.add("e = len(v)")
            with src.block(f"if e > {MAX_CHANGE_BYTES}:"):
                src.add("return i")
            read = version or _skip_natural()
            for part in (_SENDER, read, _SKIP_TIME, "u = p", _skip_natural(), _END, way):
                src.add(*part.strip().splitlines())
            src.add("n = v[p]", "p += 1", "a = p")
            with src.block("if is_upsert:"):
                with src.block("if n != 2:"):
                    src.add("return i")
                write_fields(src, record)
                src.add(FLUSH)
            with src.block("elif n:"):
                src.add("return i")
            with src.block("if p != e:"):
                src.add("return i")
            src.add(*then.strip().splitlines())
        write_refused_at(src, "return i")
        src.add("return end")
    return compiled(
        src.text(),
        "carry",
        {
            "WireRefused": WireRefused,
            "bytes": bytes,
            "frame": frame,
            "job_at": job_at,
            "natural_at": natural_at,
            "read_time": memory.time,
            "texts_at": texts_at,
            "times": memory.times,
            **constants,
        },
    )


def cut_of(places: Sequence[int]) -> Cut:
    """Takes the fields at these places (ascending) out of a record: neighbours as one slice."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place:
            runs[-1] = runs[-1][0], place + 1
        else:
            runs.append((place, place + 1))
    slices = [f"v[p[{first}]:p[{end}]]" for first, end in runs]
    if not slices:
        made = 'b""'
    elif len(slices) <= 3:
        made = " + ".join(slices)
    else:
        made = f'b"".join(({", ".join(slices)}))'
    return compiled(f"def cut(v, p):\n    return {made}\n", "cut", {})

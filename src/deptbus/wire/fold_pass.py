"""Change bytes -> what a proof keeps of them: of each key the highest version and a digest, in one
guarded pass over a run of records and without a noun.

As `wire.passage`, of which it has the walk: what depends on a change's beginning and end alone (is
it given, whole or in part; under which name is it digested) is learnt once from a decoded change.
What the pass does not know or finds not valid ends the run, and the decoder says what it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from deptbus.wire.envelope import Memory, natural_source
from deptbus.wire.passage import Cut, written
from deptbus.wire.types import Type

VERSION_BYTES = 8
pack_version = struct.Struct(">Q").pack

# What is kept of a key: its version (8 bytes, big endian, so that bytes compare as versions do),
# then what its way makes of it.
Kept = dict[bytes, bytes]


class FoldWay(NamedTuple):
    """What is kept of changes with one beginning and one end, behind the version.

    `begun` is what the digest of the fields that `cut` takes out begins with, `around` what a
    digest over that one begins with (None: there is none); then comes `tail`. Without `begun` it
    is `tail` alone. `is_kept`: False for what is none of ours.
    """

    is_upsert: bool
    is_kept: bool
    begun: blake2b | None
    cut: Cut | None
    around: blake2b | None
    tail: bytes


# fold(records, first, end, senders, kept) -> the place of the first record that was not folded, or
# `end`. Records have key and value.
FoldPass = Callable[[Sequence[Any], int, int, dict[bytes, dict[bytes, FoldWay]], Kept], int]

# Among equal versions (one record, delivered twice) the last counts, as everywhere.
_FOLD = """
if is_kept:
    version = pack(version)
    held = kept.get(key)
    if held is None or held[:8] <= version:
        if begun is None:
            kept[key] = version + tail
        else:
            made = begun.copy()
            made.update(cut(v, {offsets}))
            if around is not None:
                inner = made.digest()
                made = around.copy()
                made.update(inner)
            kept[key] = version + made.digest() + tail
"""


def fold_pass(frame: bytes, record: Type, memory: Memory) -> FoldPass:
    """The pass over changes of one schema, whose frame is `frame`."""
    offsets = ", ".join(f"p{n}" for n in range(len(record.fields) + 1))
    return written(
        frame,
        record,
        memory,
        arguments="kept",
        way="is_upsert, is_kept, begun, cut, around, tail = way",
        version=natural_source("version"),
        then=_FOLD.format(offsets=f"({offsets},)"),
        constants={"pack": pack_version},
    )

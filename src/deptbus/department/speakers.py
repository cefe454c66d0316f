"""Pure: which row speaks for a bus key, and what would be published of it. Rule 5 of `publication`,
as a walk over a table sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from deptbus.department.capture import HOLDS, PARKED, Known, OutboxRow, RawKey
from deptbus.department.judge import Found
from deptbus.department.publication import KeyOf, Publication
from deptbus.department.raw import raw_of, raw_text
from deptbus.wire.digest import record_digest
from deptbus.wire.varint import text_at


class Standing(Enum):
    """What a row is to its key."""

    SPEAKS = "speaks"  # it holds the key, as far as the source knows
    NEW = "new"  # a variant that nobody has looked at, of a key that no row holds
    PARKED = "parked"  # another row holds the key, and this one is known to wait
    UNSEEN = "unseen"  # another row holds the key, and nobody has looked at this one


class Speakers:
    """One walk over a dataset's rows; `waiting`: keys with variants whose holder was not met yet,
    and that holder."""

    def __init__(self) -> None:
        self._spoken: set[bytes] = set()  # keys with variants whose holder was met
        self.waiting: dict[bytes, RawKey] = {}

    def standing(
        self, row: OutboxRow, found: Found, key: bytes, remembered: Known | None
    ) -> Standing:
        """`found`: what `find_keys` said of the row; `remembered`: what is of its key."""
        if remembered is None or not remembered.variants:
            is_plain = not isinstance(found, KeyOf) or found.plain is None
            return Standing.SPEAKS if is_plain else Standing.NEW
        holder, raw = holder_of(remembered), raw_text(row.raw)
        if holder is None:
            return Standing.NEW
        if holder == raw:
            self._spoken.add(key)
            self.waiting.pop(key, None)
            return Standing.SPEAKS
        if key not in self._spoken:
            self.waiting[key] = raw_of(holder)
        return Standing.PARKED if (raw, PARKED) in remembered.variants else Standing.UNSEEN


class Published(NamedTuple):
    """A row as it is published now: the place, and the digest of its record (empty: it has moved
    out)."""

    place: str
    digest: bytes


def published(publication: Publication, row: OutboxRow, found: Found) -> Published | None:
    """None: the row is refused, and what was published before stays."""
    if not isinstance(found, KeyOf):
        return Published(_text(found[1]), _digest(publication, (found[2],)))
    state = publication.published(row)
    if state is None:
        return None
    place, record = state
    return Published(place, b"" if record is None else _digest(publication, record))


def _digest(publication: Publication, record: Sequence[bytes]) -> bytes:
    return record_digest(publication.dataset, publication.schema_version, record)


def key_in(found: Found) -> bytes | None:
    return found.key if isinstance(found, KeyOf) else found[0]


def holder_of(remembered: Known) -> str | None:
    """`raw_text` of the row that holds a key with variants."""
    return next((v.raw for v in remembered.variants if v.state == HOLDS), None)


@lru_cache(maxsize=4096)
def _text(encoded: bytes) -> str:
    """A place, of its Avro bytes: few places, many rows."""
    return text_at(encoded, 0)[0]

"""Pure: what a source tells of its table, what the canonical topic has, and where the two differ.

Rules, each with a test:

1. A key that the table alone has is `missing` on the bus, one that the bus alone has `extra`, one
   of which they have different records `wrong`.
2. Whatever the bus has of a key whose row the checks refuse is right, and the row is `parked`; so
   is a row whose key another row holds, and one that has no key.
3. A key that is proved apart counts by its own cut alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from deptbus.change import Change, ChangeOp
from deptbus.errors import WireRefused
from deptbus.proof.item import ITEM_BYTES, Item, item_from_bytes
from deptbus.proof.leaves import Leaves
from deptbus.proof.sketch import Sketch
from deptbus.wire.control import Control, ProofAnswer, ProofPart, ProofRows
from deptbus.wire.digest import record_digest
from deptbus.wire.guard import MALFORMED

MISSING, EXTRA, WRONG, PARKED = "missing", "extra", "wrong", "parked"
NOTHING = b""
_NO_KEY = "no_key"


class Unequal(NamedTuple):
    """One difference. `key`: empty where the row has none."""

    key: bytes
    kind: str
    reason: str = ""


class Settled(NamedTuple):
    """A key that is proved apart."""

    cut_us: int
    digest: bytes  # empty: the table has nothing


class Told:
    """One answer, as its records come; see `department.proof_source` for their order."""

    def __init__(self, request: str, dataset: str) -> None:
        self.request, self.dataset = request, dataset
        self.system = ""
        self.cut_us = 0  # the moment of the first cut; 0: it has not begun
        self.apart: set[bytes] = set()
        self.found: dict[bytes, Settled] = {}
        self.refused: dict[bytes, str] = {}
        self.duplicates: list[Unequal] = []
        self.end: ProofAnswer | None = None
        self.bytes = 0
        self.not_here: set[str] = set()  # systems that have no such mapping
        self._parts = 0
        self._pieces: dict[str, bytearray] = {}

    @property
    def has_begun(self) -> bool:
        return self.cut_us != 0

    def take(self, record: Control, size: int) -> bool:
        """Whether the record belongs to the answer. Raises WireRefused for one with a hole."""
        if not isinstance(record, ProofAnswer | ProofPart | ProofRows):
            return False
        if record.request != self.request or record.leg != "source":
            return False
        if isinstance(record, ProofAnswer):
            self._answer(record)
            return True
        self.bytes += size
        if record.part != self._parts:
            raise WireRefused(MALFORMED, "a part of an answer is missing")
        self._parts += 1
        self.system = record.system
        if isinstance(record, ProofPart):
            self._pieces.setdefault(record.kind, bytearray()).extend(record.content)
        else:
            self._rows(record)
        return True

    def _answer(self, record: ProofAnswer) -> None:
        if record.state == "not_here":
            self.not_here.add(record.system)
            return
        self.system = record.system
        if record.state == "working":
            self.cut_us = self.cut_us or record.snapshot_at_us
            return
        if record.state == "done" and record.parts != self._parts:
            raise WireRefused(MALFORMED, "a part of an answer is missing")
        self.end = record

    def _rows(self, record: ProofRows) -> None:
        rows = zip(
            record.keys, record.states, record.versions, record.digests, record.reasons, strict=True
        )
        for key, state, cut_us, digest, reason in rows:
            if state == "apart":
                self.apart.add(key)
            elif state == "found":
                self.found[key] = Settled(cut_us, digest)
            elif state == "refused":
                self.refused[key] = reason
            elif state == "duplicate":
                self.duplicates.append(Unequal(key, PARKED, reason))

    @property
    def root(self) -> bytes:
        return bytes(self._pieces.get("root", b""))

    def leaves(self) -> Leaves:
        """Raises ValueError when they are none."""
        return Leaves.from_bytes(bytes(self._pieces.get("leaves", b"")))

    def sketch(self) -> Sketch:
        """Raises ValueError when it is none."""
        return Sketch.from_bytes(bytes(self._pieces.get("sketch", b"")))

    def items(self) -> Iterator[Item]:
        """Raises ValueError for bytes that are none."""
        told = bytes(self._pieces.get("items", b""))
        for at in range(0, len(told), ITEM_BYTES):
            yield item_from_bytes(told[at : at + ITEM_BYTES])

    def parked(self) -> list[Unequal]:
        """The rows of rule 2."""
        assert self.end is not None
        counts = dict(zip(self.end.states, self.end.counts, strict=True))
        nameless = [Unequal(b"", PARKED, _NO_KEY)] * counts.get(_NO_KEY, 0)
        refused = [Unequal(key, PARKED, reason) for key, reason in self.refused.items()]
        return [*refused, *self.duplicates, *nameless]


class UnitFold:
    """What one partition of a canonical topic holds of one unit, by the highest version of each
    key. Fed in the order of offsets; about 200 bytes a key."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._held: dict[bytes, bytes] = {}  # key -> version (8 bytes, big endian), digest

    def __len__(self) -> int:
        return len(self._held)

    def add(self, change: Change) -> None:
        if change.source_unit != self._unit:
            return
        held = change.version.to_bytes(8, "big")
        known = self._held.get(change.key)
        if known is not None and held < known[:8]:
            return  # a stopped worker's late send
        if change.op is ChangeOp.UPSERT and change.record is not None:
            held += record_digest(change.dataset, change.schema_version, change.record)
        self._held[change.key] = held

    def items(self, but: Container[bytes] = frozenset()) -> Iterator[Item]:
        """Of every live key; version 0, as the source has none."""
        for key, held in self._held.items():
            if len(held) > 8 and key not in but:
                yield Item(key, 0, held[8:])

    def digest(self, key: bytes) -> bytes:
        """Empty: the bus has nothing live of it."""
        return self._held.get(key, b"")[8:]

    def keep(self, keys: Container[bytes]) -> None:
        """Forgets all others."""
        self._held = {key: held for key, held in self._held.items() if key in keys}


def unequal(
    table: Iterable[Item], bus: Iterable[Item], refused: Mapping[bytes, str]
) -> list[Unequal]:
    """Of items that only the one or only the other has (rule 1)."""
    rows = Counter(item.key for item in table)
    held = {item.key for item in bus}
    found = [
        Unequal(key, WRONG if key in held or count > 1 else MISSING) for key, count in rows.items()
    ]
    found += [Unequal(key, EXTRA) for key in held - rows.keys()]
    return [one for one in found if one.key not in refused]


def unequal_apart(key: bytes, settled: Settled, on_bus: bytes) -> Unequal | None:
    """Of a key that is proved apart, by the digest that the bus has of it as of the same cut."""
    if settled.digest == on_bus:
        return None
    if settled.digest and on_bus:
        return Unequal(key, WRONG)
    return Unequal(key, MISSING if settled.digest else EXTRA)

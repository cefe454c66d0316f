"""Pure: what a source tells of its table, what the canonical topic has, and where the two differ.

Rules, each with a test:

1. A key that the table alone has is `missing` on the bus, one that the bus alone has `extra`, one
   of which they have different records `wrong`.
2. Whatever the bus has of a key whose row the checks refuse is right, and the row is `parked`; so
   is a row whose key another row holds, and one that has no key.
3. A key that is proved apart counts by its own cut alone.
4. A key whose removal the source holds is `held`, and no difference: the bus keeps what it had of
   it until somebody there says so. The reason is the number of the hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from deptbus.change import Change, ChangeOp
from deptbus.errors import WireRefused
from deptbus.proof.certificate import HELD
from deptbus.proof.item import ITEM_BYTES, NO_VERSION, Item, item_from_bytes
from deptbus.proof.leaves import Leaves
from deptbus.proof.sketch import Sketch
from deptbus.wire.control import Control, ProofAnswer, ProofPart, ProofRows
from deptbus.wire.digest import projection_hash, record_digest
from deptbus.wire.fold_pass import VERSION_BYTES, FoldWay, Kept
from deptbus.wire.guard import MALFORMED
from deptbus.wire.passage import cut_of

MISSING, EXTRA, WRONG, PARKED = "missing", "extra", "wrong", "parked"
NOTHING = b""
_ITEMS_AT_ONCE = 500
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
        self.refused: dict[bytes, str] = {}  # what the bus has is right
        self.held: set[bytes] = set()  # those of them by rule 4
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
                self.refused.setdefault(key, reason)
            elif state == "held":
                self.refused[key] = reason
                self.held.add(key)
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

    def kept(self, key: bytes) -> Unequal:
        """What is to be said of a key of rules 2 and 4."""
        return Unequal(key, HELD if key in self.held else PARKED, self.refused[key])

    def parked(self) -> list[Unequal]:
        """The rows of rules 2 and 4."""
        assert self.end is not None
        counts = dict(zip(self.end.states, self.end.counts, strict=True))
        nameless = [Unequal(b"", PARKED, _NO_KEY)] * counts.get(_NO_KEY, 0)
        refused = [self.kept(key) for key in self.refused]
        return [*refused, *self.duplicates, *nameless]


class UnitFold:
    """What one partition of a canonical topic holds of one unit, by the highest version of each
    key. Fed in the order of offsets; about 200 bytes a key."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._held: Kept = {}  # behind the version the digest, where the key is live

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

    @property
    def kept(self) -> Kept:
        """For the quick pass, by ways of `way`."""
        return self._held

    def way(self, change: Change) -> FoldWay:
        """How the quick pass comes to what `add` makes of this change and all that are like it."""
        record = change.record
        if change.source_unit != self._unit or record is None:
            is_kept = change.source_unit == self._unit
            return FoldWay(record is not None, is_kept, None, None, None, b"")
        begun = projection_hash(change.dataset, change.schema_version, ())
        return FoldWay(True, True, begun, cut_of(range(len(record))), None, b"")

    def items(self, but: Container[bytes] = frozenset()) -> Iterator[list[bytes]]:
        """`item_bytes` of every live key, some hundred at a time; version 0, as the source has
        none."""
        some: list[bytes] = []
        for key, held in self._held.items():
            if len(held) > VERSION_BYTES and key not in but:
                some.append(key + NO_VERSION + held[VERSION_BYTES:])
                if len(some) == _ITEMS_AT_ONCE:
                    yield some
                    some = []
        yield some

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

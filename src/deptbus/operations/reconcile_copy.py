"""Proves that a unit's copies of a dataset are what the canonical topic and today's rights give it.

1. While a job of the unit is open, or deliveries to it are held, nothing can be told.
2. The ends of the inbox are noted, then the cut: the ends of the canonical topic. A delivery of
   what lies behind the cut lies behind those ends.
3. The workers have committed up to the cut, so all before it is delivered; then the adapters are
   asked for a snapshot behind all that is in the inbox by now (`department.proof_copy`).
4. Meanwhile the canonical topic is folded up to the cut. What was delivered between the noted ends
   and the snapshot is read in the inbox, and those keys are moved on to the version that the copy
   was given: traffic is neither stopped nor guessed away.
5. Sums are subtracted, and the sketch names what differs; where too much does, the items of the
   differing leaves are asked for, as many at a time as can be held.
6. Keys that differ are asked for once more, row by row: from that look comes their class
   (`reconcile_classes`), and what a repair must find unchanged.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog

from deptbus import names
from deptbus.change import Cause
from deptbus.connection import Connection
from deptbus.errors import BusRefused, DeptbusError
from deptbus.operations.carrier import Owed
from deptbus.operations.copy_asking import Answered, Asking
from deptbus.operations.copy_behind import Behind
from deptbus.operations.copy_expected import Entitled, Expected
from deptbus.operations.groups import Groups
from deptbus.operations.leg import Finding, LegResult
from deptbus.operations.logs import Span
from deptbus.operations.reconcile_classes import Class, Had, fault_of
from deptbus.proof.certificate import Side
from deptbus.proof.item import KEY_BYTES
from deptbus.proof.leaves import BITS, Leaves
from deptbus.proof.sketch import SALT_BYTES, Difference, cells_for
from deptbus.proof.tally import Tally
from deptbus.stream.log import end_offsets
from deptbus.wire.control import ProofRequest

if TYPE_CHECKING:
    from deptbus.operations.office import Office

log = structlog.get_logger(__name__)

DEADLINE_SECONDS = 1800.0
NAMED_ITEMS = 4_000  # that one sketch tells; a row of another version is two
MOST_NAMED = 120_000  # rows of each state by an adapter, and rows of a copy here; all are counted
GROUP_ROWS = 200_000  # of leaves that are told item by item at a time
KEYS_AT_ONCE = 10_000  # in one question
_LOOK_SECONDS = 0.1
_LEAST_BITS, _LEAF_BITS = 4, 6  # some 64 rows to a leaf

OPEN_JOB = "a job of this unit is open: what it should have is being delivered"
NOT_HERE = "none of the unit's systems receives this dataset"
NOT_JOINED = "the unit has not joined: no adapter of it ever ran"
LATE = "the workers did not deliver up to the cut in time: do they run?"
MOVED = "the contract changed meanwhile; ask again"


class CouldNotTell(DeptbusError):
    """Neither equal nor different; `what` is the reason."""


class _Absent(Exception):
    """There is no copy; the text says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A row that differs, as it was when its class was found."""

    finding: Finding
    seen: bytes  # what a repair must find unchanged
    is_edited: bool = False  # beside its class: the row is not what was written
    is_known: bool = True  # the bus has the key


@dataclass(frozen=True, slots=True)
class CopyProved:
    """One system's copy: what is told of it, and what a repair needs."""

    result: LegResult
    seen: tuple[Seen, ...] = ()


async def prove_copy(
    office: Office,
    connection: Connection,
    unit: str,
    dataset: str,
    *,
    deep: bool = False,
    deadline_seconds: float = DEADLINE_SECONDS,
    second: bool = False,
) -> list[CopyProved]:
    """One for each system of the unit that receives the dataset; one that could not tell, with the
    reason, where nothing can be told of the unit. `second`: the copy that a rebuild makes
    beside the one in use. Raises BusUnreachable, BusRefused."""
    began = time.monotonic()
    proof = _Proof(office, connection, unit, dataset, deep, deadline_seconds)
    if second:
        proof.asked = names.rebuilt_copy(dataset)
    try:
        found = await proof.run()
    except CouldNotTell as error:
        found = [CopyProved(LegResult("copy", unit, "", dataset, could_not_tell=error.what))]
    except _Absent as error:
        found = [CopyProved(LegResult("copy", unit, "", dataset, absent=str(error)))]
    log.info("copies_compared", unit=unit, dataset=dataset, seconds=time.monotonic() - began)
    return found


class _Proof:
    def __init__(
        self,
        office: Office,
        connection: Connection,
        unit: str,
        dataset: str,
        deep: bool,
        deadline_seconds: float,
    ) -> None:
        self._office, self._connection = office, connection
        self.unit, self.dataset, self.deep = unit, dataset, deep
        self.asked = dataset  # the name of the copy in questions
        self._until = time.monotonic() + deadline_seconds
        self._expires_at_us = time.time_ns() // 1000 + int(deadline_seconds * 1e6)
        self.began = time.monotonic()

    async def run(self) -> list[CopyProved]:
        await self._check_joined()
        policy = await self._check_alone()
        noted = await end_offsets(self._connection, names.in_topic(self.unit))
        spans = await self.spans()
        cut = tuple(span.end for span in spans)
        await self._wait_for_workers(spans)
        ends = await end_offsets(self._connection, names.in_topic(self.unit))
        library = self._office.tools.library
        owed = Owed(library, self._office.tools.now, self.unit, policy, "", lambda _: Cause.REPAIR)
        entitled = Entitled(library, owed)
        contract = self._office.policies.current().contract
        systems = contract.unit_by_name[self.unit].systems
        salt, (bits, cells) = secrets.token_bytes(SALT_BYTES), size_of(spans)
        request = self.request("sums", ends=tuple(ends), salt=salt, cells=cells, bits=bits)
        behind = Behind(self._connection, self._office, self.unit, self.dataset, noted)
        with ExitStack() as stack:
            expected = [
                stack.enter_context(
                    Expected(
                        self._office.tools.logs, entitled, self.dataset, Tally(cells, salt, bits)
                    )
                )
            ]
            async with Asking(
                self._connection, self._office.tools.sender, self.unit, systems
            ) as asking:
                # Both at once: neither waits for the other.
                async with asyncio.TaskGroup() as both:
                    answering = both.create_task(asking.ask(request))
                    both.create_task(expected[0].fold(spans))
                answers = answering.result()
                here = [a for a in answers.values() if a.is_here or a.problem]
                if not here:
                    raise _Absent(NOT_HERE)
                expected += [stack.enter_context(expected[0].copy()) for _ in here[1:]]
                found = []
                for mine, answered in zip(expected, here, strict=True):
                    copy = _Copy(self, asking, mine, behind, spans)
                    found.append(await self._one(copy, answered, cut))
        if await self._check_alone() != policy:
            raise CouldNotTell(MOVED)
        return found

    async def _one(self, copy: _Copy, answered: Answered, cut: tuple[int, ...]) -> CopyProved:
        try:
            return await copy.compare(answered, cut)
        except CouldNotTell as error:
            result = LegResult(
                "copy", self.unit, answered.system, self.dataset, could_not_tell=error.what
            )
            return CopyProved(result)

    # -- before ----------------------------------------------------------------------------------

    async def _check_joined(self) -> None:
        """The jobs of a unit that never joined are open for ever."""
        await self._office.policies.refresh()
        if self.unit not in self._office.policies.current().contract.unit_by_name:
            raise CouldNotTell(f"{self.unit} is not in the contract in force")
        if not any(await end_offsets(self._connection, names.control_topic(self.unit))):
            raise _Absent(NOT_JOINED)

    async def _check_alone(self) -> int:
        """The policy in force, when nothing of it is still to be delivered. Raises CouldNotTell."""
        office = self._office
        await office.policies.refresh()
        await office.jobs.refresh()
        policy = office.policies.current()
        hold = policy.hold_of(self.unit, self.dataset)
        if hold is not None:
            raise CouldNotTell(f"deliveries are held by {hold.held_by}")
        office.tools.library.learn()
        if self.unit in office.desk.due():
            raise CouldNotTell(OPEN_JOB)
        return policy.number

    async def spans(self) -> list[Span]:
        try:
            return await self._office.tools.logs.spans(self.dataset)
        except BusRefused as error:
            raise CouldNotTell(error.what) from None

    async def _wait_for_workers(self, spans: Sequence[Span]) -> None:
        topic = names.data_topic(self.dataset)
        left = {n: span.end for n, span in enumerate(spans) if span.start < span.end}
        async with Groups(self._connection) as groups:
            while left:
                places = [(topic, number) for number in left]
                committed = await groups.committed(names.WORKER_GROUP, places)
                left = {n: end for n, end in left.items() if committed.get(n, 0) < end}
                if left and time.monotonic() > self._until:
                    raise CouldNotTell(LATE)
                await asyncio.sleep(_LOOK_SECONDS if left else 0)

    # -- questions -------------------------------------------------------------------------------

    def request(
        self,
        wanted: Literal["sums", "items", "rows"],
        *,
        ends: tuple[int, ...] = (),
        salt: bytes = b"",
        cells: int = 0,
        bits: int = BITS,
        leaves: Sequence[int] = (),
        keys: Sequence[bytes] = (),
    ) -> ProofRequest:
        return ProofRequest(
            uuid.uuid4().hex,
            "copy",
            wanted,
            self.asked,
            self.deep,
            ends,
            bits,
            cells,
            salt,
            tuple(leaves),
            tuple(keys),
            MOST_NAMED,
            self._expires_at_us,
        )


class _Copy:
    """The comparison of one system's copy with what it should be."""

    def __init__(
        self,
        proof: _Proof,
        asking: Asking,
        expected: Expected,
        behind: Behind,
        spans: Sequence[Span],
    ) -> None:
        self._proof, self._asking, self._expected = proof, asking, expected
        self._behind, self._spans = behind, spans
        self._bytes = 0
        self._seen: list[Seen] = []
        self._by_class: Counter[str] = Counter()

    async def compare(self, first: Answered, cut: tuple[int, ...]) -> CopyProved:
        began = self._asking.bytes_asked
        await self._moved(first)
        assert first.end is not None
        expected, tally = self._expected, self._expected.tally
        leaves, bad, found = self._sums(first)
        bus = Side(
            rows=expected.rows,
            leaf_root=tally.leaves.root().hex(),
            sorted_root=tally.root.root().hex(),
        )
        root = first.content("root") or b""
        other = Side(rows=first.end.rows, leaf_root=leaves.root().hex(), sorted_root=root.hex())
        named = self._named(first)
        async with aclosing(self._differing(first.system, leaves, bad, found)) as groups:
            async for keys in groups:
                await self._look_at(first.system, keys)
                named -= keys
        await self._look_at(first.system, named)
        proof = self._proof
        result = LegResult(
            "copy",
            proof.unit,
            first.system,
            proof.dataset,
            rows=first.end.rows,
            by_class=dict(sorted(self._by_class.items())),
            findings=tuple(one.finding for one in self._seen),
            cut={names.data_topic(proof.dataset): cut},
            bus=bus,
            other=other,
            bytes=self._bytes + self._asking.bytes_asked - began,
            seconds=time.monotonic() - proof.began,
            deep=proof.deep,
        )
        return CopyProved(result, tuple(self._seen))

    def _sums(self, answered: Answered) -> tuple[Leaves, list[int], Difference | None]:
        """The copy's leaves, which of them differ, and by which items."""
        try:
            leaves, root = answered.leaves(), answered.content("root") or b""
            return leaves, *self._expected.tally.against(leaves, answered.sketch(), root)
        except ValueError as error:
            raise CouldNotTell(f"its answer is none: {error}") from None

    async def _moved(self, answered: Answered) -> None:
        """What the copy was given behind the cut, up to this answer's snapshot."""
        if answered.problem:
            raise CouldNotTell(answered.problem)
        assert answered.end is not None
        self._bytes += answered.size
        delivered = await self._behind.until(answered.end.applied, answered.end.floors)
        now = await self._proof.spans()
        tail = [Span(was.end, span.end) for was, span in zip(self._spans, now, strict=True)]
        await self._expected.move(delivered, tail)

    async def _differing(
        self, system: str, leaves: Leaves, bad: Sequence[int], found: Difference | None
    ) -> AsyncGenerator[set[bytes], None]:
        """Keys whose items differ, as many at a time as can be held."""
        tally = self._expected.tally
        if found is not None:
            yield {item.key for item in (*found.only_a, *found.only_b)}
            return
        for group in _groups(bad, tally.leaves, leaves):
            request = self._proof.request("items", leaves=group, bits=tally.leaves.bits)
            answered = (await self._asking.ask(request, [system]))[system]
            await self._moved(answered)
            unlike = self._expected.items_of(group, tally.leaves.bits)
            try:
                unlike ^= answered.items()
            except ValueError as error:
                raise CouldNotTell(f"its answer is none: {error}") from None
            yield {raw[:KEY_BYTES] for raw in unlike}

    def _named(self, first: Answered) -> set[bytes]:
        """Keys that the adapter named beside its sums. What it counted beyond them is counted here;
        rows that no record stands for have their class."""
        keys: set[bytes] = set()
        named: Counter[str] = Counter()
        for part in first.rows():
            for key, state, seen, reason in zip(
                part.keys, part.states, part.seen, part.reasons, strict=True
            ):
                named[state] += 1
                if state == "unknown":
                    fault = fault_of(None, Had(state, 0, b"", (), reason))
                    assert fault is not None
                    finding = Finding(key, fault.word, fault.reason, on_bus=False)
                    self._note(Seen(finding, seen, is_known=False))
                else:
                    keys.add(key)
        assert first.end is not None
        counted = Counter(dict(zip(first.end.states, first.end.counts, strict=True)))
        self._by_class.update({_CLASS_OF[s]: n for s, n in (counted - named).items()})
        return keys

    def _note(self, seen: Seen) -> None:
        """Beyond MOST_NAMED rows are counted only."""
        self._by_class[seen.finding.word] += 1
        if len(self._seen) < MOST_NAMED:
            self._seen.append(seen)

    async def _look_at(self, system: str, keys: Collection[bytes]) -> None:
        """Step 6."""
        ordered = sorted(keys)
        for at in range(0, len(ordered), KEYS_AT_ONCE):
            await self._look(system, ordered[at : at + KEYS_AT_ONCE])

    async def _look(self, system: str, keys: Sequence[bytes]) -> None:
        request = self._proof.request("rows", keys=keys)
        answered = (await self._asking.ask(request, [system]))[system]
        await self._moved(answered)
        given = self._expected.given_of(keys)
        for part in answered.rows():
            for at, key in enumerate(part.keys):
                fields = tuple(part.fields[at].split(",")) if part.fields[at] else ()
                had = Had(
                    part.states[at], part.versions[at], part.digests[at], fields, part.reasons[at]
                )
                is_edited = had.state == "edited"
                if had.state in ("edited", "removed") and not self._proof.deep:
                    had = had._replace(state="equal")  # nobody asked for it
                fault = fault_of(given.get(key), had)
                if fault is not None:
                    reason = sys.intern(fault.reason)  # a few, of very many rows
                    finding = Finding(key, fault.word, reason)
                    self._note(Seen(finding, part.seen[at], is_edited, key in given))


_CLASS_OF = {
    "parked": Class.PARKED,
    "claimed": Class.CLAIMED,
    "edited": Class.EDITED_LOCALLY,
    "removed": Class.MISSING,
    "unknown": Class.EXTRA,
}


def size_of(spans: Sequence[Span]) -> tuple[int, int]:
    """Bits of the leaves and cells of the sketch: a topic of few records needs little of either."""
    records = sum(span.end - span.start for span in spans)
    bits = min(BITS, max(_LEAST_BITS, records.bit_length() - _LEAF_BITS))
    return bits, cells_for(min(NAMED_ITEMS, 2 * records))


def _groups(bad: Sequence[int], bus: Leaves, copy: Leaves) -> Iterator[list[int]]:
    """Leaves, so many together that their items can be held."""
    group: list[int] = []
    rows = 0
    for leaf in bad:
        here = max(bus.count_and_sum(leaf)[0], copy.count_and_sum(leaf)[0])
        if group and rows + here > GROUP_ROWS:
            yield group
            group, rows = [], 0
        group.append(leaf)
        rows += here
    yield group

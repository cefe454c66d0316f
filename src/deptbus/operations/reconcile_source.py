"""Proves that a canonical topic has what its source's table has, as of one exact cut.

1. The source's adapter is asked (`department.proof_source`); it names the cut and the keys that are
   proved apart, and walks its rows.
2. Meanwhile each partition of the canonical topic is folded up to the cut's marker, one by one.
3. Both sides' leaves and sketches are subtracted. Where too much differs to be read from the
   sketch, the items of the differing leaves are asked for, in groups, each as of a cut of its own.
4. Keys that are proved apart are looked up as of the cut that each of them names.

What cannot be told is CouldNotTell with the reason, never a difference.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.operations.inventory import TOPIC_MISSING, Shelves
from deptbus.operations.leg import Finding, LegResult
from deptbus.operations.office import Office
from deptbus.operations.source_asking import NOT_HERE, Asking, CouldNotTell, Interrupted
from deptbus.operations.source_folds import Folds
from deptbus.operations.source_repair import ORDER_PARTITION
from deptbus.operations.source_told import (
    Told,
    Unequal,
    unequal,
)
from deptbus.proof.certificate import Side
from deptbus.proof.item import Item, item_from_bytes
from deptbus.proof.leaves import BITS, Leaves, leaf_of
from deptbus.proof.sketch import SALT_BYTES, cells_for
from deptbus.proof.tally import Tally
from deptbus.stream.log import (
    LogReader,
    Outgoing,
    end_offsets,
)
from deptbus.wire.control import ProofRequest, encode_control

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 1800.0
ATTEMPTS = 3
NAMED_ITEMS = 4_000  # that one sketch tells; a changed row is two, one on each side
MOST_NAMED = 50_000  # all are counted
_GROUP_ROWS = 200_000  # of leaves that are told row by row at a time: some 80 MB


@dataclass(slots=True)
class _Found:
    """What is named so far; beyond MOST_NAMED it is counted only."""

    by_class: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, found: Sequence[Unequal]) -> None:
        self.by_class.update(one.kind for one in found)
        named = [Finding(one.key, one.kind, one.reason) for one in found if one.key]
        self.findings += named[: max(0, MOST_NAMED - len(self.findings))]


async def prove_source(
    office: Office, connection: Connection, unit: str, dataset: str
) -> LegResult:
    """Raises BusUnreachable, BusRefused."""
    known = office.policies.current().contract.unit_by_name.get(unit)
    systems = len(known.systems) if known is not None else 0
    try:
        return await prove_rows(office.shelves, unit, dataset, max(1, systems))
    except CouldNotTell as error:
        if error.what == NOT_HERE:
            return LegResult("source", unit, "", dataset, absent=NOT_HERE)
        return LegResult("source", unit, "", dataset, could_not_tell=error.what)


async def prove_rows(shelves: Shelves, unit: str, dataset: str, systems: int = 1) -> LegResult:
    """Raises CouldNotTell, BusUnreachable, BusRefused. `systems`: how many the unit has."""
    began, spent = time.monotonic(), 0
    for attempt in range(1, ATTEMPTS + 1):
        proof = _Proof(shelves, unit, dataset, systems)
        try:
            proved = await proof.run()
        except Interrupted as interrupted:
            spent += proof.bytes
            log.warning("proof_interrupted", unit=unit, dataset=dataset, reason=str(interrupted))
            if attempt == ATTEMPTS:
                raise CouldNotTell(str(interrupted)) from None
            continue
        log.info("source_compared", unit=unit, dataset=dataset, seconds=time.monotonic() - began)
        return replace(proved, bytes=proof.bytes + spent, seconds=time.monotonic() - began)
    raise AssertionError


class _Proof:
    def __init__(self, shelves: Shelves, unit: str, dataset: str, systems: int) -> None:
        self._shelves = shelves
        self._unit, self._dataset, self._systems = unit, dataset, systems
        self.bytes = 0

    async def run(self) -> LegResult:
        salt = secrets.token_bytes(SALT_BYTES)
        cells = cells_for(NAMED_ITEMS)
        tally = Tally(cells, salt)
        asked = self._asked("sums", salt=salt, cells=cells)
        async with asked as asking, self._folds(asking) as folds:
            async for fold in folds.all():
                for raws in fold.items(asking.told.apart):
                    tally.add_raws(raws)
                    await asyncio.sleep(0)
            told = await asking.end()
            apart = await folds.apart()
        try:
            leaves = told.leaves()
            bad, differ = tally.against(leaves, told.sketch(), told.root)
        except ValueError as error:
            raise Interrupted(str(error)) from None
        found = _Found()
        found.add(told.parked())
        if differ is not None:
            found.add(apart)
            found.add(unequal(differ.only_b, differ.only_a, told.refused))
        else:
            # What was apart in a leaf that is told anew is told anew, too.
            found.add([one for one in apart if leaf_of(one.key) not in frozenset(bad)])
            for group in _groups(bad, leaves, tally.leaves):
                found.add(await self._named_in(group, told.refused))
        return self._result(told, found, folds.cut, (tally, leaves))

    def _result(
        self, told: Told, found: _Found, cut: tuple[int, ...], sums: tuple[Tally, Leaves]
    ) -> LegResult:
        assert told.end is not None
        tally, leaves = sums
        live = sum(1 for settled in told.found.values() if settled.digest)
        return LegResult(
            "source",
            self._unit,
            told.system,
            self._dataset,
            rows=told.end.rows + live,
            by_class=dict(sorted(found.by_class.items())),
            findings=tuple(found.findings),
            cut={names.data_topic(self._dataset): cut},
            bus=Side(
                rows=tally.leaves.rows,
                leaf_root=tally.leaves.root().hex(),
                sorted_root=tally.root.root().hex(),
            ),
            other=Side(
                rows=told.end.rows, leaf_root=leaves.root().hex(), sorted_root=told.root.hex()
            ),
        )

    async def _named_in(
        self, leaves: frozenset[int], refused: Mapping[bytes, str]
    ) -> list[Unequal]:
        """The differences in some leaves, row by row, as of a cut of their own. `refused`: rows
        that are told as parked already."""
        async with self._asked("items", leaves=leaves) as asking, self._folds(asking) as folds:
            table: dict[bytes, list[Item]] = {}
            held: list[Item] = []
            told = await asking.end()
            for item in told.items():
                table.setdefault(item.key, []).append(item)
            async for fold in folds.all():
                for raws in fold.items(told.apart):
                    for item in map(item_from_bytes, raws):
                        if leaf_of(item.key) in leaves:
                            if table.get(item.key) == [item]:
                                del table[item.key]
                            else:
                                held.append(item)
                    await asyncio.sleep(0)
            only = [item for items in table.values() for item in items]
            fresh = told.refused.items() - refused.items()
            return [
                *unequal(only, held, told.refused),
                *await folds.apart(),
                *(told.kept(key) for key, _ in fresh if key not in refused),
            ]

    # --- the question ---------------------------------------------------------------------

    @asynccontextmanager
    async def _asked(
        self,
        wanted: str,
        *,
        salt: bytes = b"",
        cells: int = 0,
        leaves: frozenset[int] = frozenset(),
    ) -> AsyncIterator[Asking]:
        topic = names.control_topic(self._unit)
        request = ProofRequest(
            uuid.uuid4().hex,
            "source",
            wanted,  # type: ignore[arg-type]
            self._dataset,
            False,
            (),
            BITS,
            cells,
            salt,
            tuple(sorted(leaves)),
            (),
            0,
            time.time_ns() // 1000 + int(ANSWER_SECONDS * 1e6),
        )
        told = Told(request.request, self._dataset)
        ends = dict(enumerate(await end_offsets(self._shelves.connection, topic)))
        async with LogReader(self._shelves.connection, topic, from_offsets=ends) as reader:
            await self._send(request)
            asking = Asking(told, reader, self._systems)
            listening = asyncio.create_task(asking.listen())
            try:
                yield asking
            finally:
                self.bytes += told.bytes
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                with suppress(BusUnreachable, BusRefused):  # it is tidied up by the next answer
                    await self._send(replace(request, request=uuid.uuid4().hex, wanted="done"))

    async def _send(self, request: ProofRequest) -> None:
        """Behind the orders of a repair, in their partition: it is proved what comes of them."""
        topic, value = names.in_topic(self._unit), encode_control(request)
        await self._shelves.sender.send([Outgoing(topic, ORDER_PARTITION, None, value)])

    @asynccontextmanager
    async def _folds(self, asking: Asking) -> AsyncIterator[Folds]:
        await asking.begun()
        try:
            count = await self._shelves.sender.partitions(names.data_topic(self._dataset))
        except BusRefused:
            raise CouldNotTell(TOPIC_MISSING) from None
        async with self._shelves.folding:
            yield Folds(self._shelves, self._unit, asking.told, count)


def _groups(bad: Sequence[int], table: Leaves, bus: Leaves) -> Iterator[frozenset[int]]:
    """Leaves, so many together that their rows can be held."""
    group: set[int] = set()
    rows = 0
    for leaf in bad:
        here = max(table.count_and_sum(leaf)[0], bus.count_and_sum(leaf)[0])
        if group and rows + here > _GROUP_ROWS:
            yield frozenset(group)
            group, rows = set(), 0
        group.add(leaf)
        rows += here
    yield frozenset(group)

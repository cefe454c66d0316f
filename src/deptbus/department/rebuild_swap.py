"""The swap of a rebuild: what differs is applied to the copy in use, in one transaction.

A record is decided as if its line in the second copy came as a delivery, by the same rules and with
the same refusals (`decide`); only that whatever the copy in use claims to have counts as older.
Some records are decided at a time, each time on top of what was written before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deptbus.department.adoption import Found
from deptbus.department.adoption_desk import adopting
from deptbus.department.decide import Decision, Refused, decide, prepare, touched_rows
from deptbus.department.fold import Folded
from deptbus.department.ledger import Entry, Prepared, RecordId, Row, Unfit
from deptbus.department.rebuild import Rebuild, candidate, effects, had_copy
from deptbus.department.rebuild_port import CHUNK_RECORDS, Shadows
from deptbus.errors import RowRefused

if TYPE_CHECKING:
    from deptbus.department.store import Store

_MOST_ROUNDS = 50  # each parks at least one record more, or one more than it did


async def swap(store: Store, shadows: Shadows, rebuild: Rebuild, now_us: int) -> Rebuild:
    """The job as it stands when that is committed. Raises RowRefused where the database refuses
    something that is no single row's, DatabaseUnavailable, DatabaseBusy, Fenced: nothing is done
    then."""
    wanted = await shadows.differing(rebuild.dataset)
    counts: Counter[str] = Counter(records=len(wanted), inserted=0, updated=0, removed=0, parked=0)
    async with shadows.swapping():
        for at in range(0, len(wanted), CHUNK_RECORDS):
            chunk = _Chunk(store, shadows, rebuild, now_us)
            counts.update(await chunk.run(wanted[at : at + CHUNK_RECORDS]))
        done = rebuild._replace(state="swapped", counts=dict(counts), changed_at_us=now_us)
        await shadows.note(done)
    return done


class _Chunk:
    def __init__(self, store: Store, shadows: Shadows, rebuild: Rebuild, now_us: int) -> None:
        self._store, self._shadows = store, shadows
        self._rebuild, self._now_us = rebuild, now_us
        self._known: dict[RecordId, Entry] = {}

    async def run(self, ids: Sequence[RecordId]) -> Counter[str]:
        folded = await self._folded(ids)
        fits: dict[RecordId, Prepared | Unfit] = {}
        prepare(folded, self._store.targets, fits)
        rows = touched_rows(folded, self._known, fits)
        if rows:
            for entry in await self._store.claimants(sorted(rows), folded.candidates.keys()):
                self._known[entry.id] = entry
        adopts = await self._store.existing.settle(folded, self._known, fits)
        return await self._settled(folded, fits, adopts)

    async def _folded(self, ids: Sequence[RecordId]) -> Folded:
        rebuild, folded = self._rebuild, Folded()
        second = {
            rid_of(entry, rebuild.dataset): entry
            for entry in await self._shadows.entries(rebuild.name, ids)
        }
        self._known = {e.id: e for e in await self._shadows.entries(rebuild.dataset, ids)}
        for rid in ids:
            was = self._known.get(rid)
            folded.candidates[rid] = candidate(rid, second.get(rid), was, rebuild.job, self._now_us)
            folded.had_copy[rid] = had_copy(was)
        return folded

    async def _settled(
        self,
        folded: Folded,
        fits: dict[RecordId, Prepared | Unfit],
        adopts: dict[RecordId, Found],
    ) -> Counter[str]:
        refused: dict[RecordId, Refused] = {}
        for _ in range(_MOST_ROUNDS):
            decision = decide(folded, self._known, fits, self._store.targets, self._now_us, refused)
            adopting(decision, adopts, self._known)
            counts = await self._weighed(decision)
            try:
                await self._shadows.carry_out(decision, self._now_us)
            except RowRefused:
                found = await self._shadows.refused(decision)
                if not found:
                    raise
                for action, reason in found:
                    earlier = refused.get(action.id)
                    refused[action.id] = Refused(
                        action.level + 1, earlier.reason if earlier is not None else reason
                    )
                continue
            return counts
        raise RowRefused(f"{self._rebuild.dataset}: no single row is to blame")

    async def _weighed(self, decision: Decision) -> Counter[str]:
        """What it does to real rows. What it would lose is in the unit's file when this returns."""
        actions = decision.actions
        real = await self._shadows.real(self._rebuild.dataset, {a.row.key for a in actions})
        holders = {
            Row(entry.dataset, entry.row): entry
            for entry in self._known.values()
            if entry.held and entry.row is not None
        }
        found = effects(actions, real, holders, self._rebuild.job)
        if found.kept:
            self._store.keep(found.kept)
        parked = sum(entry.parked is not None for entry in decision.entries)
        return Counter(
            inserted=found.inserted,
            updated=found.updated,
            removed=found.removed,
            kept=len(found.kept),
            parked=parked,
        )


def rid_of(entry: Entry, dataset: str) -> RecordId:
    """The record of a line of the second copy."""
    return RecordId(dataset, entry.source_unit, entry.key)

"""What one store does about rows that were here before the bus: it looks for those that records
match, and carries a first load on once the department has said yes. Rules: `adoption`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from deptbus.department.adoption import (
    Existing,
    Found,
    Looked,
    Rivals,
    match_of,
    several_match,
    verdict,
)
from deptbus.department.ledger import WAITS_FOR_JOIN, Entry, Prepared, RecordId, Row, Unfit
from deptbus.department.target import MappedTarget
from deptbus.department.values import Refusal
from deptbus.wire.digest import encode_values

if TYPE_CHECKING:
    from deptbus.department.decide import Decision
    from deptbus.department.fold import Folded
    from deptbus.department.store import Store

log = structlog.get_logger(__name__)

# How old a look at the spellings of a table may be when a record comes that has no row yet.
SPELLINGS_SECONDS = 600.0
_LINES_AT_ONCE = 2000

Match = tuple[Any, ...]


class ExistingDesk:
    """`load` when the store opens and now and then; `settle` within each decision; `lines` for the
    next part of a first load. All raise as `Store.apply`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.adopting: set[str] = set()  # datasets of which lines may still wait for their turn
        # Dataset -> match as the bus writes it (encoded) -> how rows of the table spell it.
        self._spellings: dict[str, dict[bytes, set[Match]]] = {}
        self._looked_at: dict[str, float] = {}
        self._rivals: dict[str, Rivals] = {}

    async def load(self, known: Mapping[str, Existing]) -> list[str]:
        """What is remembered now; returns the datasets whose first load has just been allowed."""
        begun = []
        for dataset, existing in known.items():
            target = self._store.targets.get(dataset)
            if target is None or not target.had_rows or existing.waits:
                continue
            if target.waits or dataset not in self._rivals:
                if target.waits:
                    begun.append(dataset)
                target.waits = False
                self._rivals[dataset] = await self._rivals_of(target)
                if existing.had_rows:
                    self.adopting.add(dataset)
        return begun

    @property
    def datasets(self) -> frozenset[str]:
        """Those whose tables had rows before the bus."""
        return frozenset(d for d, t in self._store.targets.items() if t.had_rows)

    async def lines(self, limit: int) -> list[Entry]:
        """The next lines of first loads that were allowed."""
        found: list[Entry] = []
        for dataset in sorted(self.adopting):
            some = await self._store.lines_that_wait(dataset, limit - len(found))
            found += some
            if len(found) >= limit:
                break
            if not some:  # not before: what was read is read again when its transaction fails
                self.adopting.discard(dataset)
                log.info("first_load_ended", dataset=dataset)
        return found

    async def settle(
        self,
        folded: Folded,
        known: Mapping[RecordId, Entry],
        fits: dict[RecordId, Prepared | Unfit],
    ) -> dict[RecordId, Found]:
        """For each candidate that is to get a row which no record holds: parks it in `fits`, or
        tells which row it adopts."""
        for dataset in {rid.dataset for rid in folded.candidates}:
            self._note_left(self._store.targets[dataset])
        held = {Row(e.dataset, e.row) for e in known.values() if e.held and e.row is not None}
        wanted: defaultdict[str, dict[RecordId, Prepared]] = defaultdict(dict)
        for rid in folded.candidates:
            target, fit = self._store.targets[rid.dataset], fits.get(rid)
            if not target.had_rows:
                continue
            rivals = self._rivals.get(rid.dataset)
            if rivals is not None and (fit is None or isinstance(fit, Prepared)):
                rivals.leave(rid)  # until it is looked at
            if not isinstance(fit, Prepared):
                continue
            if Row(rid.dataset, fit.row) not in held:
                wanted[rid.dataset][rid] = fit
        adopts: dict[RecordId, Found] = {}
        for dataset, some in wanted.items():
            adopts |= await self._settle(self._store.targets[dataset], some, fits)
        return adopts

    async def _settle(
        self,
        target: MappedTarget,
        wanted: Mapping[RecordId, Prepared],
        fits: dict[RecordId, Prepared | Unfit],
    ) -> dict[RecordId, Found]:
        await self._look_at_spellings(target)
        matches: dict[RecordId, Match] = {}
        for rid, fit in wanted.items():
            match = match_of(target, fit.values)
            if isinstance(match, Unfit):
                fits[rid] = match
            else:
                matches[rid] = match
        rivals = self._rivals.setdefault(target.dataset, Rivals())
        for rid, match in matches.items():
            rivals.enter(rid, encode_values(match), wanted[rid].row)
        looked = await self._look(target, wanted, matches)
        said = {
            rid: verdict(
                *(rid, wanted[rid], target, looked[rid]),
                is_contested=rivals.contest(encode_values(match)),
            )
            for rid, match in matches.items()
        }
        # Records of one own key are claimants of one row: `decide` says who holds it. Matches may
        # be equal to the database that differ to us.
        takers: defaultdict[tuple[Any, ...], set[bytes]] = defaultdict(set)
        for rid, found in said.items():
            if isinstance(found, Found):
                takers[found.place].add(wanted[rid].row)
        adopts: dict[RecordId, Found] = {}
        for rid, found in said.items():
            if isinstance(found, Found) and len(takers[found.place]) > 1:
                fits[rid] = Unfit(several_match(target))
            elif isinstance(found, Unfit):
                fits[rid] = found
            else:
                rivals.leave(rid)
                if found is not None:
                    adopts[rid] = found
        return adopts

    async def _look(
        self,
        target: MappedTarget,
        wanted: Mapping[RecordId, Prepared],
        matches: Mapping[RecordId, Match],
    ) -> dict[RecordId, Looked]:
        """By every spelling that the table has of a match, and by the own key."""
        spellings = self._spellings[target.dataset]
        asked: dict[RecordId, list[Match]] = {
            rid: [match, *spellings.get(encode_values(match), ())] for rid, match in matches.items()
        }
        words = [match for some in asked.values() for match in some]
        matching = await self._store.look_for(target.dataset, target.match_positions, words)
        unmatched = {
            rid: wanted[rid].row
            for rid, some in asked.items()
            if target.on_remove == "mark" and not any(matching.get(match) for match in some)
        }
        emptied = await self._store.look_for_emptied(target.dataset, unmatched) if unmatched else {}
        is_key = target.match_positions == target.key_positions
        keys = {} if is_key else {rid: _key(target, wanted[rid]) for rid in matches}
        bearing = await self._store.look_for(
            target.dataset, target.key_positions, list(keys.values())
        )
        found = [f for some in (*matching.values(), *bearing.values()) for f in some]
        found += emptied.values()
        holders = {
            entry.row: entry.id
            for entry in await self._store.claimants(
                sorted({Row(target.dataset, one.row) for one in found}), ()
            )
            if entry.held and entry.row is not None
        }
        return {
            rid: Looked(
                [one for match in some for one in matching.get(match, ())],
                bearing.get(keys[rid], ()) if rid in keys else (),
                holders,
                one if (one := emptied.get(rid)) and one.row not in holders else None,
            )
            for rid, some in asked.items()
        }

    async def _look_at_spellings(self, target: MappedTarget) -> None:
        """Which rows spell their match otherwise than the bus does."""
        now = time.monotonic()
        looked_at = self._looked_at.get(target.dataset)
        if looked_at is not None and now - looked_at < SPELLINGS_SECONDS:
            return
        found: dict[bytes, set[Match]] = {}
        async for rows in self._store.read_columns_of(target.dataset, target.match_positions):
            _add_spellings(target, rows, found)
        self._spellings[target.dataset] = found
        self._looked_at[target.dataset] = now

    def _note_left(self, target: MappedTarget) -> None:
        """A row whose record went is spelled as it was before; the record may come back soon."""
        left = self._store.left_behind(target.dataset) if target.had_rows else ()
        rows = [tuple(values[at] for at in target.match_positions) for values in left]
        if rows and target.dataset in self._spellings:
            _add_spellings(target, rows, self._spellings[target.dataset])

    async def _rivals_of(self, target: MappedTarget) -> Rivals:
        """Of all lines that are parked: those that a session before this one left for a person, and
        the first load's, of which as many as the register has are in question for a row each: only
        those are kept that are not alone. By the own key it is a matter of claims."""
        rivals = Rivals()
        if target.match_positions == target.key_positions:
            return rivals
        first: dict[bytes, tuple[RecordId, bytes]] = {}
        after = "", b""
        while lines := await self._store.parked_upserts(target.dataset, after, _LINES_AT_ONCE):
            after = lines[-1].source_unit, lines[-1].key
            for entry in lines:
                fit = target.prepare_always(entry)
                if not isinstance(fit, Prepared):
                    continue
                match = match_of(target, fit.values)
                if isinstance(match, Unfit):
                    continue
                by = encode_values(match)
                other, row = first.setdefault(by, (entry.id, fit.row))
                if other != entry.id:
                    rivals.enter(other, by, row)
                if other != entry.id or entry.parked != WAITS_FOR_JOIN:
                    rivals.enter(entry.id, by, fit.row)
        return rivals


def _add_spellings(
    target: MappedTarget, rows: Iterable[Match], found: dict[bytes, set[Match]]
) -> None:
    """`rows`: what stands in the columns of `match`."""
    reading = [target.own_reading(at) for at in target.match_positions]
    for row in rows:
        if None in row:
            continue
        try:
            match = tuple(read(v) for read, v in zip(reading, row, strict=True))
            if match != row:
                found.setdefault(encode_values(match), set()).add(row)
        except (Refusal, UnicodeEncodeError, TypeError):
            continue  # nobody can tell whose it is; `compare` lists it


def _key(target: MappedTarget, fit: Prepared) -> Match:
    return tuple(fit.values[at] for at in target.key_positions)


def adopting(
    decision: Decision, adopts: Mapping[RecordId, Found], known: Mapping[RecordId, Entry]
) -> None:
    """Has each write that fills a row of the department's for the first time name that row. A row
    that is the record's own under a former key becomes the new one, so that key is not removed."""
    if not adopts:
        return
    moved: set[tuple[RecordId, bytes]] = set()
    for at, write in enumerate(decision.writes):
        if (found := adopts.get(write.id)) is None:
            continue
        old = known.get(write.id)
        moves = old is not None and old.held and old.row == found.row
        if moves:
            moved.add((write.id, found.row))
        decision.writes[at] = write._replace(adopts=found, moves=moves)
    decision.removes = [one for one in decision.removes if (one.id, one.row.key) not in moved]

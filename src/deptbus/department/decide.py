"""Pure: what is to be written, removed and remembered for a batch of newest deliveries.

Rules (design, section 4, "At the recipient"), by the number that the code refers to:

 1. An upsert claims the row that its key columns name. Of the live claimants of a row the least
    (source unit, key) holds it; the others wait with their projections kept.
 2. Whoever goes (delete, withdrawal, another row) makes room for the next live claimant; with
    none left the row goes.
 3. All mapped columns are written each time; one whose field is closed gets null or its default.
 4. What has no form here or what the database refuses is parked. Its old copy stays until the
    retry succeeds, but only what the newest projection still allows: other columns are cleared.
    Where the row's own key is closed, or clearing is refused as well, the old copy goes.
 5. A withdrawal or delete that the database refuses empties the columns and is parked.
    Where the mapping says `on_remove: park` the removal of a row that is there is refused by the
    store, so it is parked until somebody has removed the row. Of a deleted record (no right ended)
    the row stays as it is meanwhile.
 6. A parked record claims nothing: its remnant gives way to any live claimant.
 7. Deletes and withdrawals of unknown records leave tombstones.

The database's own refusals come back as `refused` and the decision is taken anew; each record's
level rises with every refusal, so this ends after at most three rounds per record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deptbus.change import DeliveryOp
from deptbus.department.claims import least_claimant
from deptbus.department.fold import Folded, Outcome, Tally, count_settled
from deptbus.department.ledger import (
    NEVER_US,
    WAITS_FOR_JOIN,
    Entry,
    Prepared,
    RecordId,
    Row,
    Target,
    Unfit,
    holding,
)

FIRST_RETRY_US = 500_000
LAST_RETRY_US = 300_000_000


class Write(NamedTuple):
    """Insert or update the row: `values` in the order of the target's columns."""

    id: RecordId
    row: Row
    level: int
    values: tuple[Any, ...]
    adopts: Any = None  # the row (`adoption.Found`) that is to become this one first
    moves: bool = False  # that row is the record's own, under a former key


class Remove(NamedTuple):
    id: RecordId
    row: Row
    level: int


class Clear(NamedTuple):
    """Set these columns (positions in the target) to null or their defaults, if the row is."""

    id: RecordId
    row: Row
    level: int
    columns: tuple[int, ...]


Action = Write | Remove | Clear


class Refused(NamedTuple):
    """The database said no to an action of this record: `level` is one above that action's."""

    level: int
    reason: str


@dataclass(slots=True)
class Decision:
    """Actions in the order in which they must be done: what makes room comes first."""

    removes: list[Remove] = field(default_factory=list)
    clears: list[Clear] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    @property
    def actions(self) -> list[Action]:
        return [*self.removes, *self.clears, *self.writes]


Fits = Mapping[RecordId, Prepared | Unfit]


def prepare(
    folded: Folded, targets: Mapping[str, Target], fits: dict[RecordId, Prepared | Unfit]
) -> None:
    """Bring those candidates' projections into the recipient's own words that `fits` lacks."""
    for rid, entry in folded.candidates.items():
        if entry.op == DeliveryOp.UPSERT and rid not in fits:
            fits[rid] = targets[rid.dataset].prepare(entry, folded.records.get(rid))


def touched_rows(folded: Folded, known: Mapping[RecordId, Entry], fits: Fits) -> set[Row]:
    """The rows whose claimants `decide` must know: those that candidates leave or want."""
    rows = {Row(rid.dataset, fit.row) for rid, fit in fits.items() if isinstance(fit, Prepared)}
    for rid in folded.candidates:
        old = known.get(rid)
        if old is not None and old.row is not None:
            rows.add(Row(rid.dataset, old.row))
    return rows


def decide(
    folded: Folded,
    known: Mapping[RecordId, Entry],
    fits: Fits,
    targets: Mapping[str, Target],
    now_us: int,
    refused: Mapping[RecordId, Refused] | None = None,
) -> Decision:
    """`known`: the ledger's entries of all candidates and of all that name a touched row."""
    return _Deciding(folded, known, fits, targets, now_us, refused or {}).run()


def tally(folded: Folded, decision: Decision, replacing: frozenset[str]) -> None:
    """Count what became of the candidates (once, for the decision that was carried out)."""
    for entry in decision.entries:
        rid = entry.id
        if rid not in folded.candidates:
            continue
        if entry.parked is None:
            count_settled(
                folded, entry, replacing, waiting=entry.row is not None and not entry.held
            )
        elif rid not in folded.retries:
            line = Tally(entry.dataset, entry.cause, entry.direction, Outcome.PARKED)
            folded.tallies[line] += 1


class _Deciding:
    """One decision in the making; `after` is the ledger as it will be."""

    def __init__(
        self,
        folded: Folded,
        known: Mapping[RecordId, Entry],
        fits: Fits,
        targets: Mapping[str, Target],
        now_us: int,
        refused: Mapping[RecordId, Refused],
    ) -> None:
        self.folded, self.known, self.fits = folded, known, fits
        self.targets, self.now_us, self.refused = targets, now_us, refused
        self.after: dict[RecordId, Entry] = dict(known)
        self.decision = Decision()

    def run(self) -> Decision:
        before = {
            Row(e.dataset, e.row): e for e in self.known.values() if e.held and e.row is not None
        }
        claimed: defaultdict[Row, list[RecordId]] = defaultdict(list)
        rows: set[Row] = set()
        for rid, candidate in self.folded.candidates.items():
            old = self.known.get(rid)
            fit = self.fits.get(rid)
            if type(fit) is Prepared and rid not in self.refused:
                row = Row(rid.dataset, fit.row)
                claimed[row].append(rid)
                rows.add(row)
                again = rid in self.folded.retries
                self.after[rid] = _unparked(candidate, fit.row) if again else candidate
            else:
                new = self.after[rid] = self._settle(rid, candidate, old)
                if new.row is not None:
                    claimed[Row(rid.dataset, new.row)].append(rid)
            if old is not None and old.row is not None:
                rows.add(Row(rid.dataset, old.row))
        for rid, entry in self.known.items():
            if entry.row is not None and rid not in self.folded.candidates:
                claimed[Row(rid.dataset, entry.row)].append(rid)
        for row in sorted(rows):
            members = claimed.get(row, [])
            holder = before.get(row)
            if self._alone(members, holder, row):
                continue
            for rid in members:
                if rid in self.folded.candidates and rid not in self.refused:
                    fit = self.fits.get(rid)
                    if type(fit) is Prepared:
                        self.after[rid] = _unparked(self.folded.candidates[rid], fit.row)
            self._resolve(row, members, holder)
        self.decision.entries = [
            entry
            for rid, entry in sorted(self.after.items())
            if rid in self.folded.candidates or entry is not self.known.get(rid)
        ]
        return self.decision

    def _alone(self, members: list[RecordId], before: Entry | None, row: Row) -> bool:
        """What nearly every delivery is: an upsert of a row that nobody else has or wants."""
        if len(members) != 1 or (before is not None and before.id != members[0]):
            return False
        rid = members[0]
        fit = self.fits.get(rid)
        if type(fit) is not Prepared or rid in self.refused:
            return False
        self.after[rid] = holding(self.folded.candidates[rid], fit, self.now_us)
        self.decision.writes.append(Write(rid, row, 0, fit.values))
        return True

    def _settle(self, rid: RecordId, new: Entry, old: Entry | None) -> Entry:
        """The entry of a candidate that claims no row: gone, or parked."""
        refusal = self.refused.get(rid)
        level = refusal.level if refusal is not None else 0
        if new.op != DeliveryOp.UPSERT:
            if refusal is None:
                return _unparked(new, None)
            return self._parked(new, old, refusal.reason, stays=old is not None and old.held)
        fit = self.fits[rid]
        reason = fit.reason if isinstance(fit, Unfit) else refusal.reason if refusal else ""
        allowed = self.targets[rid.dataset].covers_key(new.field_names)
        stays = old is not None and old.held and (level >= 3 or (level < 2 and allowed))
        return self._parked(new, old, reason, stays=stays)

    def _parked(self, new: Entry, old: Entry | None, reason: str, *, stays: bool) -> Entry:
        # Waiting for the department's yes was no attempt.
        again = new.id in self.folded.retries and new.parked != WAITS_FOR_JOIN
        attempts = new.attempts + 1 if again else 1
        wait = min(FIRST_RETRY_US << min(attempts - 1, 20), LAST_RETRY_US)
        return new._replace(
            row=old.row if stays and old is not None else None,
            held=stays,
            written=None,
            parked=reason,
            parked_since_us=new.parked_since_us if again else self.now_us,
            attempts=attempts,
            retry_at_us=NEVER_US if reason == WAITS_FOR_JOIN else self.now_us + wait,
        )

    def _resolve(self, row: Row, members: list[RecordId], before: Entry | None) -> None:
        """Rules 1, 2 and 6 for one row: who holds it now, and what has to be done for that."""
        live = [rid for rid in members if self.after[rid].live]
        while live:
            winner = least_claimant(live)
            if self._install(winner, row, before):
                self._others_wait(winner, members)
                return
            live.remove(winner)
        remnant = next((r for r in members if self.after[r].held and self.after[r].parked), None)
        if remnant is not None:
            self._narrow(remnant, row)
        elif before is not None:
            now = self.after[before.id]
            level = 2 if now.parked is not None and now.op == DeliveryOp.UPSERT else 0
            self.decision.removes.append(Remove(before.id, row, level))

    def _install(self, rid: RecordId, row: Row, before: Entry | None) -> bool:
        """Let this live claimant hold the row; False when it cannot and is parked instead."""
        entry = self.after[rid]
        if rid not in self.folded.candidates and before is not None and before.id == rid:
            return True
        fit = self.fits[rid] if rid in self.fits else self.targets[rid.dataset].prepare(entry)
        refusal = self.refused.get(rid)
        if isinstance(fit, Unfit) or fit.row != row.key or refusal is not None:
            reason = (
                fit.reason
                if isinstance(fit, Unfit)
                else refusal.reason
                if refusal is not None
                else "mapping: its key columns were changed"
            )
            self.after[rid] = self._parked(entry, None, reason, stays=False)
            return False
        self.after[rid] = holding(entry, fit, self.now_us)
        self.decision.writes.append(Write(rid, row, 0, fit.values))
        return True

    def _others_wait(self, winner: RecordId, members: list[RecordId]) -> None:
        for rid in members:
            entry = self.after[rid]
            if rid == winner:
                continue
            if entry.parked is not None:
                self.after[rid] = entry._replace(row=None, held=False)
            elif entry.held:
                self.after[rid] = entry._replace(held=False, written=None)

    def _narrow(self, rid: RecordId, row: Row) -> None:
        """Rules 4 and 5: what the old copy of a parked record may not keep is cleared."""
        entry, refusal = self.after[rid], self.refused.get(rid)
        if rid not in self.folded.candidates or rid in self.folded.retries:
            return  # nothing new is known of it
        if refusal is not None and refusal.level >= 2:
            return  # the database refuses this too; it is parked, and shown
        upsert = entry.op == DeliveryOp.UPSERT
        if entry.op == DeliveryOp.DELETE and self.targets[rid.dataset].on_remove == "park":
            return  # the department decides; a right that ended empties the row all the same
        columns = self.targets[rid.dataset].closed_columns(entry.field_names if upsert else ())
        if columns:
            self.decision.clears.append(Clear(rid, row, 1, columns))


def _unparked(entry: Entry, row: bytes | None) -> Entry:
    return entry._replace(
        row=row,
        held=False,
        written=None,
        parked=None,
        parked_since_us=None,
        attempts=0,
        retry_at_us=None,
    )

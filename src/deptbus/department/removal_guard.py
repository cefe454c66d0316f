"""Pure: which of the outbox's removals are too many at once to be meant, and wait for a person.

A removal is what makes recipients lose a record: a delete, a move out of the place that the bus has
it at, a key that was changed. A mistake of one statement (a table that was emptied before it is
loaded again, an UPDATE without its WHERE, a list that was cut off) makes thousands of them. Rules,
each with a test:

1. Counted are removals by the minute in which the department's database was written, whenever an
   adapter reads them: those that were read, published or held, and those that still wait.
2. Within `minutes` more than `percent` of the dataset's records and at the least `at_least`: every
   removal of such a stretch of time that is not published yet is held. What was spread over a day
   is not, however late it is read.
3. Of a key whose removal is held, the bus keeps what it had. What comes later is not published
   while it is a removal still; its place on the bus is remembered, so that whatever is published
   of it one day names it.
4. A row that is back at the place that it had ends the hold of its key: if it is just as it was,
   nothing is published, else its new state is.
5. Rows of one key that are read together count by the last: one that was deleted and is back where
   it was is no removal, and if it is just as it was, nothing is published.
6. A key that several rows bear (rule 5 of `publication`) is not held: which of them speaks for it
   is decided one by one. One that came to be so since is given back by the row that was held only.
7. What a release asked for is published, and counts for nothing.
8. A move that capture missed counts where a resync finds it: its job says that the bus has the key
   at the place that is remembered last. (One that somebody has resent before that does not.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from deptbus.contract.department import HoldRemovals
from deptbus.department.capture import LIVE, HeldRemoval, Holding, OutboxRow
from deptbus.department.judge import Found
from deptbus.department.places import Where
from deptbus.department.publication import KeyOf, Publication
from deptbus.department.raw import raw_text
from deptbus.department.speakers import key_in

RELEASE = "release/"  # what the job of a released removal begins with
MOVED = "resync/moved"  # the job of an upsert by rule 8
MINUTE_US = 60_000_000

Pair = tuple[str, bytes]  # (dataset, key)


class Removal(NamedTuple):
    """An outbox row that takes its key away from where the bus has it."""

    at: int  # its place among the rows
    pair: Pair
    place: str  # where the bus has it; empty: not known
    minute: int


def is_release(row: OutboxRow) -> bool:
    return row.job is not None and row.job.startswith(RELEASE)


def may_remove(row: OutboxRow) -> bool:
    """False for nearly every row: there is no more to be asked of it."""
    return row.op == "d" or row.was is not None or row.job == MOVED


def crowded(counts: Mapping[int, int], rule: HoldRemovals, size: int) -> frozenset[int]:
    """Rule 2: minutes within a stretch of `rule.minutes` that has too many removals, of a dataset
    of `size` records. `counts`: minute -> removals."""
    if rule.percent >= 100:
        return frozenset()
    least = max(rule.at_least, int(size * rule.percent / 100) + 1)
    found: set[int] = set()
    minutes = sorted(m for m, n in counts.items() if n)
    first = total = 0
    marked = 0  # those before it are marked already
    for last, minute in enumerate(minutes):
        total += counts[minute]
        while minutes[first] <= minute - rule.minutes:
            total -= counts[minutes[first]]
            first += 1
        if total >= least:
            start = max(first, marked)
            found.update(minutes[start : last + 1])
            marked = last + 1
    return frozenset(found)


def busiest(counts: Mapping[int, int], rule: HoldRemovals) -> int:
    """The most removals that a stretch of `rule.minutes` has."""
    minutes = sorted(counts)
    first = total = most = 0
    for minute in minutes:
        total += counts[minute]
        while minutes[first] <= minute - rule.minutes:
            total -= counts[minutes[first]]
            first += 1
        most = max(most, total)
    return most


def removal_of(
    at: int, row: OutboxRow, found: Found, publication: Publication, last: Mapping[Pair, str]
) -> Removal | None:
    """None: recipients keep what they have of it. `last`: the place that is remembered last of the
    keys of rows whose job is MOVED."""
    key = key_in(found)
    if key is None or not may_remove(row) or is_release(row):
        return None
    pair = (row.dataset, key)
    place = last.get(pair) if row.job == MOVED else publication.own_place(row.was)
    if row.op == "u":
        where, now = publication.lies(row)
        if place is None or where is Where.NOWHERE or now == place:
            return None
    minute = row.source_time_us // MINUTE_US
    return Removal(at, pair, place or "", minute)


def state_text(row: OutboxRow) -> str:
    """Own columns and values, to be told from others; empty where they are not known."""
    return raw_text((*row.columns, *row.cells)) if row.cells else ""


@dataclass(slots=True)
class Outlook:
    """What is known of one batch before it is judged. `crowded`: by dataset. `held`: of its keys,
    brought up to date. `number`: of the dataset's open hold. `shared`: keys of several rows."""

    publications: Mapping[str, Publication]
    crowded: Mapping[str, Collection[int]]
    held: dict[Pair, HeldRemoval]
    number: Mapping[str, int]
    shared: Collection[Pair] = ()


@dataclass(slots=True)
class Sifted:
    """What is left of a batch: rows to be judged, each with what `find_keys` said of it. `drop`:
    positions of the others. `remember`: (dataset, key, place) by rule 3."""

    rows: list[OutboxRow] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)
    holding: Holding = field(default_factory=Holding)
    remember: list[tuple[str, bytes, str]] = field(default_factory=list)


def netted(
    rows: Sequence[OutboxRow],
    found: Sequence[Found],
    removals: Sequence[Removal],
    publications: Mapping[str, Publication],
) -> tuple[list[Removal], frozenset[int]]:
    """Rule 5: the removals that count, and the places among the rows of what is not published at
    all: deletes whose row is back, and the row too where it is just as it was."""
    if not removals:
        return [], frozenset()
    of_key: dict[Pair, list[int]] = {removal.pair: [] for removal in removals}
    for at, (row, one) in enumerate(zip(rows, found, strict=True)):
        key = key_in(one)
        if key is not None and (row.dataset, key) in of_key:
            of_key[row.dataset, key].append(at)
    counted, left_out = [], set()
    for removal in removals:
        row = rows[removal.at]
        behind = [at for at in of_key[removal.pair] if at > removal.at]
        back = rows[behind[-1]] if behind else row
        if (
            row.op == "u"
            or any(rows[at].op != "d" for at in behind[:-1])
            or not _is_back(row, back, removal.place, publications[row.dataset])
        ):
            counted.append(removal)
            continue
        left_out.add(removal.at)
        if back.cause == LIVE and state_text(row) and state_text(row) == state_text(back):
            left_out.add(behind[-1])
    return counted, frozenset(left_out)


def _is_back(row: OutboxRow, back: OutboxRow, place: str, publication: Publication) -> bool:
    return (
        back.op == "u"
        and back.raw == row.raw
        and back.was is None
        and not is_release(back)
        and publication.lies(back) == (Where.WITHIN, place)
    )


def sift(
    rows: Sequence[OutboxRow],
    found: Sequence[Found],
    removals: Sequence[Removal],
    left_out: Collection[int],
    outlook: Outlook,
) -> Sifted:
    """Rules 3 to 7 over one batch, in its order."""
    made = Sifted()
    fresh: dict[Pair, HeldRemoval] = {}
    counted: Counter[tuple[str, int]] = Counter()
    by_place = {removal.at: removal for removal in removals}
    for at, (row, one) in enumerate(zip(rows, found, strict=True)):
        key = key_in(one)
        pair = (row.dataset, key) if key is not None else None
        if at in left_out and pair not in outlook.held:
            made.drop.append(row.position)
            continue
        if pair is None or is_release(row):
            _keep(made, row, one)
            continue
        held = outlook.held.get(pair)
        if held is not None:
            _of_held(made, row, one, held, outlook, fresh)
            continue
        removal = by_place.get(at)
        if removal is not None:
            counted[row.dataset, removal.minute] += 1
            if (
                removal.minute in outlook.crowded.get(row.dataset, ())
                and pair not in outlook.shared
            ):
                fresh[pair] = _hold(made, row, one, removal, outlook)
                continue
        _keep(made, row, one)
    made.holding.held = list(fresh.values())
    made.holding.removals = dict(counted)
    return made


def _keep(made: Sifted, row: OutboxRow, one: Found) -> None:
    made.rows.append(row)
    made.found.append(one)


def _hold(
    made: Sifted, row: OutboxRow, one: Found, removal: Removal, outlook: Outlook
) -> HeldRemoval:
    state = state_text(row) if row.op == "d" else ""
    raw = one.raw if isinstance(one, KeyOf) else raw_text(row.raw)
    number = outlook.number[row.dataset]
    held = HeldRemoval(number, *removal.pair, raw, removal.place, state)
    outlook.held[removal.pair] = held
    made.drop.append(row.position)
    if removal.place:
        made.remember.append((*removal.pair, removal.place))
    return held


def _of_held(
    made: Sifted,
    row: OutboxRow,
    one: Found,
    held: HeldRemoval,
    outlook: Outlook,
    fresh: dict[Pair, HeldRemoval],
) -> None:
    """Rules 3, 4 and 6: a row of a key whose removal is held."""
    if row.op == "d":
        made.drop.append(row.position)
        return
    where, place = outlook.publications[row.dataset].lies(row)
    pair = (held.dataset, held.key)
    if where is Where.NOWHERE or (pair in outlook.shared and raw_text(row.raw) != held.raw):
        _keep(made, row, one)  # it will be parked
        return
    if where is not Where.WITHIN or (held.place and place != held.place):
        made.drop.append(row.position)
        return
    del outlook.held[pair]
    made.holding.given_back.append(pair)
    fresh.pop(pair, None)
    if row.cause == LIVE and held.state and held.state == state_text(row):
        made.drop.append(row.position)
    else:
        # It was never published where it was meanwhile.
        _keep(made, row._replace(was=None), one)

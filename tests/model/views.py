"""A dataset that is a view over three tables, on a database of many writers: transactions that see
what was committed and what they wrote themselves, their notes, and an adapter that looks.

Rules 1, 2 and 4 of `department.postgres_view`, as small as they can be said; `explore` walks every
order in which a few transactions and looks can come, and returns those whose end is stale. Planted:
whose records a row is in is found out when it is written, not when it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

Place = tuple[str, int]  # table, its key
Values = tuple[int, ...]
Tables = tuple[tuple[Place, Values], ...]  # in order

PERSON, ADDRESS, VILLAGE = "person", "address", "village"
# person: (number on the bus, name); address of a person: (village, street); village: (title,).
Note = tuple[str, int]  # a table whose rows have the place `int` in common; "" for a record's key


class Write(NamedTuple):
    """One row gets these values, or goes."""

    place: Place
    values: Values | None


class Transaction(NamedTuple):
    writes: tuple[Write, ...]
    is_rolled_back: bool = False


class _Open(NamedTuple):
    done: int  # of its writes
    own: tuple[tuple[Place, Values | None], ...]
    notes: frozenset[Note]


class _State(NamedTuple):
    tables: Tables
    open: tuple[_Open | None, ...]  # None: it has ended
    notes: frozenset[Note]
    shown: tuple[tuple[int, Values], ...]


def view(tables: Tables) -> dict[int, Values]:
    """What is to be published: a record is there where all three of its rows are."""
    at = dict(tables)
    found = {}
    for (table, key), values in tables:
        home = at.get((ADDRESS, key)) if table == PERSON else None
        village = at.get((VILLAGE, home[0])) if home is not None else None
        if home is not None and village is not None:
            found[values[0]] = (values[1], home[1], village[0])
    return found


def reached(note: Note, tables: Tables) -> set[Note]:
    """The keys of the records that a noted row is in."""
    at, (table, key) = dict(tables), note
    people = [key] if table == ADDRESS else []
    if table == VILLAGE:
        people = [who for (t, who), values in tables if t == ADDRESS and values[0] == key]
    return {("", at[PERSON, who][0]) for who in people if (PERSON, who) in at}


def explore(
    tables: Tables, transactions: Sequence[Transaction], *, joins_when_written: bool = False
) -> Iterator[Tables]:
    """What the tables are at each end at which what was shown is not what the view has."""
    start = _State(
        tables,
        tuple(_Open(0, (), frozenset()) for _ in transactions),
        frozenset(),
        tuple(sorted(view(tables).items())),
    )
    met, waiting = {start}, [start]
    while waiting:
        state = waiting.pop()
        following = list(_following(state, transactions, joins_when_written))
        if not following and dict(state.shown) != view(state.tables):
            yield state.tables
        fresh = set(following) - met
        met |= fresh
        waiting += fresh


def _following(
    state: _State, transactions: Sequence[Transaction], joins_when_written: bool
) -> Iterator[_State]:
    for number, going in enumerate(state.open):
        if going is None:
            continue
        ended = (*state.open[:number], None, *state.open[number + 1 :])
        transaction = transactions[number]
        if going.done == len(transaction.writes):
            if transaction.is_rolled_back:
                yield state._replace(open=ended)
            else:
                after = _over(state.tables, going.own)
                yield state._replace(tables=after, open=ended, notes=state.notes | going.notes)
            continue
        write = transaction.writes[going.done]
        others = [one for n, one in enumerate(state.open) if n != number and one is not None]
        if any(place == write.place for one in others for place, _ in one.own):
            continue  # it waits for that row
        seen = _over(state.tables, going.own)
        after = _over(seen, [write])
        notes = _noted(write.place, dict(seen).get(write.place), write.values)
        if joins_when_written:
            notes = {
                key
                for note in notes
                for key in ({note} if not note[0] else reached(note, seen) | reached(note, after))
            }
        now = _Open(
            going.done + 1,
            tuple(sorted((dict(going.own) | {write.place: write.values}).items())),
            going.notes | notes,
        )
        yield state._replace(open=(*state.open[:number], now, *state.open[number + 1 :]))
    for note in state.notes:  # one look: it sees what is committed just then
        rest = state.notes - {note}
        if note[0]:
            yield state._replace(notes=rest | reached(note, state.tables))
            continue
        shown, now = dict(state.shown), view(state.tables).get(note[1])
        shown.pop(note[1], None)
        if now is not None:
            shown[note[1]] = now
        yield state._replace(notes=rest, shown=tuple(sorted(shown.items())))


def _over(tables: Tables, own: Sequence[tuple[Place, Values | None]]) -> Tables:
    now = {**dict(tables), **dict(own)}
    return tuple(sorted((place, values) for place, values in now.items() if values is not None))


def _noted(place: Place, old: Values | None, new: Values | None) -> set[Note]:
    """A row's own columns of the join, or of the key, before and after; nothing of other tables."""
    table, key = place
    if table != PERSON:
        return {(table, key)}
    return {("", values[0]) for values in (old, new) if values is not None}

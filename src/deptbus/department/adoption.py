"""Pure: is a row that was here before the bus the row of a record that comes?

Rules, for a table that had rows when the dataset was first received into it:

1. Until the department has said yes (`deptbus department join`) nothing is written to it: each
   delivery is kept in the ledger, as a line that waits.
2. A row is a record's when its columns of `match`, read by the mapping's rules, are just what the
   bus would write there. A record without a value for one of them is parked: it would be doubled.
3. One such row that no other record holds is adopted: its own key becomes the record's, what its
   mapped columns had is kept, and from then on it is written like any other. With `existing: park`
   the record is parked instead. A row that the record itself holds under a former own key only gets
   the new one.
4. Several such rows, one that another record holds, or one that several records match: parked, all
   of them, whichever comes first. They are tried again like everything that is parked.
5. A row that bears the record's own key and is not recognised as its row stays as it is: parked.
6. An own key that other tables refer to is not changed: parked.
7. A record that no row matches is inserted. But a row that the bus made and emptied when a record
   went, and that stayed, is the record's when it comes back: by the own key that the row kept, or
   by what else tells it from all others. So long as nobody wrote there since, whatever `existing`
   says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from deptbus.department.ledger import Prepared, RecordId, Unfit
from deptbus.department.seen import row_of
from deptbus.department.target import MappedTarget
from deptbus.errors import DatabaseBusy
from deptbus.wire.digest import decode_values

PARKED_REMOVAL = "on_remove: park: its row is still there"
# A trigger of the table's that drops what is done, and raises nothing.
DROPPED_WRITE = "a trigger keeps it from being written"
DROPPED_REMOVAL = "a trigger keeps it from being removed"


class RowsMoved(DatabaseBusy):
    """A row that was to be adopted is not what it was; nothing of the batch was written."""

    def __init__(self, table: str) -> None:
        super().__init__(f"a row of {table} was changed while it was being adopted")


class Existing(NamedTuple):
    """What is remembered of a received dataset's table; the fields are columns of `existing`."""

    had_rows: bool
    waits: bool  # for the department's yes


class Found(NamedTuple):
    """A row of the department as it was when somebody looked."""

    place: tuple[Any, ...]  # by which the database finds it again while nobody changes it
    row: bytes  # its own key, encoded
    values: tuple[Any, ...]  # of the mapped columns
    marks: tuple[Any, ...] = ()  # of the columns of `mark`
    is_emptied: bool = False  # made by the bus, and emptied when its record went

    def still_is(self, now: Found | None) -> bool:
        """Whether nobody changed it since; what is no number (NaN) equals nothing, itself too."""
        if now is None or self[:2] != now[:2]:
            return False
        pairs = zip((*self.values, *self.marks), (*now.values, *now.marks), strict=True)
        return all(a == b or (_is_nan(a) and _is_nan(b)) for a, b in pairs)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | Decimal) and math.isnan(value)


def found_of(
    target: MappedTarget,
    place: tuple[Any, ...],
    values: tuple[Any, ...],
    marks: tuple[Any, ...],
) -> Found:
    try:
        row = row_of(target, values)
    except UnicodeEncodeError:
        row = b""  # no record's: what the bus writes is text
    return Found(place, row, values, marks)


class Looked(NamedTuple):
    """What was found for one record."""

    matching: Sequence[Found]
    bearing: Sequence[Found]  # its own key
    holders: Mapping[bytes, RecordId]  # of the rows among them that some record holds
    emptied: Found | None = None  # rule 7; no record holds it


def verdict(
    rid: RecordId, fit: Prepared, target: MappedTarget, looked: Looked, *, is_contested: bool
) -> Found | Unfit | None:
    """The row to adopt, why the record is parked, or None: it is inserted. Rules 3 to 7."""
    matching = {found.place: found for found in looked.matching}
    if not matching and looked.emptied is not None:
        matching = {looked.emptied.place: looked.emptied}
    if any(found.place not in matching for found in looked.bearing):
        return Unfit(f"existing: another row of {target.table} has its key")
    if not matching:
        return None
    if len(matching) > 1:
        return Unfit(f"existing: several rows of {target.table} match it")
    (found,) = matching.values()
    holder = looked.holders.get(found.row)
    if is_contested and holder != rid and not found.is_emptied:
        return Unfit(several_match(target))
    if holder not in (None, rid):
        return Unfit(f"existing: another record holds the row of {target.table} that matches it")
    if target.adopts == "park" and holder is None and not found.is_emptied:
        return Unfit(f"existing: a row of {target.table} matches it")
    if target.has_bound_key and _loses_its_key(found.row, fit.row):
        return Unfit(
            f"existing: other tables refer to the row of {target.table} that matches it by a key "
            "that is spelled otherwise"
        )
    return found


def several_match(target: MappedTarget) -> str:
    return f"existing: several records match its row of {target.table}"


def _loses_its_key(row: bytes, new: bytes) -> bool:
    """Whether something may refer to a row by its key that it would not have any more. Nothing
    does by a column that is empty."""
    if row == new or not row:
        return row != new
    pairs = zip(decode_values(row), decode_values(new), strict=True)
    return any(was is not None and was != now for was, now in pairs)


def match_of(target: MappedTarget, values: Sequence[Any]) -> tuple[Any, ...] | Unfit:
    """What a record's row is known by. Rule 2."""
    found = tuple(values[at] for at in target.match_positions)
    if any(value is None for value in found):
        name = target.columns[target.match_positions[found.index(None)]].name
        return Unfit(f"existing: {target.table}.{name} would be empty, by which rows are matched")
    return found


class Rivals:
    """Records that hold no row and are in question for one: by their match (encoded), each with its
    own key. Several of one own key are no rivals, but claimants of the row that has it."""

    def __init__(self) -> None:
        self._groups: dict[bytes, dict[RecordId, bytes]] = {}
        self._match_of: dict[RecordId, bytes] = {}

    def enter(self, rid: RecordId, match: bytes, row: bytes) -> None:
        """In the place of what was known of this record."""
        self.leave(rid)
        self._groups.setdefault(match, {})[rid] = row
        self._match_of[rid] = match

    def leave(self, rid: RecordId) -> None:
        """It went, or it holds a row, as everybody sees."""
        match = self._match_of.pop(rid, None)
        if match is not None:
            group = self._groups[match]
            del group[rid]
            if not group:
                del self._groups[match]

    def contest(self, match: bytes) -> bool:
        return len(set(self._groups.get(match, {}).values())) > 1

"""Pure: what is wrong with one row of a copy, in one word.

Rules for the copy leg, in the order in which they are asked; each has a row in the test table. The
bus gives the unit a record (`given`), or does not; the copy's bookkeeping has a line for the key,
with a version and what was delivered; its row stands in the table, or does not.

 1. `missing`: the bus gives the record, and the copy has no line for it.
 2. `unentitled`: the bus does not give the record, because the unit has no right to it (any more),
    and the copy has it.
 3. `extra`: the copy has a record that was deleted at its source, or that the bus does not know.
 4. `stale`: the copy has an older version than the bus has below the cut.
 5. `wrong`: the copy has a version that the bus has not.
 6. `unentitled`: the same version, and the copy has a field that the unit may not have.
 7. `wrong`: the same version, and other content.
 8. `parked`: the copy could not write the record; with its reason.
 9. `claimed`: another record holds its row.
10. `missing`: the line holds a row that is not in the table (deep).
11. `edited_locally`: the row is not what was written (deep).
12. `extra`: a row of the table that no record stands for (deep).

A row that is newer than the cut is compared with the bus at its own version, so 4 and 5 do not
speak of what is on its way.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Class(StrEnum):
    MISSING = "missing"
    EXTRA = "extra"
    STALE = "stale"
    WRONG = "wrong"
    EDITED_LOCALLY = "edited_locally"
    UNENTITLED = "unentitled"
    PARKED = "parked"
    CLAIMED = "claimed"


class Given(NamedTuple):
    """What the bus has of a key for one unit: `kind` is `given`, `deleted` (at the source) or
    `withheld` (the unit has no right to it)."""

    kind: str
    version: int
    digest: bytes  # of the item; empty unless given
    fields: tuple[str, ...]


class Had(NamedTuple):
    """What the copy has: `state` as `department.proof_copy.State` names it."""

    state: str
    version: int
    digest: bytes  # of the item; empty: it has none
    fields: tuple[str, ...]
    reason: str


class Fault(NamedTuple):
    word: Class
    reason: str  # names of columns and fields, versions; never a value


GIVEN, DELETED, WITHHELD = "given", "deleted", "withheld"

_UNKNOWN_HERE = "a row that no record of the bus stands for"


def fault_of(given: Given | None, had: Had) -> Fault | None:
    """None: as it should be. `given`: None for a key that the bus does not know."""
    if had.state == "unknown":
        return Fault(Class.EXTRA, _UNKNOWN_HERE)  # 12
    is_given = given is not None and given.kind == GIVEN
    if not had.digest:
        if is_given:
            return Fault(Class.MISSING, "no delivery of it was ever applied, or it was withdrawn")
        # A delete or withdrawal that the database refused.
        return Fault(Class.PARKED, had.reason) if had.state == "parked" else None
    if given is not None and given.kind == WITHHELD:
        return Fault(Class.UNENTITLED, "the unit has no right to this record")
    if given is None or not is_given:
        deleted = given is not None
        return Fault(
            Class.EXTRA, "deleted at its source" if deleted else "the bus does not know it"
        )
    return _of_content(given, had) or _of_state(had)


def _of_content(given: Given, had: Had) -> Fault | None:
    """Rules 4 to 7."""
    if had.version < given.version:
        return Fault(Class.STALE, f"version {had.version}, the bus has {given.version}")
    if had.version > given.version:
        return Fault(Class.WRONG, f"version {had.version}, the bus has only {given.version}")
    if had.digest == given.digest:
        return None
    closed = sorted(set(had.fields) - set(given.fields))
    if closed:
        return Fault(Class.UNENTITLED, f"fields: {', '.join(closed)}")
    return Fault(Class.WRONG, "other content than the bus has of this version")


def _of_state(had: Had) -> Fault | None:
    """Rules 8 to 11."""
    if had.state == "parked":
        return Fault(Class.PARKED, had.reason)
    if had.state == "claimed":
        return Fault(Class.CLAIMED, had.reason)
    if had.state == "removed":
        return Fault(Class.MISSING, had.reason)
    if had.state == "edited":
        return Fault(Class.EDITED_LOCALLY, had.reason)
    return None

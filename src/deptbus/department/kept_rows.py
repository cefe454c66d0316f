"""What stood in an own row before the bus wrote over it: lines of the table `kept`, for its owner.

Pure but for what the log is told: how values are written as text, so that each reads back as it
was, whatever its type; what is kept of which event; and what a row gets whose record goes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

import structlog

from deptbus.department.ledger import Entry, Prepared, RecordId
from deptbus.department.seen import row_digest
from deptbus.department.target import MappedTarget

log = structlog.get_logger(__name__)

Own = dict[str, Any]  # own column -> its value


class Origin(StrEnum):
    """By what the values were overwritten."""

    ADOPTION = "adoption"  # of all mapped columns, as they were before
    DELIVERY = "delivery"  # of those that somebody had typed over
    REMOVAL = "removal"  # when the record went: those typed over, and the columns of the mark


class KeptRow(NamedTuple):
    """One line of `kept` that is to be written."""

    id: RecordId
    row: bytes  # the row's own key as it is after the writing, encoded
    origin: Origin
    own: Own

    def words(self, now_us: int) -> tuple[Any, ...]:
        """For KEPT_LIST."""
        return (*self.id, self.row, self.origin.value, own_text(self.own), now_us)


KEPT_LIST = "dataset, source_unit, key, row_key, origin, own, kept_at_us"

_TAGGED: dict[type, tuple[str, Any, Any]] = {
    Decimal: ("decimal", str, Decimal),
    bytes: ("bytes", bytes.hex, bytes.fromhex),
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, date.fromisoformat),
    time: ("time", time.isoformat, time.fromisoformat),
}
_OF_TAG = {tag: read for tag, _, read in _TAGGED.values()}


def own_text(own: Mapping[str, Any]) -> str:
    """As JSON; text that is no UTF-8 survives by its escapes."""

    def told(value: Any) -> Any:
        known = _TAGGED.get(type(value))
        return value if known is None else {known[0]: known[1](value)}

    return json.dumps({name: told(value) for name, value in own.items()})


def own_of(text: str) -> Own:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((tag, word),) = value.items()
        return _OF_TAG[tag](word)

    return {name: read(value) for name, value in json.loads(text).items()}


def before_adoption(target: MappedTarget, values: Sequence[Any]) -> Own:
    """`values`: of the mapped columns."""
    return dict(zip((c.name for c in target.columns), values, strict=True))


def tell_gone(target: MappedTarget, rows: int) -> None:
    """Rows that records hold, and that are not there when they are to be written again: somebody
    removed them, or changed their own keys. Which of the two, nothing in the table says; so each is
    made anew, and whoever reads the log may find the other one."""
    if rows:
        log.warning("own_rows_gone", dataset=target.dataset, table=target.table, rows=rows)


def typed_into(target: MappedTarget, line: Entry | None, values: Sequence[Any]) -> Own:
    """What somebody typed into a row since the bus wrote it; `line`: of the ledger, that holds it.
    Where what the bus wrote cannot be made again (the line is parked, or cannot be read under this
    mapping) it is all of the row but the own key."""
    if line is None or not line.held or line.written == row_digest(tuple(values)):
        return {}
    if line.parked is None and line.record is not None:
        fit = target.prepare_always(line)
        if isinstance(fit, Prepared):
            return typed_over(target, values, fit.values)
    return {
        column.name: now
        for at, (column, now) in enumerate(zip(target.columns, values, strict=True))
        if at not in target.key_positions and now != target.cleared(at)
    }


def typed_over(target: MappedTarget, values: Sequence[Any], written: Sequence[Any]) -> Own:
    """Of the columns in which a row differs from what the bus wrote there. What the database itself
    rounds or pads is no difference of value."""
    return {
        column.name: now
        for at, (column, now, then) in enumerate(zip(target.columns, values, written, strict=True))
        if at not in target.key_positions and now != then and not _is_padded(now, then)
    }


def _is_padded(now: Any, then: Any) -> bool:
    if isinstance(now, float) and isinstance(then, float):
        return math.isclose(now, then, rel_tol=1e-6)  # a column of four bytes keeps no more
    if isinstance(now, datetime | time) and type(now) is type(then):
        return _is_rounded(now, then)
    return isinstance(now, str) and isinstance(then, str) and now.rstrip(" ") == then.rstrip(" ")


def _is_rounded(now: Any, then: Any) -> bool:
    """Whether a time is the other one to fewer digits of a second, as PostgreSQL's types with a
    precision keep it."""
    if isinstance(now, time):
        now, then = (datetime.combine(date.min, at) for at in (now, then))
    if (now.tzinfo is None) is not (then.tzinfo is None):
        return False
    off = abs(now - then) // timedelta(microseconds=1)
    units = (10**digits for digits in range(1, 7))
    return any(now.microsecond % unit == 0 and 2 * off <= unit for unit in units)


def is_emptied(target: MappedTarget, values: Sequence[Any], marks: Sequence[Any]) -> bool:
    """Whether a row has in all columns just what a row of the bus's making gets whose record went:
    nobody wrote there since."""
    emptied = left_behind(target, values, None)
    keys = target.key_positions
    return (
        not typed_over(target, values, emptied)
        and [values[at] for at in keys] == [emptied[at] for at in keys]
        and all(
            now == mark or _is_padded(now, mark)
            for now, (_, mark) in zip(marks, target.marks, strict=True)
        )
    )


def left_behind(target: MappedTarget, values: Sequence[Any], before: Own | None) -> list[Any]:
    """What the mapped columns of a row get whose record went and which stays: what they had before
    the adoption, else nothing. An own key that may not be empty stays where nothing was before, and
    so does one that other tables refer to: emptying it could empty theirs."""
    found = []
    for at, (column, now) in enumerate(zip(target.columns, values, strict=True)):
        if before is not None and column.name in before:
            found.append(before[column.name])
        elif at in target.key_positions:
            found.append(now if column.not_null or target.has_bound_key else None)
        else:
            found.append(target.cleared(at))
    return found

"""Pairs of tables on which known tools err: what is true of each, and who says otherwise."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from deptbus.department.values import ColumnKind, converter

from .rows import Table

# As they stand in a column with two digits after the point, whichever way they were written.
_as_kept = converter(ColumnKind.NUMERIC, scale=2)


class Case(NamedTuple):
    name: str
    one: Table
    other: Table
    is_equal: bool
    fooled: tuple[str, ...]  # of `known_tools.TOOLS`


GOLDEN = (
    Case("null and the text for it", [(1, None)], [(1, "<null>")], False, ("separated",)),
    Case("null and nothing", [(1, None)], [(1, "")], False, ()),
    Case("null moved on", [(None, "a")], [("a", None)], False, ()),
    Case("a separator in a value", [("a|b", "c")], [("a", "b|c")], False, ("separated",)),
    Case("another separator", [("a#b", "c")], [("a", "b#c")], False, ("flagged",)),
    Case("a flag in a value", [("a", None)], [("a#01", "")], False, ()),
    Case(
        "the same change in an even number of rows",
        [(1, "mon"), (2, "mon")],
        [(1, "tue"), (2, "tue")],
        False,
        ("flagged",),
    ),
    Case(
        "two rows twice, two others twice",
        [(1, "a"), (1, "a")],
        [(2, "b"), (2, "b")],
        False,
        ("flagged",),
    ),
    Case("a row twice", [(1, "a"), (1, "a")], [(1, "a")], False, ("separated",)),
    Case(
        "not the same row twice",
        [(1, "a"), (1, "a"), (2, "b")],
        [(1, "a"), (2, "b"), (2, "b")],
        False,
        ("separated",),
    ),
    Case("texts of one CRC-32", [(1, "plumless")], [(1, "buckeroo")], False, ("flagged",)),
    Case("a number and its text", [(1, "a")], [("1", "a")], False, ("separated", "flagged")),
    Case("texts of numbers", [(1, "1.0")], [(1, "1.00")], False, ()),
    Case(
        "one number, written otherwise into a column of two digits",
        [(1, _as_kept(Decimal("1.0")))],
        [(1, _as_kept(Decimal("1.00")))],
        True,
        (),
    ),
    Case("composed and decomposed letters", [(1, "é")], [(1, "e\u0301")], False, ()),
    Case("a space at the end", [(1, "a")], [(1, "a ")], False, ()),
    Case("another order of rows", [(1, "a"), (2, "b")], [(2, "b"), (1, "a")], True, ()),
)

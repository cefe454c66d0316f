"""What is wrong with a row of a copy: one row of the table for each rule, and what comes first."""

from __future__ import annotations

import pytest

from deptbus.operations.reconcile_classes import (
    DELETED,
    GIVEN,
    WITHHELD,
    Class,
    Given,
    Had,
    fault_of,
)

A, B = b"a" * 16, b"b" * 16
GIVES = Given(GIVEN, 5, A, ("id", "name"))
HAS = Had("equal", 5, A, ("id", "name"), "")
NOTHING = Had("absent", 0, b"", (), "")

RULES = [
    ("equal", GIVES, HAS, None),
    ("nothing is given, nothing is there", None, NOTHING, None),
    ("deleted, and gone", Given(DELETED, 6, b"", ()), NOTHING, None),
    ("1 missing", GIVES, NOTHING, Class.MISSING),
    ("1 after a withdrawal", GIVES, NOTHING._replace(version=4), Class.MISSING),
    ("2 no right to the record", Given(WITHHELD, 5, b"", ()), HAS, Class.UNENTITLED),
    ("3 deleted at its source", Given(DELETED, 6, b"", ()), HAS, Class.EXTRA),
    ("3 unknown to the bus", None, HAS, Class.EXTRA),
    ("4 an older version", GIVES, HAS._replace(version=4), Class.STALE),
    ("4 before parked", GIVES, HAS._replace(version=4, state="parked"), Class.STALE),
    ("4 before edited", GIVES, HAS._replace(version=4, state="edited"), Class.STALE),
    ("5 a version that the bus has not", GIVES, HAS._replace(version=6), Class.WRONG),
    ("6 a field too many", GIVES, Had("equal", 5, B, ("id", "phone"), ""), Class.UNENTITLED),
    ("7 other content", GIVES, HAS._replace(digest=B), Class.WRONG),
    ("7 a field too few", GIVES, Had("equal", 5, B, ("id",), ""), Class.WRONG),
    ("8 parked", GIVES, HAS._replace(state="parked", reason="too long"), Class.PARKED),
    ("8 a delete that is parked", Given(DELETED, 6, b"", ()),
     Had("parked", 6, b"", (), "foreign key"), Class.PARKED),
    ("9 claimed", GIVES, HAS._replace(state="claimed"), Class.CLAIMED),
    ("10 its row is not there", GIVES, HAS._replace(state="removed"), Class.MISSING),
    ("11 edited", GIVES, HAS._replace(state="edited"), Class.EDITED_LOCALLY),
    ("12 a row of nobody", None, Had("unknown", 0, b"", (), ""), Class.EXTRA),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "had", "word"), [r[1:] for r in RULES], ids=[r[0] for r in RULES]
)
def test_rules(given: Given | None, had: Had, word: Class | None) -> None:
    fault = fault_of(given, had)
    assert (fault.word if fault is not None else None) == word


def test_reasons_name_versions_and_fields_and_no_value() -> None:
    stale = fault_of(GIVES, HAS._replace(version=4))
    closed = fault_of(GIVES, Had("equal", 5, B, ("id", "phone", "salary"), ""))
    parked = fault_of(GIVES, HAS._replace(state="parked", reason="value: people.name: too long"))
    assert stale is not None
    assert closed is not None
    assert parked is not None
    assert stale.reason == "version 4, the bus has 5"
    assert closed.reason == "fields: phone, salary"
    assert parked.reason == "value: people.name: too long"

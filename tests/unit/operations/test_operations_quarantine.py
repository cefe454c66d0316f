"""Cases of quarantine: what state they are in, which are meant, and who is asked for them."""

from __future__ import annotations

from typing import Any

import pytest
from wire_samples import KEY, SOURCE, change, contract

from deptbus.contract.model import Contract, Unit
from deptbus.operations.quarantine import (
    Case,
    Selection,
    State,
    cases_of,
    place_of,
    place_text,
    plan_resend,
)
from deptbus.wire.control import QuarantineNote, Resolution

OUT = "out.public_security-330106"
OTHER_KEY = bytes(range(16))


def note(offset: int = 7, **other: Any) -> QuarantineNote:
    values: dict[str, Any] = {
        "topic": OUT,
        "partition": 1,
        "offset": offset,
        "last_offset": offset,
        "reason": "outside_territory",
        "owner": "li",
        "unit": SOURCE,
        "dataset": "person",
        "key": KEY,
        "version": 5,
        "noted_at_us": 1_000,
    }
    return QuarantineNote(**(values | other))


def unread(offset: int = 7, **other: Any) -> QuarantineNote:
    """A note of bytes that could not be read: nothing of the record is known."""
    return note(offset, reason="malformed", dataset="", key=None, version=None, **other)


def resolution(outcome: str, offset: int = 7, **other: Any) -> Resolution:
    values: dict[str, Any] = {
        "topic": OUT,
        "partition": 1,
        "offset": offset,
        "outcome": outcome,
        "act": "a",
        "operator": "wang",
        "reason": "because",
        "request": "r" if outcome == "resend_asked" else "",
        "datasets": ("person",) if outcome == "resend_asked" else (),
        "key": KEY if outcome == "resend_asked" else None,
        "resolved_at_us": 2_000,
    }
    return Resolution(**(values | other))


def town() -> Contract:
    unit = Unit(unit=SOURCE, title="a", title_zh="b", owner="li")
    return contract().model_copy(update={"units": (unit,)})


@pytest.mark.parametrize(
    ("outcome", "superseded", "state"),
    [
        ("dismissed", True, State.DISMISSED),
        ("dismissed", None, State.DISMISSED),
        ("resend_asked", True, State.SUPERSEDED),
        (None, True, State.SUPERSEDED),
        ("resend_asked", False, State.RESEND_ASKED),
        ("resend_asked", None, State.RESEND_ASKED),
        (None, False, State.OPEN),
        (None, None, State.OPEN),
    ],
)
def test_the_first_rule_that_holds_says_the_state(
    outcome: str | None, superseded: bool | None, state: State
) -> None:
    found = Case(note(), resolution(outcome) if outcome else None, superseded)
    assert found.state is state


@pytest.mark.parametrize(
    ("version", "source", "overtaken"),
    [(6, SOURCE, True), (5, SOURCE, False), (4, SOURCE, False), (6, "police@330105", False)],
)
def test_a_note_is_overtaken_by_a_newer_version_of_its_own_source(
    version: int, source: str, overtaken: bool
) -> None:
    found = change(None, version=version, source_unit=source)
    assert Case(note()).is_overtaken_by(found, 10_000) is overtaken


def test_what_could_not_be_read_is_overtaken_by_the_answer_to_its_resend() -> None:
    asked = Case(unread(), resolution("resend_asked"))
    assert asked.looked_for == (("person", KEY),)
    assert asked.is_overtaken_by(change(None), 2_000)
    assert not asked.is_overtaken_by(change(None), 1_999)
    # By the name of the request, whatever the clocks of two machines say.
    assert asked.is_overtaken_by(change(None, job="r"), 1_000)
    assert Case(unread()).looked_for == ()
    assert not Case(unread()).is_overtaken_by(change(None), 9_000)


def test_the_last_word_of_a_place_counts_and_a_note_keeps_its_age() -> None:
    (case,) = cases_of(
        [note(noted_at_us=9), resolution("resend_asked"), note(noted_at_us=50),
         resolution("dismissed")]
    )  # fmt: skip
    assert case.note.noted_at_us == 9
    assert case.state is State.DISMISSED
    assert cases_of([resolution("dismissed")]) == []


OPEN, ASKED = Case(note(1)), Case(note(2), resolution("resend_asked", 2))
DONE = Case(note(3), resolution("dismissed", 3))
UNREAD = Case(unread(4, unit=""))


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), [OPEN, ASKED, UNREAD]),
        (Selection(places=frozenset({DONE.place})), [DONE]),
        (Selection(reason="malformed"), [UNREAD]),
        (Selection(key=KEY), [OPEN, ASKED]),
        (Selection(key=KEY, reason="malformed"), []),
        (Selection(unit=SOURCE), [OPEN, ASKED, UNREAD]),  # whose outbox it is says whose it is
        (Selection(unit="housing@330106"), []),
        (Selection(dataset="person", states=tuple(State)), [OPEN, ASKED, DONE]),
    ],
)
def test_a_selection_means_cases_of_all_its_properties(
    selection: Selection, chosen: list[Case]
) -> None:
    assert [c for c in (OPEN, ASKED, DONE, UNREAD) if selection.has(c)] == chosen


def test_a_place_is_written_as_it_is_read() -> None:
    assert place_of(place_text(OPEN.place)) == OPEN.place
    for text in ("", "out.a/1", "out.a/x/1", "/1/2", "out.a/1/-2", "out.a/1/2/3"):
        assert place_of(text) is None


def test_one_request_is_made_for_a_key_however_many_notes_it_has() -> None:
    plan = plan_resend([OPEN, ASKED], town(), {})
    (ask,) = plan.asks
    assert (ask.unit, ask.datasets, ask.key, ask.cases) == (
        SOURCE, ("person",), KEY, (OPEN, ASKED)
    )  # fmt: skip
    assert plan.left_out == ()


def test_what_was_not_readable_is_asked_for_by_the_key_that_lies_there() -> None:
    plan = plan_resend([UNREAD], town(), {UNREAD.place: OTHER_KEY})
    assert [(a.unit, a.datasets, a.key) for a in plan.asks] == [(SOURCE, ("person",), OTHER_KEY)]


@pytest.mark.parametrize(
    ("case", "keys", "why"),
    [
        (UNREAD, {}, "its key is not known"),
        (UNREAD, {UNREAD.place: b"short"}, "its key is not known"),
        (Case(note(dataset="permit")), {}, "does not publish permit"),
        (Case(note(topic="data.person", unit="")), {}, "of no unit"),
        (Case(note(unit="stranger@330106")), {}, "does not publish"),
    ],
)
def test_where_nobody_can_be_asked_it_is_said_why(
    case: Case, keys: dict[Any, bytes], why: str
) -> None:
    plan = plan_resend([case], town(), keys)
    assert plan.asks == ()
    ((left, problem),) = plan.left_out
    assert left is case
    assert why in problem

"""What control records say of one system, and what is refused because of it."""

from __future__ import annotations

import itertools

import pytest

from deptbus.change import Incarnation
from deptbus.department.bus_memory import (
    BusMemory,
    check_outbox,
    check_publication,
    remembered,
)
from deptbus.errors import SourceRefused
from deptbus.names import control_topic
from deptbus.stream.log import LogRecord
from deptbus.wire.control import (
    Control,
    Heartbeat,
    Incarnated,
    OutboxSeen,
    encode_control,
    key_of,
)

UNIT, TOPIC = "police@330106", "out.police-330106"
OLD, YOUNG = Incarnation(1, b"11111111"), Incarnation(2, b"22222222")


def memory(*records: Control) -> BusMemory:
    topic = control_topic(UNIT)
    return remembered(
        [
            LogRecord(topic, 0, n, 0, key_of(record), encode_control(record))
            for n, record in enumerate(records)
        ],
        UNIT,
        "main",
    )


@pytest.mark.parametrize("key", [None, b"main/incarnated/9"], ids=["other unit", "wrong key"])
def test_what_is_not_this_units_own_misleads_nobody(key: bytes | None) -> None:
    """Foreign fingerprints made an adapter believe that its own secret was wrong."""
    unit = UNIT if key else "housing@330106"
    forged = Heartbeat(unit, "main", YOUNG, 99, 99, 1, (9,), "other", False, 0, 1)
    record = LogRecord(control_topic(UNIT), 0, 0, 0, key or key_of(forged), encode_control(forged))
    assert remembered([record], UNIT, "main") == BusMemory()


def beat(incarnation: Incarnation, publication: int, *ends: int) -> Heartbeat:
    return Heartbeat(UNIT, "main", incarnation, publication, 1, 1, ends, "f", False, 0, 1)


def test_the_outbox_is_as_the_youngest_adapter_saw_it() -> None:
    """Compaction may keep them in any order, and an older adapter that wakes may write one more."""
    records = (
        OutboxSeen(UNIT, "main", OLD, "one"),
        OutboxSeen(UNIT, "main", YOUNG, "two"),
        OutboxSeen(UNIT, "other", Incarnation(9, b"99999999"), "three"),
    )
    for order in itertools.permutations(records):
        assert memory(*order).outbox_id == "two"
    assert memory(beat(OLD, 1, 5)).outbox_id == ""


def refusal(known: BusMemory, topic_id: str, *begins: int) -> str:
    try:
        check_outbox(known, topic=TOPIC, topic_id=topic_id, begins=begins)
    except SourceRefused as refused:
        return f"{refused.what}. {refused.mend}"
    return ""


def test_a_topic_that_was_made_again_is_refused() -> None:
    said = refusal(BusMemory(outbox_id="one"), "two")
    assert "was made again" in said
    assert "deptbus department resync" in said
    assert refusal(BusMemory(outbox_id="one"), "one") == ""
    assert refusal(BusMemory(), "one") == ""  # of before it was noted


@pytest.mark.parametrize(
    ("begins", "is_refused"), [((5, 5), False), ((0, 0), False), ((5, 6), True), ((6, 0), True)]
)
def test_what_retention_took_behind_the_ends_is_refused(
    begins: tuple[int, ...], is_refused: bool
) -> None:
    known = memory(beat(OLD, 1, 5, 5))
    assert ("gone by retention" in refusal(known, "one", *begins)) is is_refused


@pytest.mark.parametrize(
    ("records", "is_refused"),
    [
        ((), True),
        # What starts leave that were refused, however many.
        ((Incarnated(UNIT, "main", OLD, (1,), "f"),), True),
        (
            (Incarnated(UNIT, "main", OLD, (1,), "f"), Incarnated(UNIT, "main", YOUNG, (2,), "f")),
            True,
        ),
        ((Incarnated(UNIT, "main", OLD, (1,), "f"), OutboxSeen(UNIT, "main", OLD, "one")), False),
        ((beat(OLD, 1, 5),), False),  # of before the outbox was noted
        ((OutboxSeen(UNIT, "other", OLD, "one"),), True),
    ],
)
def test_a_bus_that_knows_nothing_of_a_database_refuses_it_each_time(
    records: tuple[Control, ...], is_refused: bool
) -> None:
    known, said = memory(*records), ""
    try:
        check_publication(known, place="own.db", publication=7)
    except SourceRefused as refused:
        said = refused.what
    assert ("knows nothing of it" in said) is is_refused
    check_publication(known, place="own.db", publication=known.publication if known.ends else 0)

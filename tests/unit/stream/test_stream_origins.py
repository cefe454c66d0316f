"""Whether a committed offset counts records of the topic as it is now."""

from __future__ import annotations

import pytest
import stream_town as town
from structlog.testing import capture_logs

from deptbus.names import SCHEMAS, data_topic, in_topic, out_topic
from deptbus.stream.origins import Origins, other_origins

CONTRACT = town.contract()
OUT, DATA, IN = out_topic(town.POLICE), data_topic("resident"), in_topic(town.HOUSING)
TOPICS = [SCHEMAS, DATA, *(f(u) for u in town.UNITS for f in (out_topic, in_topic))]
IDS = {topic: f"{n:08x}-0000" for n, topic in enumerate(TOPICS)}


def origins(**other: str) -> Origins:
    return Origins(CONTRACT, IDS | other)


@pytest.mark.parametrize(
    ("before", "now", "others"),
    [
        ("", "out.a=1", []),  # committed by a version that wrote none
        ("out.a=1", "out.a=1", []),
        ("out.a=1", "out.a=2", ["out.a"]),
        ("out.a=1;data.x=1", "out.a=1;data.x=2", ["data.x"]),
        ("out.a=1", "out.a=1;data.x=2", []),  # a dataset that came
        ("out.a=1;data.x=1", "out.a=1", []),  # and one that left
    ],
)
def test_texts(before: str, now: str, others: list[str]) -> None:
    assert other_origins(before, now) == others


def test_an_outbox_is_read_again_when_what_it_feeds_was_made_again() -> None:
    committed = origins()
    after = origins(**{DATA: "another-id"})
    with capture_logs() as logs:
        assert not after.is_ours(OUT, committed.text(OUT))
        assert not after.is_ours(OUT, committed.text(OUT))  # of another partition
        assert not after.is_ours(DATA, committed.text(DATA))
    (line,) = logs
    assert (line["event"], line["topic"]) == ("topic_made_again", DATA)
    assert "every unit that publishes resident" in line["mend"]


def test_another_units_outbox_is_left_alone() -> None:
    committed, after = origins(), origins(**{OUT: "another-id"})
    assert not after.is_ours(OUT, committed.text(OUT))
    assert after.is_ours(out_topic(town.OTHER_POLICE), committed.text(out_topic(town.OTHER_POLICE)))
    assert after.is_ours(DATA, committed.text(DATA))


def test_what_is_not_there_for_a_moment_has_not_changed() -> None:
    known = origins()
    with capture_logs() as logs:
        assert not known.changed({t: i for t, i in IDS.items() if t != IN})
        assert known.changed(IDS | {IN: "another-id"})
    (line,) = logs
    assert line["topic"] == IN
    assert "deptbus department rejoin" in line["mend"]


def test_the_text_fits_into_a_commit() -> None:
    """offset.metadata.max.bytes is 4096, and a unit publishes a handful of datasets."""
    assert len(origins().text(OUT)) < 200

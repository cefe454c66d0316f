"""Which copy gets what, what the swap does to a record, and what is kept of a row: rules of
`department.rebuild`, without any database."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recipient_world import received, row

from deptbus.change import Cause, DeliveryOp
from deptbus.department.decide import Clear, Remove, Write
from deptbus.department.ledger import Entry, RecordId, entry_of
from deptbus.department.rebuild import (
    Rebuild,
    candidate,
    effects,
    fan_out,
    had_copy,
    is_of_rebuild,
)
from deptbus.department.rebuild_port import rebuild_of, words_of
from deptbus.department.rebuild_told import RebuildBook
from deptbus.names import dataset_of_copy, is_rebuilt_copy, rebuilt_copy
from deptbus.wire.control import PolicyMarker
from deptbus.wire.digest import delivered_digest, values_digest

KEY, JOB = b"k" * 16, "rebuild-1"
JOBS = {"resident": JOB}
LIVE = received(KEY, 3, {"number": "1", "name": "n"})
OURS = replace(LIVE, cause=Cause.REPLAY, job=JOB)
THEIRS = replace(LIVE, cause=Cause.REPLAY, job="rebuild-2")
REPLAYED = replace(LIVE, cause=Cause.REPLAY, job="replay-1")
OTHER = replace(LIVE, dataset="household")
MARKER = PolicyMarker(policy=2, datasets=("household", "resident"), job="j")
SECOND = rebuilt_copy("resident")


def second(item):
    return replace(item, dataset=SECOND)


@pytest.mark.parametrize(
    ("item", "jobs", "expected"),
    [
        (LIVE, {}, [LIVE]),
        (LIVE, JOBS, [LIVE, second(LIVE)]),
        (REPLAYED, JOBS, [REPLAYED, second(REPLAYED)]),
        (OURS, JOBS, [second(OURS)]),
        (OURS, {}, []),
        (THEIRS, JOBS, []),
        (OTHER, JOBS, [OTHER]),
        (MARKER, {}, [MARKER]),
        (MARKER, JOBS, [MARKER, replace(MARKER, datasets=(SECOND,))]),
    ],
)
def test_which_copy_gets_what(item, jobs, expected):
    assert fan_out([item], jobs) == expected


def test_the_order_within_each_copy_is_that_of_the_inbox():
    items = [LIVE, MARKER, replace(LIVE, version=4), OURS]
    found = fan_out(items, JOBS)
    for of_copy in (lambda d: d != SECOND, lambda d: d == SECOND):
        versions = [
            "marker" if isinstance(item, PolicyMarker) else item.version
            for item in found
            if of_copy(item.datasets[-1] if isinstance(item, PolicyMarker) else item.dataset)
        ]
        assert versions[:3] == [3, "marker", 4]


def test_only_the_jobs_of_rebuilds_are_ours():
    assert is_of_rebuild(OURS)
    assert not any(map(is_of_rebuild, (LIVE, REPLAYED)))


def test_no_dataset_is_named_as_a_second_copy_is():
    from deptbus.contract.check import NAME

    assert NAME.fullmatch("resident")
    assert not NAME.fullmatch(SECOND)
    assert is_rebuilt_copy(SECOND)
    assert not is_rebuilt_copy("resident")
    assert dataset_of_copy(SECOND) == dataset_of_copy("resident") == "resident"


def test_both_copies_have_the_same_digest_of_a_delivery():
    assert LIVE.record is not None
    expected = delivered_digest("resident", 1, LIVE.fields, LIVE.record)
    assert entry_of(LIVE, 1).delivered == entry_of(second(LIVE), 1).delivered == expected


def held(item, values) -> Entry:
    return entry_of(item, 1)._replace(
        row=row(values[0]).key, held=True, written=values_digest(values)
    )


VALUES = ("1", "n", "-")
RID = RecordId("resident", LIVE.source_unit, KEY)


def test_a_record_becomes_what_the_second_copy_says_whatever_the_one_in_use_claims():
    lies = held(replace(LIVE, version=99), VALUES)
    new = candidate(RID, held(second(LIVE), VALUES), lies, JOB, 7)
    assert new.id == RID
    assert (new.version, new.op, new.record) == (3, "upsert", entry_of(LIVE, 1).record)
    assert (new.row, new.held, new.written, new.applied_at_us) == (None, False, None, 7)


def test_what_waits_parked_in_the_second_copy_is_tried_as_new():
    parked = held(second(LIVE), VALUES)._replace(
        parked="value: poison", parked_since_us=1, attempts=5, retry_at_us=99
    )
    new = candidate(RID, parked, None, JOB, 7)
    assert (new.parked, new.parked_since_us, new.attempts, new.retry_at_us) == (None, None, 0, None)


def test_a_line_that_the_second_copy_has_not_is_forgotten():
    was = held(replace(LIVE, version=99), VALUES)
    new = candidate(RID, None, was, JOB, 7)
    assert (new.id, new.version, new.policy, new.op) == (RID, 0, 0, DeliveryOp.DELETE)
    assert (new.record, new.row, new.job) == (None, None, JOB)


def test_what_counts_as_a_copy_that_was():
    assert had_copy(held(LIVE, VALUES))
    assert not had_copy(None)
    assert not had_copy(entry_of(received(KEY, 1, None), 1))


ROW = row("1")
WRITE = Write(RID, ROW, 0, VALUES)
TYPED = ("1", "typed", "-")


@pytest.mark.parametrize(
    ("action", "real", "holder", "expected", "kept"),
    [
        (WRITE, None, None, (1, 0, 0), 0),
        (WRITE, VALUES, VALUES, (0, 0, 0), 0),
        (WRITE, ("1", "old", "-"), ("1", "old", "-"), (0, 1, 0), 0),  # as it was written
        (WRITE, TYPED, VALUES, (0, 1, 0), 1),  # edited since
        (WRITE, TYPED, None, (0, 1, 0), 1),  # nobody's
        (WRITE, VALUES, None, (0, 0, 0), 0),  # nobody's, and right by chance
        (Remove(RID, ROW, 0), VALUES, VALUES, (0, 0, 1), 0),
        (Remove(RID, ROW, 0), TYPED, VALUES, (0, 0, 1), 1),
        (Remove(RID, ROW, 0), None, VALUES, (0, 0, 0), 0),
        (Clear(RID, ROW, 1, (1,)), VALUES, VALUES, (0, 1, 0), 0),
        (Clear(RID, ROW, 1, (1,)), None, None, (0, 0, 0), 0),
    ],
)
def test_what_an_action_does_to_a_row(action, real, holder, expected, kept):
    holders = {} if holder is None else {ROW: held(LIVE, holder)}
    found = effects([action], {} if real is None else {ROW.key: real}, holders, JOB)
    assert (found.inserted, found.updated, found.removed) == expected
    assert [(k.order.job, k.order.dataset, k.values) for k in found.kept] == [
        (JOB, "resident", real)
    ] * kept


REBUILD = Rebuild(JOB, "resident", "swapping", "", (7, 0), {"updated": 3}, False, 9)


def test_a_job_reads_back_as_it_was_written():
    assert rebuild_of(words_of(REBUILD)) == REBUILD


@pytest.mark.parametrize(
    ("state", "is_open"),
    [("filling", True), ("swapping", True), ("swapped", False), ("dropped", False),
     ("refused", False), ("not_here", False)],
)  # fmt: skip
def test_which_jobs_are_open(state, is_open):
    assert REBUILD._replace(state=state).is_open == is_open


def test_what_changes_is_told_once():
    book = RebuildBook()
    book.take([REBUILD])
    assert book.news.is_set()
    book.tell(book.untold())
    assert book.untold() == []
    book.take([REBUILD._replace(is_tidy=True)])
    assert book.untold() == []
    done = REBUILD._replace(state="swapped")
    book.take([done])
    assert book.untold() == [done]
    another = REBUILD._replace(job="rebuild-2", state="swapped")
    book.tell([done])
    book.take([another])
    assert book.untold() == [another]

"""Progress by its numbered rules; hypothesis plays worker, rebalances and late acks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from deptbus.stream.batches import BATCH_RECORDS, WAITING_BYTES, WAITING_RECORDS, Progress
from deptbus.stream.watchdog import SILENT_LOOKS, STUCK_LOOKS, Watch

A, B = TP("data.a", 0), TP("data.b", 1)


@dataclass
class Record:
    offset: int
    serialized_value_size: int = 100


def fill(progress: Progress, tp: TP, start: int, count: int) -> None:
    progress.arrived(tp, [Record(offset) for offset in range(start, start + count)])


def finish(batch) -> None:
    for _ in range(batch.streams):
        batch.begin()
        batch.finish(delivered=True)


def test_rule_1_one_batch_of_a_partition_at_a_time():
    progress = Progress()
    fill(progress, A, 0, BATCH_RECORDS + 5)
    fill(progress, B, 0, 1)
    batch = progress.take(A, 2, 1)
    assert len(batch.records) == BATCH_RECORDS
    assert progress.ready() == [B]
    assert progress.take(A, 2, 1) is None
    finish(batch)
    assert progress.acked(batch)
    assert [r.offset for r in progress.take(A, 2, 1).records] == list(
        range(BATCH_RECORDS, BATCH_RECORDS + 5)
    )


def test_large_records_leave_no_room_before_many_do():
    progress = Progress()
    progress.arrived(A, [Record(0, WAITING_BYTES - 1)])
    assert progress.has_room(A)
    progress.arrived(A, [Record(1, 1)])
    assert not progress.has_room(A)
    assert progress.has_room(B)
    finish(batch := progress.take(A, 1, 1, 1))
    assert progress.acked(batch)
    assert progress.has_room(A)
    progress.take(A, 1, 1)
    progress.arrived(A, [Record(2, WAITING_BYTES - 1)])
    assert progress.has_room(A)


def test_a_batch_of_large_records_is_short():
    progress = Progress()
    progress.arrived(A, [Record(n, WAITING_BYTES // 2) for n in range(5)])
    sizes = []
    while batch := progress.take(A, 1, 1):
        sizes.append(len(batch.records))
        finish(batch)
        assert progress.acked(batch)
    assert sizes == [2, 2, 1]
    progress.arrived(A, [Record(5, 9 * WAITING_BYTES), Record(6, 1)])
    assert len(progress.take(A, 1, 1).records) == 1


def test_rule_2_every_stream_must_have_delivered():
    progress = Progress()
    fill(progress, A, 0, 3)
    batch = progress.take(A, 2, 1)
    batch.begin()
    batch.finish(delivered=True)
    batch.begin()
    assert batch.is_running
    batch.finish(delivered=False)
    assert not progress.acked(batch)
    assert progress.committable() == {}


def test_rule_3_the_offset_after_the_last_delivered_batch_over_gaps():
    progress = Progress()
    progress.arrived(A, [Record(5), Record(9)])  # compaction left gaps
    batch = progress.take(A, 1, 1)
    finish(batch)
    assert progress.acked(batch)
    assert progress.committable() == {A: 10}
    progress.committed({A: 10})
    assert progress.committable() == {}


def test_rule_4_what_was_forgotten_commits_nothing():
    progress = Progress()
    fill(progress, A, 0, 3)
    batch = progress.take(A, 1, 1)
    progress.forget()
    assert batch.is_forgotten
    fill(progress, A, 0, 3)
    again = progress.take(A, 1, 2)
    finish(batch)
    assert not progress.acked(batch)
    assert progress.committable() == {}
    finish(again)
    assert progress.acked(again)
    assert progress.committable() == {A: 3}


def test_room_ends_where_enough_waits():
    progress = Progress()
    assert progress.has_room(A)
    fill(progress, A, 0, WAITING_RECORDS)
    assert not progress.has_room(A)
    progress.take(A, 1, 1)
    assert progress.has_room(A)


STEPS = ["fetch", "take", "deliver", "skip", "commit", "rebalance"]


@given(st.lists(st.sampled_from(STEPS), min_size=10, max_size=60))
def test_nothing_is_committed_that_was_not_delivered(steps: list[str]):
    """A consumer over an endless log: whatever happens, every offset below the commit was delivered
    by every stream, in order."""
    progress, committed, position, delivered = Progress(), 0, 0, set()
    running, left_behind, generation = None, [], 1
    for step in steps:
        if step == "fetch" and progress.has_room(A):
            fill(progress, A, position, 7)
            position += 7
        elif step == "take":
            running = progress.take(A, 2, generation) or running
        elif step == "deliver" and (running or left_behind):
            batch = running or left_behind.pop()
            finish(batch)
            delivered |= {record.offset for record in batch.records}
            progress.acked(batch)
            running = None
        elif step == "skip" and running:
            progress.acked(running)  # a stream acks what it never delivered
            left_behind.append(running)
        elif step == "commit":
            offsets = progress.committable()
            progress.committed(offsets)
            committed = offsets.get(A, committed)
        elif step == "rebalance":
            progress.forget()
            position, generation = committed, generation + 1
            if running:
                left_behind.append(running)
                running = None
        assert set(range(committed)) <= delivered


def test_the_watch_counts_looks_without_a_sign_of_life():
    progress, watch = Progress(), Watch()
    fill(progress, A, 0, 1)
    batch = progress.take(A, 1, 1)
    for _ in range(STUCK_LOOKS):
        assert watch.look(progress.running, {}) is None
    assert watch.look(progress.running, {}) == ("agent_stuck", A)
    batch.touched_at += 1
    assert watch.look(progress.running, {}) is None


@pytest.mark.parametrize("pause", [0, SILENT_LOOKS // 2])
def test_the_watch_counts_looks_at_known_records_that_do_not_come(pause: int):
    watch = Watch()
    for _ in range(pause):
        watch.look({}, {A: 3})
    assert watch.look({}, {A: 0}) is None  # they came
    for _ in range(SILENT_LOOKS):
        assert watch.look({}, {A: 1}) is None
    assert watch.look({}, {A: 1}) == ("partition_silent", A)

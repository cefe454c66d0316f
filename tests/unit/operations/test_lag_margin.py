"""How long it is safe to wait, and when a reader that is behind arrives: rule by rule."""

from __future__ import annotations

import math

import pytest

from deptbus.operations.arrival import Moment, Trend, arrival
from deptbus.operations.lag import Lag, PartitionState
from deptbus.operations.margin import FOR_EVER, Keeping, keeping_of, margin_seconds

HOUR = 3600.0
LATE = Lag(PartitionState.OK, 5, 2 * HOUR, waits=True)
WEEK = Keeping(deletes=True, compacts=False, retention_seconds=168 * HOUR)
ROWS = {
    "1 by time": (LATE, WEEK, 166 * HOUR),
    "1 overdue": (Lag(PartitionState.LOST, 5, 200 * HOUR, gone=3, waits=True), WEEK, 0.0),
    "2 by size": (LATE, Keeping(True, False, 168 * HOUR, 10**9), None),
    "3 compacted": (LATE, Keeping(False, True, untouched_seconds=48 * HOUR), 46 * HOUR),
    "3 compacted and deleted by time": (LATE, Keeping(True, True, 24 * HOUR), 22 * HOUR),
    "4 kept for ever": (LATE, Keeping(True, False), FOR_EVER),
    "5 nothing unread": (Lag(PartitionState.OK, 0, 0.0, waits=False), WEEK, 168 * HOUR),
    "5 of unknown age": (Lag(PartitionState.OK, 5, None, waits=True), WEEK, None),
    "5 away": (Lag(PartitionState.UNREACHABLE), WEEK, None),
    "5 a topic of which nothing is known": (LATE, None, None),
}


@pytest.mark.parametrize("row", ROWS)
def test_margin(row):
    lag, keeping, expected = ROWS[row]
    assert margin_seconds(lag, keeping) == expected


def test_settings_as_kafka_tells_them():
    told = {
        "cleanup.policy": "delete",
        "retention.ms": "604800000",
        "retention.bytes": "-1",
        "min.compaction.lag.ms": "0",
    }
    assert keeping_of(told) == WEEK
    told |= {
        "cleanup.policy": "compact",
        "retention.ms": "-1",
        "min.compaction.lag.ms": "172800000",
    }
    assert keeping_of(told) == Keeping(False, True, None, None, 48 * HOUR)


ARRIVALS = {
    "1 one moment": ((), Moment(100, 0, 10), (Trend.UNKNOWN, None)),
    "1 too soon": ((Moment(98, 0, 10),), Moment(100, 9, 10), (Trend.UNKNOWN, None)),
    "2 gains": ((Moment(90, 0, 100),), Moment(100, 40, 120), (Trend.GAINS, 40.0)),
    "2 nothing comes": ((Moment(90, 0, 100),), Moment(100, 40, 100), (Trend.GAINS, 15.0)),
    "3 loses": ((Moment(90, 0, 100),), Moment(100, 40, 200), (Trend.LOSES, math.inf)),
    "3 stands while it comes": (
        (Moment(90, 0, 100),),
        Moment(100, 0, 101),
        (Trend.LOSES, math.inf),
    ),
    "4 keeps pace": ((Moment(90, 0, 100),), Moment(100, 1000, 1140), (Trend.UNKNOWN, None)),
    "4 nothing moves": ((Moment(90, 0, 100),), Moment(100, 0, 100), (Trend.UNKNOWN, None)),
}


@pytest.mark.parametrize("row", ARRIVALS)
def test_arrival(row):
    before, now, expected = ARRIVALS[row]
    assert arrival(before, now) == expected

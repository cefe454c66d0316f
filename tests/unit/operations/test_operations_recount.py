"""A recount from the inbox: each change once, and no unit may claim more."""

from __future__ import annotations

from collections import Counter

import pytest

from deptbus.change import Cause, DeliveryOp, Direction, Received
from deptbus.operations.picture import SavedRow
from deptbus.operations.recount import Recount, Tally, recounts

HOUSING, POLICE = "housing@330106", "public_security@330106"
NOON = 1_795_579_200_000  # 2026-11-25 12:00 in China
DAY_MS = 86_400_000
TODAY = "2026-11-25"


def delivery(
    version: int,
    address: str = "a",
    *,
    key: int = 1,
    cause: Cause = Cause.LIVE,
    policy: int = 1,
    op: DeliveryOp = DeliveryOp.UPSERT,
    dataset: str = "resident",
) -> Received:
    is_upsert = op is DeliveryOp.UPSERT
    return Received(
        dataset, bytes([key]) * 16, op, POLICE, version, 1, policy, Direction.HORIZONTAL, "rule",
        (), cause, None, ("id", "address") if is_upsert else (),
        (b"\x02k", address.encode()) if is_upsert else None, 1,
    )  # fmt: skip


def counted(*deliveries: Received, at: int = NOON) -> Counter[str]:
    tally = Tally()
    for one in deliveries:
        tally.take(one, at)
    return sum(tally.counts.values(), Counter())


def test_a_change_counts_once_however_often_it_comes() -> None:
    found = counted(delivery(1), delivery(1), delivery(2, "b"), delivery(1), delivery(2, "b"))
    assert (found["delivered"], found["repeated"], found["fields"]) == (2, 3, 4)


@pytest.mark.parametrize("cause", [c for c in Cause if c is not Cause.LIVE])
def test_what_no_person_did_is_no_change(cause: Cause) -> None:
    assert counted(delivery(1, cause=cause))["delivered"] == 0


def test_a_job_between_two_changes_adds_nothing() -> None:
    again = delivery(1, cause=Cause.REPLAY, policy=2)
    found = counted(delivery(1), again, delivery(2, "b", policy=2))
    assert (found["delivered"], found["repeated"]) == (2, 0)


@pytest.mark.parametrize("op", [DeliveryOp.DELETE, DeliveryOp.WITHDRAW])
def test_deletes_and_withdrawals_are_no_entries(op: DeliveryOp) -> None:
    found = counted(delivery(1), delivery(2, op=op), delivery(3))
    assert found["delivered"] == 2
    assert found["unchanged"] == 0, "what came back after it was gone is a change"


def test_a_change_of_fields_that_do_not_come_is_told_as_unchanged() -> None:
    found = counted(delivery(1), delivery(2), delivery(3, "b"), delivery(4, "b", key=2))
    assert (found["delivered"], found["unchanged"], found["first_seen"]) == (4, 1, 2)


def test_days_and_datasets_are_told_apart() -> None:
    tally = Tally()
    tally.take(delivery(1), NOON)
    tally.take(delivery(2), NOON + DAY_MS // 2 - 1)
    tally.take(delivery(3), NOON + DAY_MS // 2)  # midnight
    tally.take(delivery(1, dataset="household"), NOON)
    assert {at: c["delivered"] for at, c in tally.counts.items()} == {
        ("resident", TODAY): 2,
        ("resident", "2026-11-26"): 1,
        ("household", TODAY): 1,
    }


def test_what_one_partition_holds_is_forgotten_behind_it() -> None:
    tally = Tally()
    tally.take(delivery(1), NOON)
    tally.begin_partition()
    tally.take(delivery(1), NOON)
    assert tally.counts["resident", TODAY]["delivered"] == 2


def _counts(**days: int) -> dict[tuple[str, str], Counter[str]]:
    return {("resident", f"2026-11-{day[1:]}"): Counter(delivered=n) for day, n in days.items()}


def _told(**days: int) -> list[SavedRow]:
    return [SavedRow(HOUSING, "resident", f"2026-11-{d[1:]}", n, n) for d, n in days.items()]


def _too_much(rows: list[Recount]) -> list[str]:
    return [row.day for row in rows if row.is_too_much]


def test_who_claims_what_was_delivered_is_believed() -> None:
    rows = recounts(HOUSING, _counts(d24=3, d25=5), _told(d24=3, d25=4))
    assert [(row.delivered, row.told) for row in rows] == [(3, 3), (5, 4)]
    assert _too_much(rows) == []


def test_what_was_delivered_before_midnight_may_be_applied_behind_it() -> None:
    assert _too_much(recounts(HOUSING, _counts(d24=9, d25=1), _told(d24=2, d25=8))) == []


def test_who_counts_redeliveries_as_entries_is_found_out() -> None:
    """The planted mistake: a database that counts what came twice."""
    rows = recounts(HOUSING, _counts(d24=3, d25=5), _told(d24=3, d25=6))
    assert _too_much(rows) == ["2026-11-25"]


def test_who_claims_entries_of_what_was_never_delivered_is_found_out() -> None:
    told = [SavedRow(HOUSING, "household", TODAY, 1, 1)]
    (row,) = recounts(HOUSING, {}, told)
    assert row.is_too_much


def test_days_that_retention_took_are_left_out_and_blame_nobody() -> None:
    counts, told = _counts(d23=1, d24=3, d25=5), _told(d22=90, d23=80, d24=70, d25=5)
    rows = recounts(HOUSING, counts, told, whole_since="2026-11-24")
    assert [row.day for row in rows] == ["2026-11-24", "2026-11-25"]
    assert _too_much(rows) == []
    more = recounts(HOUSING, counts, _told(d24=70, d25=6), whole_since="2026-11-24")
    assert _too_much(more) == ["2026-11-25"]


def test_other_units_claims_are_their_own() -> None:
    told = [SavedRow("health@330106", "resident", TODAY, 9, 9)]
    assert recounts(HOUSING, {}, told) == []

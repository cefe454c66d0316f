"""The boundary: the day on which a grant starts or ends, in China, makes the next policy."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from deptbus.contract.model import Contract, Dataset, Grant, Line, Policy, Sharing, Unit
from deptbus.operations.boundary import crossed
from deptbus.operations.keeper import Kept, _tell


def grant(name: str, starts: date, until: date) -> Grant:
    return Grant(
        grant=name,
        unit="housing@330106",
        dataset="person",
        fields=("salary",),
        purpose="a test",
        territory="330106",
        starts=starts,
        until=until,
    )


def policy(activated_at: datetime, *grants: Grant) -> Policy:
    dataset = Dataset(
        title="Person",
        title_zh="人员",
        line="police",
        levels=("county",),
        schema_version=1,
        key=("id",),
        division="place",
        sharing=dict.fromkeys(("id", "place", "salary"), Sharing.CONDITIONAL),
    )
    fields = [{"name": n, "type": "string"} for n in ("id", "place", "salary")]
    contract = Contract(
        territories={"330106": "Xihu"},
        lines={n: Line(title=n, title_zh=n) for n in ("police", "housing")},
        units=tuple(
            Unit(unit=f"{n}@330106", title=n, title_zh=n, owner="o") for n in ("police", "housing")
        ),
        datasets={"person": dataset},
        grants=grants,
        schemas={"person.v1": {"type": "record", "name": "Person", "fields": fields}},
    )
    return Policy(number=4, activated_at=activated_at, activated_by="zhang", contract=contract)


JUNE = grant("june", date(2026, 6, 1), date(2026, 6, 30))
JULY = grant("july", date(2026, 7, 1), date(2026, 7, 31))
MID_JUNE = datetime(2026, 6, 15, tzinfo=UTC)
# 30 June ends at 16:00 UTC in China.
LAST_SECOND = datetime(2026, 6, 30, 15, 59, 59, tzinfo=UTC)
FIRST_SECOND = datetime(2026, 6, 30, 16, 0, 0, tzinfo=UTC)


def test_nothing_happens_before_the_last_second_of_a_grant():
    assert crossed(policy(MID_JUNE, JUNE), LAST_SECOND) is None


def test_the_next_policy_has_the_same_contract_the_next_number_and_says_why():
    before = policy(MID_JUNE, JUNE)
    after = crossed(before, FIRST_SECOND)
    assert after is not None
    assert (after.number, after.contract, after.activated_at) == (5, before.contract, FIRST_SECOND)
    assert after.activated_by == "grant ended: june"
    assert crossed(after, datetime(2030, 1, 1, tzinfo=UTC)) is None


def test_an_end_and_a_start_on_one_day_make_one_policy():
    after = crossed(policy(MID_JUNE, JUNE, JULY), FIRST_SECOND)
    assert after is not None
    assert after.activated_by == "grant ended: june; grant started: july"


def test_an_office_that_slept_for_months_makes_up_for_it_with_one_policy():
    """What started and ended meanwhile never was in force, and needs no policy of its own."""
    after = crossed(policy(MID_JUNE, JUNE, JULY), datetime(2026, 12, 1, tzinfo=UTC))
    assert after is not None
    assert after.activated_by == "grant ended: june"
    assert crossed(after, datetime(2027, 1, 1, tzinfo=UTC)) is None


def test_a_contract_without_grants_has_no_boundary():
    assert crossed(policy(MID_JUNE), datetime(2030, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(("hours", "alarms"), [(10.0, 0), (35.9, 0), (36.1, 1)])
def test_a_reader_that_compaction_may_overtake_is_an_alarm(hours, alarms):
    from structlog.testing import capture_logs

    with capture_logs() as told:
        _tell([Kept("person", 0, 0, hours * 3600), Kept("person", 1, 0, None)])
    assert [t["event"] for t in told] == ["reader_fell_behind"] * alarms


def test_the_keeper_knows_the_compaction_lag_that_topics_are_made_with():
    from deptbus.cluster.topics import MIN_COMPACTION_LAG_MS
    from deptbus.operations.keeper import COMPACTION_LAG_HOURS, INTERVAL_HOURS

    assert COMPACTION_LAG_HOURS * 3_600_000 == MIN_COMPACTION_LAG_MS
    assert INTERVAL_HOURS <= COMPACTION_LAG_HOURS / 2

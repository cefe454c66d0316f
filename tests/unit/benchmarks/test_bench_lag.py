"""The simulated world of the lag benchmark: every second unit is behind, and is seen to be."""

from __future__ import annotations

import json

from benchmarks import county, lag_poll
from deptbus.operations.lag_report import lag_document


async def test_every_second_unit_is_behind_and_nobody_is_forgotten() -> None:
    contract = county.contract(1, bystanders=2, partitions=3)
    cluster = lag_poll.world(contract)
    report = await lag_poll.watch(contract, cluster).look()
    assert len(report.picture.tracks) == sum(map(len, cluster.logs.values())) - 1 == 27
    behind = [t for t in report.picture.tracks.values() if t.lag.records]
    assert [t.lag.records for t in behind] == [lag_poll.UNREAD] * 6
    assert {u.unit for u in report.units} == {"bus", *(u.unit for u in contract.units)}
    assert json.dumps(lag_document(report, unit=None, only_bad=False))

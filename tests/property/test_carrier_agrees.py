"""Whatever a Carrier remembers, it delivers what the router says of each change at that instant."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import date, datetime, timedelta

import pytest
import stream_town as town
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from deptbus.change import Cause, Change
from deptbus.contract.model import Grant
from deptbus.names import data_topic, in_topic
from deptbus.routing import Router
from deptbus.routing.grants import CHINA
from deptbus.stream.delivery import AGENT_OF, Carrier, route_batch
from deptbus.stream.log import LogRecord
from deptbus.wire.codecs import Codecs

TOPIC = data_topic("resident")
# By grants alone, with a rule, and for a part of the territory; they end one day after the other.
GRANTS = tuple(
    Grant(
        grant=f"g{n}",
        unit=unit,
        dataset="resident",
        fields=fields,
        purpose="test",
        territory=territory,
        starts=date(2026, 1, 1),
        until=date(2026, 6, 1 + n),
    )
    for n, (unit, fields, territory) in enumerate(
        [
            (town.OTHER_POLICE, ("name", "phone"), "330106"),
            (town.OTHER_POLICE, ("id",), "330106109"),
            (town.HOUSING, ("phone",), "330106109051"),
        ]
    )
)
POLICY = town.policy(of=town.contract().model_copy(update={"grants": GRANTS}))
NOON = datetime(2026, 6, 1, 12, tzinfo=CHINA)
SOURCE = town.Source()

_PLACES = st.sampled_from([town.PLACE, "330106109", "330106"])
_CHANGES = st.builds(
    lambda name, gone, place, former, cause: (SOURCE.removal if gone else SOURCE.change)(
        name, 1, division=place, former_divisions=former, cause=cause
    ),
    st.sampled_from("ab"),
    st.integers(0, 4).map(lambda n: n == 0),
    _PLACES,
    st.lists(_PLACES, max_size=1).map(tuple),
    st.sampled_from([Cause.LIVE, Cause.LIVE, Cause.RESEND]),
)
# The clock of a machine is put back too.
_BATCHES = st.lists(
    st.tuples(st.integers(0, 4), st.lists(_CHANGES, min_size=1, max_size=5)), min_size=2, max_size=5
)


def _differs(batches: list[tuple[int, list[Change]]]) -> bool:
    codecs = Codecs(POLICY.contract)
    carrier = Carrier(Router(POLICY), codecs)
    for days, changes in batches:
        now = NOON + timedelta(days=days)
        values = [(c.key, codecs.encode_change(c)) for c in changes]
        records = [LogRecord(TOPIC, 0, n, 0, *pair) for n, pair in enumerate(values)]
        routed = asyncio.run(
            route_batch(TOPIC, 0, records, carrier=carrier, codecs=codecs, now=now)
        )
        assert not routed.reasons
        expected = defaultdict(list)
        for change in changes:
            deliveries = Router(POLICY).route(change, now)
            written = codecs.encode_deliveries(change, deliveries, POLICY.number)
            for delivery, value in zip(deliveries, written, strict=True):
                box = AGENT_OF[delivery.direction], in_topic(delivery.unit)
                expected[box].append((change.key, value))
        found = {
            (agent, inbox): pairs
            for agent, boxes in routed.deliveries.items()
            for inbox, pairs in boxes.items()
        }
        if found != expected:
            return True
    return False


@given(_BATCHES)
@settings(max_examples=examples(100), deadline=None)
def test_a_way_holds_no_longer_than_the_grants_by_which_it_was_learnt(
    batches: list[tuple[int, list[Change]]],
) -> None:
    assert not _differs(batches)


def test_a_way_that_outlives_its_grant_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [(days, [SOURCE.change("a", 1)]) for days in (0, 1)]
    assert not _differs(batches)
    monkeypatch.setattr(Router, "span", lambda self, now: None)
    assert _differs(batches)

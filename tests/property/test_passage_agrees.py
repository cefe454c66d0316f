"""The quick pass (`wire.passage`) against the decoder and the writer of deliveries.

What it sends on is what `Codecs.decode_change` reads and `Codecs.encode_deliveries` writes, byte
for byte; what either of them refuses, or what is not of the way that was learnt, it leaves to them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import stream_town as town
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_wire_agrees import mutations
from wire_samples import KEY, change
from wire_schemas import record_and_value

from deptbus.change import Cause, Change
from deptbus.errors import WireRefused
from deptbus.names import data_topic, out_topic
from deptbus.routing import Router
from deptbus.stream.delivery import Boxes, Carrier, Routed, route_batch
from deptbus.stream.fences import Fences
from deptbus.stream.intake import Judged, Outbox, judge_batch
from deptbus.stream.log import LogRecord
from deptbus.wire.codec import RecordCodec
from deptbus.wire.codecs import Codecs
from deptbus.wire.envelope import Memory, change_decoder
from deptbus.wire.outgoing import change_bytes, what_decides
from deptbus.wire.passage import Letter, Pair, Way, Ways, cut_of, passage
from deptbus.wire.types import resolve

FRAME = b"\x00\x01\x02\x03\x04"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def logged(*values: bytes, key: bytes = KEY) -> list[LogRecord]:
    return [LogRecord("data.person", 0, i, 0, key, v) for i, v in enumerate(values)]


class OneWay:
    """The pass over one random schema that knows the way of one change, and the decoder."""

    def __init__(self, schema: dict[str, Any], known: Change, places: tuple[int, ...]) -> None:
        memory, t = Memory(), resolve(schema)
        self.decode = change_decoder("person", 1, t, memory)
        self.to_boxes = passage(FRAME, t, memory, whole=False)
        self.whole = passage(FRAME, t, memory, whole=True)
        self.places = places
        self.decides = what_decides(known)
        letter = Letter(b"before", b"after", (0, 1))
        groups = ((cut_of(places), (letter,)),) if known.record is not None else (
            (None, (letter,)),
        )  # fmt: skip
        self.ways: Ways[Way] = Ways()
        self.ways.learn(*self.decides, Way(known.record is not None, groups))

    def sent(self, value: bytes) -> list[Pair] | None:
        """What goes to both boxes; None where the pass leaves the record to others."""
        boxes: Boxes = defaultdict(list)
        whole: list[Pair] = []
        end = self.to_boxes(logged(value), 0, 1, self.ways.senders, boxes)
        assert self.whole(logged(value), 0, 1, self.ways.senders, (whole,)) == end
        assert whole == ([(KEY, value)] if end else [])
        assert boxes[0] == boxes[1]
        return boxes[0] if end else None

    def expected(self, value: bytes) -> list[Pair] | None:
        """The same, slowly: by decoding, and only of changes that are like the known one."""
        if not value.startswith(FRAME):
            return None
        try:
            found = self.decode(KEY, value)
        except WireRefused:
            return None
        if what_decides(found) != self.decides:
            return None
        again = change_bytes(FRAME, len(found.record or ()), found)
        assert again == value
        middle = change_bytes(b"", len(found.record or ()), replace(found, publication=0))
        start = len(self.decides[0])
        rest = (b"\x00" + self.decides[1]) + (b"\x02" if found.record else b"\x00")
        upto = middle.index(rest, start)
        record = found.record or ()
        cut = b"".join(record[i] for i in self.places) if record else b""
        return [(KEY, b"before" + middle[start:upto] + b"after" + cut)]


def kinds_of(record: tuple[bytes, ...], times: tuple[int, int, int]) -> list[Change]:
    """A change of every envelope: live and by a job, with and without former places, a delete."""
    version, publication, time_us = times
    base = change(
        record,
        former_divisions=(),
        version=version,
        publication=publication,
        source_time_us=time_us,
    )
    gone = change(None, former_divisions=(), version=version, source_time_us=time_us)
    return [
        base,
        replace(base, former_divisions=("3301", "330105")),
        replace(base, job="job-7", cause=Cause.RESEND, policy=300),
        gone,
    ]


NUMBERS = st.one_of(st.integers(0, 5_000_000), st.integers(0, 2**63 - 1))
TIMES = st.one_of(st.integers(10**15, 2 * 10**15), st.integers(0, 253402300799999999))


@settings(max_examples=examples(10), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(record_and_value(), st.tuples(NUMBERS, NUMBERS, TIMES), st.integers(0, 2**32), st.data())
def test_what_is_sent_on_is_what_decoding_and_writing_would_send(
    sample: tuple[dict[str, Any], dict[str, Any]],
    times: tuple[int, int, int],
    seed: int,
    data: st.DataObject,
) -> None:
    schema, values = sample
    record = RecordCodec(schema).encode(values)
    for known in kinds_of(record, times):
        count = len(record) if known.record is not None else 0
        places = tuple(sorted(data.draw(st.sets(st.sampled_from(range(len(record)))))))
        way = OneWay(schema, known, places)
        value = change_bytes(FRAME, count, known)
        assert way.sent(value) is None or way.sent(value) == way.expected(value)
        way.decode(KEY, value)  # the memory of times is warm from the second time on
        assert way.sent(value) == way.expected(value) is not None
        for mutated in mutations(value, seed):
            assert way.sent(mutated) in (None, way.expected(mutated))
            assert way.expected(mutated) is None or way.sent(mutated) is not None


class SlowCodecs(Codecs):
    """Without the quick pass: every record is decoded."""

    def passage(self, head: bytes, dataset: str | None = None) -> None:
        return None


def town_batch(seed: int) -> list[tuple[bytes | None, bytes]]:
    """Changes of a few people who live, move and go, with bad ones among them."""
    rng = random.Random(seed)
    source = town.Source()
    made: list[tuple[bytes | None, bytes]] = []
    for version in range(1, 60):
        name = f"k{rng.randrange(6)}"
        place = rng.choice([town.PLACE, "330106", "330106109", "330105", "3301061x"])
        former = rng.choice([(), (), (), ("330106",), ("330106109", "330105")])
        make = source.removal if rng.random() < 0.2 else source.change
        words: dict[str, Any] = {"division": place, "former_divisions": former}
        if rng.random() < 0.1:
            words["source_unit"] = town.OTHER_POLICE
        if rng.random() < 0.1:
            words |= {"cause": Cause.RESEND, "job": "j"}
        if rng.random() < 0.05:
            words["policy"] = 2
        sent = make(name, version, **words)
        value = source.codecs.encode_change(sent)
        if rng.random() < 0.15:
            value = rng.choice(mutations(value, seed))
        key = rng.choice([sent.key] * 9 + [b"k", None])
        made.append((key, value))
    return made


@pytest.mark.parametrize("seed", range(20))
async def test_batches_are_routed_alike_with_and_without_the_quick_pass(seed: int) -> None:
    records = [LogRecord(data_topic("resident"), 2, i, 0, k, v)
               for i, (k, v) in enumerate(town_batch(seed))]  # fmt: skip
    found: list[Routed] = []
    for codecs in (Codecs(town.contract()), SlowCodecs(town.contract())):
        carrier = Carrier(Router(town.policy()), codecs)
        words: dict[str, Any] = {"carrier": carrier, "codecs": codecs, "now": NOW}
        # Cold, and then with all that was learnt.
        found += [
            await route_batch(records[0].topic, 2, records, is_newest=True, **words)
            for _ in range(2)
        ]
    assert found[0].reasons
    assert sum(map(len, found[0].deliveries.values()))
    assert all(each == found[-1] for each in found)


@pytest.mark.parametrize("seed", range(20))
def test_batches_are_judged_alike_with_and_without_the_quick_pass(seed: int) -> None:
    topic = out_topic(town.POLICE)
    records = [LogRecord(topic, 2, i, 0, k, v) for i, (k, v) in enumerate(town_batch(seed))]
    one_partition = town.contract().model_copy(update={"partitions": 1})
    found: list[Judged] = []
    for codecs in (Codecs(town.contract()), SlowCodecs(town.contract())):
        outbox = Outbox(town.POLICE, topic, 0, Fences())
        outbox.fences.announce("main", town.FIRST, -1)
        found += [
            judge_batch(outbox, records, codecs, one_partition, 1, 0, is_newest=True)
            for _ in range(2)
        ]
    assert found[0].reasons
    assert found[0].accepted
    assert all(each == found[-1] for each in found)

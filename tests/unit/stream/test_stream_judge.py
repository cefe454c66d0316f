"""Intake's judgement: every reason by name, and that a refusal stops nothing but itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import stream_town as town

from deptbus.change import Change, Incarnation
from deptbus.errors import WireRefused
from deptbus.names import QUARANTINE, data_topic, out_topic
from deptbus.stream import quarantine
from deptbus.stream.data import decode_data, marker_key
from deptbus.stream.fences import Fences
from deptbus.stream.intake import Outbox, judge, judge_batch, names_newer_policy
from deptbus.stream.log import LogRecord
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Announcement, Marker, decode_control, encode_control
from deptbus.wire.guard import REASONS as WIRE_REASONS
from deptbus.wire.partitioner import partition_of

SOURCE = town.Source()
CONTRACT = town.contract()
PLACE = partition_of(town.key_for("a"), town.PARTITIONS)
YOUNG = Incarnation(2, b"token--2")


def judged(change: Change, *, unit: str = town.POLICE, partition: int = PLACE) -> str | None:
    return judge(change, unit=unit, partition=partition, contract=CONTRACT, policy=3)


def test_a_change_of_its_own_unit_and_place_is_accepted():
    assert judged(SOURCE.change("a", 1)) is None
    assert judged(SOURCE.removal("a", 2)) is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"source_unit": town.OTHER_POLICE}, quarantine.WRONG_SOURCE_UNIT),
        ({"dataset": "household"}, quarantine.UNKNOWN_DATASET),
        ({"schema_version": 2}, quarantine.UNKNOWN_DATASET),
        ({"policy": 4}, quarantine.UNKNOWN_POLICY),
        ({"policy": 0}, quarantine.UNKNOWN_POLICY),
        ({"key": town.key_for("elsewhere")}, quarantine.WRONG_PARTITION),
        ({"division": "330106x"}, quarantine.BAD_DIVISION),
        ({"former_divisions": ("330106", "1")}, quarantine.BAD_DIVISION),
        ({"division": "330105001001"}, quarantine.OUTSIDE_TERRITORY),
        ({"division": "3301"}, quarantine.OUTSIDE_TERRITORY),
    ],
)
def test_what_is_refused_and_why(words: dict[str, Any], reason: str):
    if "key" in words:
        assert partition_of(words["key"], town.PARTITIONS) != PLACE
    assert judged(replace(SOURCE.change("a", 1), **words)) == reason


def test_changes_of_two_datasets_in_turn_are_not_decoded_once_they_are_known(
    monkeypatch: pytest.MonkeyPatch,
):
    names = ("resident", "household")
    twice = CONTRACT.model_copy(
        update={
            "datasets": dict.fromkeys(names, CONTRACT.datasets["resident"]),
            "schemas": {f"{name}.v1": town.RESIDENT for name in names},
        }
    )
    codecs = Codecs(twice)
    records = [
        LogRecord(
            *(out_topic(town.POLICE), PLACE, n, 0, town.key_for("a")),
            codecs.encode_change(replace(SOURCE.change("a", n), dataset=names[n % 2])),
        )
        for n in range(20)
    ]
    decoded: list[bytes | None] = []
    decode = codecs.decode_out
    monkeypatch.setattr(codecs, "decode_out", lambda k, v: decoded.append(v) or decode(k, v))
    outbox = Outbox(town.POLICE, out_topic(town.POLICE), PLACE, Fences())
    outbox.fences.announce("main", town.FIRST, -1)
    found = judge_batch(outbox, records, codecs, twice, 1, 0)
    assert {topic: len(box) for topic, box in found.accepted.items()} == {
        data_topic(name): 10 for name in names
    }
    assert len(decoded) == 2


def test_a_delete_lies_within_the_territory_too():
    gone = SOURCE.removal("a", 1, division="330105001001")
    assert judged(gone) == quarantine.OUTSIDE_TERRITORY


def test_a_former_place_may_lie_anywhere():
    """The unit's territory may have been another; a withdrawal there carries nothing."""
    assert judged(SOURCE.change("a", 1, former_divisions=("330105001001",))) is None


def test_a_unit_of_another_line_or_level_may_not_publish():
    for unit in (town.HOUSING, town.CITY_POLICE):
        found = replace(SOURCE.change("a", 1), source_unit=unit)
        assert judged(found, unit=unit) == quarantine.MAY_NOT_PUBLISH


def outbox(fences: Fences | None = None) -> Outbox:
    if fences is None:
        fences = Fences()
        fences.announce("main", SOURCE.incarnation, 0)
    return Outbox(town.POLICE, out_topic(town.POLICE), PLACE, fences)


def records_of(*found: tuple[bytes | None, bytes], first: int = 1) -> list[LogRecord]:
    topic = out_topic(town.POLICE)
    return [LogRecord(topic, PLACE, first + i, 0, k, v) for i, (k, v) in enumerate(found)]


def run(records: list[LogRecord], box: Outbox | None = None):
    return judge_batch(box or outbox(), records, SOURCE.codecs, CONTRACT, 1, 7)


def encoded(change: Change) -> tuple[bytes, bytes]:
    return change.key, SOURCE.codecs.encode_change(change)


def test_neighbours_of_a_bad_record_go_on_with_the_same_bytes():
    good = [encoded(SOURCE.change("a", v)) for v in (1, 2)]
    found = run(records_of(good[0], (b"k", b"\xff"), (None, b""), good[1]))
    assert found.accepted == {data_topic("resident"): good}
    assert len(found.reasons) == 2
    assert set(found.reasons) <= set(WIRE_REASONS)
    assert len(found.refused) == 2


def test_a_note_says_where_and_why_and_whose_and_nothing_of_the_content():
    secret = "330106199001011234"
    odd = SOURCE.change("a", 5, source_unit=secret)
    found = run(records_of(encoded(odd)))
    [outgoing] = found.refused
    note = decode_control(outgoing.value)
    assert outgoing.topic == QUARANTINE
    assert outgoing.key == f"{out_topic(town.POLICE)}/{PLACE}/1".encode()
    assert (note.reason, note.owner, note.unit, note.dataset) == (
        quarantine.WRONG_SOURCE_UNIT,
        f"desk of {town.POLICE}",
        town.POLICE,
        "resident",
    )
    assert (note.key, note.version, note.noted_at_us) == (odd.key, 5, 7)
    assert secret.encode() not in outgoing.value


def test_every_reason_of_the_stream_is_described():
    constants = {v for k, v in vars(quarantine).items() if k.isupper() and isinstance(v, str)}
    assert constants - {quarantine.OPERATIONS, QUARANTINE} == set(quarantine.REASONS)


def test_an_announcement_in_the_stream_fences_what_lies_behind_it_only():
    announcement = Announcement(town.POLICE, "main", YOUNG, PLACE, 1)
    old = [encoded(SOURCE.change("a", v)) for v in (1, 2)]
    young = encoded(SOURCE.change("a", 3, incarnation=YOUNG))
    box = outbox()
    records = records_of(old[0], (None, encode_control(announcement)), old[1], young)
    for _ in range(2):  # a batch that is done again is judged alike
        found = run(records, box)
        assert found.accepted == {data_topic("resident"): [old[0], young]}
        assert found.reasons == [quarantine.FENCED]


def test_an_announcement_of_another_unit_or_place_is_refused():
    stranger = Announcement(town.OTHER_POLICE, "main", YOUNG, PLACE, 1)
    elsewhere = Announcement(town.POLICE, "main", YOUNG, PLACE + 1, 1)
    found = run(records_of((None, encode_control(stranger)), (None, encode_control(elsewhere))))
    assert found.reasons == [quarantine.WRONG_SOURCE_UNIT, quarantine.WRONG_PARTITION]


def test_a_marker_goes_to_every_dataset_of_its_unit_under_a_key_of_its_own():
    marker = Marker("m1", "cut", town.POLICE, "main", SOURCE.incarnation, 1)
    found = run(records_of((None, encode_control(marker))))
    assert list(found.accepted) == [data_topic("resident")]
    [(key, value)] = found.accepted[data_topic("resident")]
    assert key == marker_key(marker)
    assert decode_data(SOURCE.codecs, key, value) == marker


def test_a_marker_of_a_lesser_incarnation_is_fenced():
    box = outbox()
    box.fences.announce("main", YOUNG, 0)
    marker = Marker("m1", "cut", town.POLICE, "main", SOURCE.incarnation, 1)
    assert run(records_of((None, encode_control(marker))), box).reasons == [quarantine.FENCED]


def test_a_marker_under_a_foreign_key_is_refused():
    marker = Marker("m1", "cut", town.POLICE, "main", SOURCE.incarnation, 1)
    for key in (None, b"marker/other", town.key_for("a")):
        with pytest.raises(WireRefused):
            decode_data(SOURCE.codecs, key, encode_control(marker))


def test_what_names_a_newer_policy():
    change = SOURCE.change("a", 1, policy=2)
    assert names_newer_policy([change], 1)
    assert not names_newer_policy([change], 2)
    assert names_newer_policy([WireRefused("unknown_schema", "")], 9)
    assert not names_newer_policy([WireRefused("malformed", "")], 1)


def test_a_batch_that_names_a_newer_policy_is_not_judged_before_the_contract_was_read():
    newer = records_of(encoded(SOURCE.change("a", 1)), encoded(SOURCE.change("a", 2, policy=2)))
    assert run(newer).names_newer
    found = judge_batch(outbox(), newer, SOURCE.codecs, CONTRACT, 1, 7, is_newest=True)
    assert not found.names_newer
    assert found.reasons == [quarantine.UNKNOWN_POLICY]


def test_what_was_learnt_of_a_change_does_not_let_another_place_or_incarnation_pass():
    """The quick pass knows the sender by its bytes: partition, fence and policy are asked anew."""
    box = outbox()
    good = [encoded(SOURCE.change("a", v)) for v in range(1, 4)]
    assert run(records_of(*good), box).reasons == []
    astray = encoded(SOURCE.change("elsewhere", 4))
    found = run(records_of(good[0], astray, good[1]), box)
    assert found.reasons == [quarantine.WRONG_PARTITION]
    assert found.accepted == {data_topic("resident"): good[:2]}
    box.fences.announce("main", YOUNG, 100)
    late = records_of(good[0], good[1], first=100)
    assert run(late, box).accepted == {data_topic("resident"): [good[0]]}
    assert run(late, box).reasons == [quarantine.FENCED]


def test_a_span_says_what_a_refusal_says_at_every_offset():
    old, young = SOURCE.incarnation, YOUNG
    eldest = Incarnation(3, b"token--3")
    for announced in ([(4, old)], [(4, old), (9, young)], [(3, young), (5, old)], [(2, old)] * 2):
        fences = Fences()
        for offset, incarnation in [*announced, (20, eldest)]:
            fences.announce("main", incarnation, offset)
        for incarnation in (old, young, eldest, Incarnation(9, b"unknown!")):
            first, last = fences.span(incarnation)
            for offset in range(30):
                allowed = fences.refusal(incarnation, offset) is None
                assert allowed is (first <= offset <= last), (announced, incarnation, offset)

"""A plan's file, and every reason for which a plan is not applied any more."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deptbus.errors import DeptbusError
from deptbus.operations.leg import Finding, LegResult
from deptbus.operations.logs import Span
from deptbus.operations.reconcile_copy import CopyProved, Seen
from deptbus.operations.replay_choice import (
    between,
    instant_of,
    of_keys,
    of_offsets,
    ranges_by_offsets,
    ranges_by_time,
    since,
)
from deptbus.operations.replay_dry_run import DryRun, count
from deptbus.operations.replay_plan import (
    Expected,
    Plan,
    PlannedRange,
    plan_of,
    read_plan,
    why_not,
    write_plan,
)
from deptbus.proof.certificate import Certificate, Proof

NOW = datetime(2027, 3, 1, tzinfo=UTC)
HERE = Path("plan.json")


def plan(**other) -> Plan:
    values = {
        "cluster": "abc",
        "policy": 4,
        "contract": "cd" * 32,
        "unit": "housing@330106",
        "datasets": ("person",),
        "topic_ids": ("id-1",),
        "rights": {"person": "r1"},
        "selection": "every key",
        "ranges": (PlannedRange(dataset="person", partition=0, start=10, end=20, keys=3),),
        "keys": {},
        "expected": (
            Expected(
                dataset="person", upserts=2, deletes=0, withdrawals=1, without_right=0,
                superseded=0, unknown=0, fields_sent={"name": 2}, fields_withheld={},
            ),
        ),
        "seconds": 1.0,
        "seconds_by": "1000 a second",
        "requester": "王五",
        "reason": "their disk failed",
        "made_at": NOW,
        "expires_at": NOW + timedelta(hours=24),
    }  # fmt: skip
    return Plan(**(values | other))


def test_a_plan_is_read_as_it_was_written_and_is_never_written_over(tmp_path):
    path = tmp_path / "plan.json"
    write_plan(plan(), path)
    assert path.stat().st_mode & 0o777 == 0o444
    assert read_plan(path) == plan()
    assert read_plan(path).job == f"replay-{plan().sha256[:12]}"
    with pytest.raises(DeptbusError, match="there already"):
        write_plan(plan(reason="another"), path)


@given(st.data())
def test_a_plan_with_one_byte_changed_is_refused(data):
    text = plan().as_file().encode()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[place]))
    changed = text[:place] + bytes([other]) + text[place + 1 :]
    with pytest.raises(DeptbusError):
        plan_of(changed.decode("utf-8", "surrogateescape"), HERE)


def _altered_and_taken(reader) -> list[str]:
    """What somebody could alter in a plan's file so that this reader takes it for a plan."""
    alterations = {
        "the unit": ("housing@330106", "housing@330107"),
        "the first offset": ('"start":10', '"start":9'),
        "the time": ("2027-03-02", "2027-03-09"),
        "the reason": ("their disk failed", "their disk is old"),
    }
    taken = []
    for name, (was, is_now) in alterations.items():
        assert was in plan().as_file(), name
        try:
            reader(plan().as_file().replace(was, is_now), HERE)
        except DeptbusError:
            continue
        taken.append(name)
    return taken


def test_nothing_that_a_plan_says_can_be_altered():
    assert _altered_and_taken(plan_of) == []


def test_a_reader_that_does_not_check_the_hash_is_found():
    def hasty(text: str, _: Path) -> Plan:
        return Plan.model_validate_json(json.dumps(json.loads(text)["plan"]))

    assert len(_altered_and_taken(hasty)) == 4


def test_a_plan_whose_hash_was_made_anew_is_another_plan():
    """Who alters a plan can make its hash too; the audit does not know that one."""
    content = json.loads(plan().as_file())
    content["plan"]["unit"] = "bank@330106"
    forged = Plan.model_validate_json(json.dumps(content["plan"]))
    assert plan_of(forged.as_file(), HERE).unit == "bank@330106"
    assert "bus.audit" in (refusal(forged, known_plans=frozenset({plan().sha256})) or "")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "7", '{"plan":1,"sha256":"x"}', "[" * 9999]
)
def test_what_is_no_plan_is_told_in_one_line(text):
    with pytest.raises(DeptbusError, match=r"no plan|was changed"):
        plan_of(text, HERE)


def refusal(made: Plan, **other) -> str | None:
    asked = {
        "now": NOW + timedelta(hours=23),
        "cluster": "abc",
        "topic_ids": {"person": "id-1"},
        "spans": {("person", 0): (10, 25)},
        "rights": {"person": "r1", "house": "r9"},
        "known_plans": frozenset({made.sha256}),
    }
    return why_not(made, **(asked | other))


def test_a_plan_of_which_nothing_changed_may_be_applied():
    assert refusal(plan()) is None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"cluster": "xyz"}, "another cluster"),
        ({"known_plans": frozenset()}, "bus.audit does not know"),
        ({"now": NOW + timedelta(hours=24)}, "expired"),
        ({"topic_ids": {}}, "data.person is not there"),
        ({"topic_ids": {"person": "id-2"}}, "made again"),
        ({"spans": {("person", 0): (11, 25)}}, "data is gone"),
        ({"spans": {("person", 0): (0, 19)}}, "data is gone"),
        ({"spans": {}}, "data is gone"),
        ({"rights": {"person": "r2"}}, "rights of housing@330106 to person"),
        ({"rights": {}}, "rights of housing@330106 to person"),
    ],
)
def test_each_reason_for_which_a_plan_is_refused(changed, says):
    assert says in (refusal(plan(), **changed) or "")


# -- what was chosen ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["2027-03-01T08:00:00", "2027-03-01", "yesterday", "", "1740787200"]
)
def test_a_time_needs_a_zone(text):
    with pytest.raises(DeptbusError, match=r"no zone|no time"):
        instant_of(text, "--from")


def test_a_time_is_the_same_in_every_zone():
    assert instant_of("2027-03-01T08:00:00+08:00", "--from") == NOW
    assert instant_of("2027-03-01T00:00:00Z", "--from") == NOW
    with pytest.raises(DeptbusError, match="not after"):
        between(NOW, NOW)


def test_what_a_time_means_of_each_partition():
    spans = [Span(5, 50), Span(0, 40), Span(0, 0)]
    found = ranges_by_time("person", spans, [10, None, None], [30, None, None])
    assert [(r.start, r.end, r.note) for r in found] == [
        (10, 30, ""),
        (40, 40, "nothing came after the first time"),
        (0, 0, "nothing came after the first time"),
    ]
    found = ranges_by_time("person", spans, None, [30, None, None])
    assert [(r.start, r.end, r.note) for r in found] == [
        (5, 30, ""),
        (0, 40, "nothing came after the last time"),
        (0, 0, "nothing came after the last time"),
    ]
    # Times of records need not ascend with their offsets, and the log may begin later by now.
    found = ranges_by_time("person", spans[:1], [20], [15])
    assert [(r.start, r.end) for r in found] == [(20, 20)]
    assert [r.start for r in ranges_by_time("person", spans[:1], [2], None)] == [5]


def test_offsets_as_kafkas_own_tool_prints_them():
    choice = of_offsets(["# a comment", "", "data.person:0:3", "person:1:2:9"], "file")
    assert choice.offsets == {("person", 0): (3, None), ("person", 1): (2, 9)}
    found = ranges_by_offsets("person", [Span(5, 20), Span(0, 30), Span(0, 7)], choice.offsets)
    assert [(r.start, r.end, r.note) for r in found] == [
        (5, 20, "2 offsets before 5 are gone by retention"),
        (2, 9, ""),
        (7, 7, "not chosen"),
    ]


@pytest.mark.parametrize(
    "lines", [["person:0"], ["person:0:9:3"], ["person:0:1", "person:0:2"], [], ["x"], ["in.a:0:1"]]
)
def test_offsets_that_mean_nothing_are_refused(lines):
    with pytest.raises(DeptbusError):
        of_offsets(lines, "file")


def test_offsets_beyond_the_end_are_of_another_bus():
    with pytest.raises(DeptbusError, match="ends at offset 20"):
        ranges_by_offsets("person", [Span(0, 20)], {("person", 0): (21, None)})
    with pytest.raises(DeptbusError, match="no partition 1"):
        ranges_by_offsets("person", [Span(0, 20)], {("person", 1): (0, None)})


def test_keys_are_told_by_line_and_never_quoted():
    with pytest.raises(DeptbusError) as refused:
        of_keys(["ab" * 16, "330106199001011234"], "file")
    assert "file:2" in str(refused.value)
    assert "330106199001011234" not in str(refused.value)
    assert of_keys(["AB" * 16, "ab" * 16, "# x"], "file").keys == {b"\xab" * 16}


def certificate(**other) -> Certificate:
    proofs = (
        Proof(dataset="person", leg="copy", cut={"data.person": (7, 0, 9)}),
        Proof(
            dataset="house", leg="copy", cut={"data.house": (1,)}, could_not_tell="a job is open"
        ),
        Proof(dataset="person", leg="source", cut={"data.person": (99, 99, 99)}),
    )
    values = {
        "cluster": "abc", "unit": "housing@330106", "policy": 4, "contract": "cd" * 32,
        "made_at": NOW, "operator": "wang", "proofs": proofs,
    }  # fmt: skip
    return Certificate(**(values | other))


def test_since_a_certificate_is_behind_the_cuts_of_the_copies_that_it_proved():
    choice = since(certificate(), "housing@330106")
    assert choice.offsets == {("person", 0): (7, None), ("person", 1): (0, None),
                              ("person", 2): (9, None)}  # fmt: skip
    assert choice.cluster == "abc"


def test_a_certificate_of_another_unit_or_of_no_copy_is_refused():
    with pytest.raises(DeptbusError, match="another unit"):
        since(certificate(), "bank@330106")
    with pytest.raises(DeptbusError, match="proves no copy"):
        since(certificate(proofs=certificate().proofs[1:]), "housing@330106")


def copy_with(*words: str, **result) -> CopyProved:
    """A copy of which a row of each of these classes differs; the first row's key is 0."""
    seen = tuple(
        Seen(Finding(bytes([n]) * 16, word, ""), b"", is_edited=False)
        for n, word in enumerate(words)
    )
    by_class = {word: words.count(word) for word in words}
    told = {"by_class": by_class} | result
    return CopyProved(LegResult("copy", "housing@330106", "main", "person", **told), seen)


def test_a_dry_run_counts_the_planned_keys_of_which_the_row_would_be_written():
    chosen = {bytes([n]) * 16 for n in range(4)}
    assert count(copy_with("missing", "stale", "parked", "edited_locally", "wrong"), chosen) == (
        DryRun(3)
    )
    assert count(copy_with(), chosen) == DryRun(0)
    assert count(copy_with("claimed"), chosen) == DryRun(0)


def test_a_dry_run_never_guesses():
    assert count(copy_with(could_not_tell="a job is open"), set()) == DryRun(None, "a job is open")
    told = count(copy_with("missing", by_class={"missing": 2}), {bytes(16)})
    assert (told.rows, "more rows differ" in told.problem) == (None, True)

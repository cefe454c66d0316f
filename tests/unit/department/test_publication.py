"""The rules of publication, by their numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from source_world import (
    AGREED,
    PLACES,
    PUBLICATION,
    PUBLISH,
    SECRET,
    UNIT,
    Desk,
    contract,
)

from deptbus.change import Cause, Change, ChangeOp, Reason
from deptbus.contract.department import Publish
from deptbus.department.capture import GONE, HOLDS, PARKED, OutboxRow, Variant
from deptbus.department.checks import is_resident_id
from deptbus.department.publication import Batch, Publication
from deptbus.wire.codecs import Codecs

A, B, C = PLACES
OUTSIDE = "330105008051"


def only(batch: Batch) -> Change:
    (change,) = batch.changes
    return change


def reasons(batch: Batch) -> list[str]:
    assert sorted(batch.prepared.drop) == sorted(p.position for p in batch.prepared.park)
    return [p.reason for p in batch.prepared.park]


# --- rule 1: the key ---------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["ab", " ab ", "AB", "ａｂ", "Ab\u3000"])
def test_one_key_however_it_is_typed(typed: str) -> None:
    desk = Desk()
    assert PUBLICATION.key_of(desk.row("u", typed)).key == PUBLICATION.key_of_raw(("AB",)).key


def test_a_number_and_its_text_are_one_key() -> None:
    keys = {PUBLICATION.key_of_raw((x,)).key for x in (7, "7", 7.0)}
    assert len(keys) == 1


@pytest.mark.parametrize("nothing", [None, "", "  ", b"x", "\udce6"])
def test_a_row_without_a_key_is_parked_and_its_delete_says_nothing(nothing: Any) -> None:
    desk = Desk()
    batch = desk.judge(desk.row("u", nothing))
    assert batch.changes == []
    assert reasons(batch) == ["no_key"]
    gone = desk.judge(desk.row("d", nothing))
    assert gone.changes == []
    assert gone.prepared.unpark
    assert desk.parked == set()


# --- rule 2: what is read, and what is refused ------------------------------------------------


def test_the_record_has_what_is_mapped() -> None:
    desk = Desk()
    change = only(desk.judge(desk.row("u", "1", born="1990/1/2", sex=2, religion="canary")))
    values = Codecs(AGREED).record_codec("person", 1).decode(change.record or ())
    assert values["sex"] == "female"
    assert values["born"].isoformat() == "1990-01-02"
    assert values["company"] is None
    assert b"canary" not in b"".join(change.record or ())
    assert (change.cause, change.policy, change.publication) == (Cause.LIVE, 7, 1)
    assert change.version == 1


@pytest.mark.parametrize(
    ("values", "reason", "column"),
    [
        ({"sex": 3}, "unknown_code", "sex"),
        ({"sex": None}, "missing", "sex"),
        ({"姓名": None}, "missing", "姓名"),
        ({"姓名": "\udce6"}, "not_text", "姓名"),
        ({"born": "1990-13-01"}, "bad_value", "born"),
        ({"born": b"x"}, "bad_value", "born"),
        ({"area": "330106109"}, None, None),
        ({"area": "330106109054"}, "bad_division", "area"),
        ({"area": "330106"}, None, None),
        ({"area": None}, "missing", "area"),
        ({"area": "996106109051"}, "bad_division", "area"),
        ({"firm": "91330106MA27XXXX0X"}, "bad_credit_code", "firm"),
        ({"firm": "91110000600037341L"}, None, None),
    ],
)
def test_checks(values: dict[str, Any], reason: str | None, column: str | None) -> None:
    desk = Desk()
    batch = desk.judge(desk.row("u", "1", **values))
    if reason is None:
        assert only(batch).op is ChangeOp.UPSERT
    else:
        assert batch.changes == []
        assert [(p.reason, p.column) for p in batch.prepared.park] == [(reason, column)]
        assert batch.prepared.drop == [1]


def test_a_parked_row_holds_nothing_of_its_content() -> None:
    desk = Desk()
    batch = desk.judge(desk.row("u", "1", 姓名="canary", sex=9))
    assert "canary" not in repr(batch.prepared)


def test_a_parked_row_is_forgotten_when_it_is_mended_or_gone() -> None:
    desk = Desk()
    assert reasons(desk.judge(desk.row("u", "1", sex=9), desk.row("u", "2", sex=9))) == [
        "unknown_code",
        "unknown_code",
    ]
    batch = desk.judge(desk.row("u", "1"), desk.row("d", "2"))
    assert {raw for _, raw in batch.prepared.unpark} == {'["1"]', '["2"]'}
    assert desk.parked == set()


def test_parked_and_mended_within_one_batch() -> None:
    desk = Desk()
    batch = desk.judge(desk.row("u", "1", sex=9), desk.row("u", "1"))
    assert batch.prepared.park == []
    assert only(batch).version == 2
    assert batch.prepared.drop == [1]


def test_a_field_that_the_schema_does_not_have_is_not_published() -> None:
    publish = Publish(
        table="people",
        columns={**PUBLISH.columns, "religion": "religion"},
        values=PUBLISH.values,
    )
    desk = Desk(Publication(UNIT, "person", publish, AGREED, SECRET))
    change = only(desk.judge(desk.row("u", "1", religion="canary")))
    assert b"canary" not in b"".join(change.record or ())


def test_a_constant_place() -> None:
    columns = {f: c for f, c in PUBLISH.columns.items() if f != "place"}
    publish = Publish(
        table="people", columns=columns, values=PUBLISH.values, constants={"place": A}
    )
    desk = Desk(Publication(UNIT, "person", publish, AGREED, SECRET))
    assert only(desk.judge(desk.row("u", "1"))).division == A
    # Where it lay: a delete said of the whole territory does not reach who has only that place.
    assert only(desk.judge(desk.row("d", "1"))).division == A
    # And it is remembered that the key was named, so a resend can say that it is gone.
    assert list(desk.batches[-1].prepared.places.values()) == [(A,)]
    assert only(desk.judge(desk.row("u", "1"))).former_divisions == ()


def test_a_file_row_is_judged_by_the_same_rules() -> None:
    row = {"身份证": "1", "area": A, "姓名": "李", "sex": "1", "born": None, "firm": None}
    assert PUBLICATION.why_not(row) is None
    assert PUBLICATION.why_not(row | {"sex": "9"}) == "unknown_code: sex"
    assert PUBLICATION.why_not(row | {"身份证": None}) == "no_key: 身份证"
    assert PUBLICATION.why_not(row | {"area": OUTSIDE}) is None


# --- rules 3 and 4: places --------------------------------------------------------------------


def test_a_key_that_never_moved_has_nothing_written() -> None:
    desk = Desk()
    batch = desk.judge(desk.row("u", "1"), desk.row("u", "1", 姓名="new"))
    assert batch.prepared.places == {}
    assert all(c.former_divisions == () for c in batch.changes)


def test_each_change_names_all_former_places() -> None:
    desk = Desk()
    desk.judge(desk.row("u", "1", area=A))
    assert only(desk.judge(desk.row("u", "1", A, area=B))).former_divisions == (A,)
    assert only(desk.judge(desk.row("u", "1", B, area=C))).former_divisions == (A, B)
    assert only(desk.judge(desk.row("u", "1", area=C, 姓名="x"))).former_divisions == (A, B)
    assert only(desk.judge(desk.row("u", "1", C, area=A))).former_divisions == (B, C)


def test_a_mistyped_place_between_two_moves_keeps_the_former_place() -> None:
    desk = Desk()
    desk.judge(desk.row("u", "1", area=A))
    typo = desk.judge(desk.row("u", "1", A, area="330106109999"))
    assert reasons(typo) == ["bad_division"]
    assert list(typo.prepared.places.values()) == [(A,)]
    assert only(desk.judge(desk.row("u", "1", "330106109999", area=B))).former_divisions == (A,)


def test_a_move_that_is_refused_for_another_reason_is_remembered() -> None:
    desk = Desk()
    desk.judge(desk.row("u", "1", area=A))
    assert reasons(desk.judge(desk.row("u", "1", A, area=B, sex=9))) == ["unknown_code"]
    # The next change does not move; only what is remembered can name the place.
    assert only(desk.judge(desk.row("u", "1", area=B))).former_divisions == (A,)


def test_the_planted_bug_of_forgetting_behind_a_refused_change_is_caught() -> None:
    """The same, by a source that remembers only what it publishes: the old place is not named, so
    whoever had the record there keeps it for ever."""
    desk = Desk()
    desk.judge(desk.row("u", "1", area=A))
    desk.judge(desk.row("u", "1", A, area=B, sex=9))
    desk.known.clear()
    assert only(desk.judge(desk.row("u", "1", area=B))).former_divisions != (A,)


def test_a_delete_remembers_beyond_itself() -> None:
    desk = Desk()
    desk.judge(desk.row("u", "1", area=A))
    gone = only(desk.judge(desk.row("d", "1", A)))
    assert (gone.op, gone.reason, gone.division) == (ChangeOp.DELETE, Reason.REMOVED, A)
    again = only(desk.judge(desk.row("u", "1", area=B)))
    assert again.former_divisions == (A,)


def test_a_valid_place_outside_is_a_delete() -> None:
    desk = Desk()
    desk.judge(desk.row("u", "1", area=A))
    desk.judge(desk.row("u", "1", A, area=B))
    left = only(desk.judge(desk.row("u", "1", B, area=OUTSIDE)))
    assert (left.op, left.reason, left.record) == (ChangeOp.DELETE, Reason.MOVED_OUT, None)
    assert (left.division, left.former_divisions) == (B, (A,))
    back = only(desk.judge(desk.row("u", "1", OUTSIDE, area=C)))
    assert (back.op, set(back.former_divisions)) == (ChangeOp.UPSERT, {A, B})


def test_a_row_that_was_always_outside_names_no_place_but_the_own() -> None:
    desk = Desk()
    change = only(desk.judge(desk.row("u", "1", area=OUTSIDE)))
    assert (change.op, change.division, change.former_divisions) == (ChangeOp.DELETE, "330106", ())


# --- rule 5: duplicates -----------------------------------------------------------------------


def test_a_plain_key_costs_nothing() -> None:
    desk = Desk()
    batch = desk.judge(desk.row("u", "A1"), desk.row("d", "A1", A))
    assert batch.prepared.variants == {}
    assert batch.prepared.wanted == []
    assert len(batch.changes) == 2


def test_a_second_row_with_the_same_canonical_key_is_parked() -> None:
    desk = Desk()
    desk.table = {"A1"}
    desk.judge(desk.row("u", "A1"))
    second = desk.judge(desk.row("u", "a1"))
    assert second.changes == []
    assert reasons(second) == ["duplicate"]


def test_the_heir_is_enqueued_afresh_when_the_holder_goes() -> None:
    desk = Desk()
    desk.table = {"A1"}
    desk.judge(desk.row("u", "A1"))
    desk.judge(desk.row("u", "a1"), desk.row("u", " A1"))
    desk.table = set()
    gone = desk.judge(desk.row("d", "A1", A))
    assert only(gone).op is ChangeOp.DELETE
    assert [w.raw for w in gone.prepared.wanted] == ['[" A1"]']
    fresh = desk.judge(desk.row("u", " A1", area=B))
    assert only(fresh).version > only(gone).version
    assert desk.parked == {("person", '["a1"]')}


def test_a_parked_duplicate_that_goes_says_nothing() -> None:
    desk = Desk()
    desk.table = {"A1"}
    desk.judge(desk.row("u", "A1"))
    desk.judge(desk.row("u", "a1"))
    batch = desk.judge(desk.row("d", "a1", A))
    assert batch.changes == []
    assert batch.prepared.drop == [3]
    assert desk.parked == set()


def test_a_key_that_was_borne_by_another_row_is_never_trusted_with_an_old_version() -> None:
    """`A1` is inserted at version 1 in a transaction that commits last. Meanwhile `a1` comes and
    goes at versions 2 and 3. Published at version 1 alone, `A1` would be stale for everybody."""
    desk = Desk()
    late = desk.row("u", "A1")
    desk.judge(desk.row("u", "a1"))
    assert only(desk.judge(desk.row("d", "a1", A))).version == 3
    batch = desk.judge(late)
    assert [w.raw for w in batch.prepared.wanted] == ['["A1"]']
    assert only(desk.judge(desk.row("u", "A1"))).version == 4


def test_mending_the_form_of_a_key() -> None:
    desk = Desk()
    desk.judge(desk.row("u", "a1"))
    batch = desk.judge(desk.row("d", "a1", A), desk.row("u", "A1", area=B))
    assert [c.op for c in batch.changes] == [ChangeOp.DELETE, ChangeOp.UPSERT]
    assert batch.changes[1].former_divisions == (A,)
    (states,) = batch.prepared.variants.values()
    assert set(states) == {Variant('["a1"]', GONE), Variant('["A1"]', HOLDS)}


def test_a_delete_by_bus_key_yields_to_a_holder() -> None:
    desk = Desk()
    desk.judge(desk.row("u", "a1"))
    key = PUBLICATION.key_of_raw(("a1",)).key

    def gone() -> OutboxRow:
        return desk.row("d", "")._replace(key=key, raw=())

    assert desk.judge(gone()).changes == []
    desk.judge(desk.row("d", "a1", A))
    change = only(desk.judge(gone()))
    assert (change.op, change.key, change.division) == (ChangeOp.DELETE, key, A)


@pytest.mark.parametrize("seed", range(200))
def test_random_rows_of_one_key_end_with_the_row_that_is_there(seed: int) -> None:
    """Three forms of one key come and go, in transactions that commit late; whatever the order in
    which rows become visible, the highest version says whether some row is there."""
    import random

    chance = random.Random(seed)
    desk = Desk()
    forms = ["A1", "a1", " A1"]
    waiting: dict[str, list[OutboxRow]] = {f: [] for f in forms}
    visible: dict[str, bool] = dict.fromkeys(forms, False)
    held: dict[str, bool] = dict.fromkeys(forms, False)  # as the writers see it
    published: list[Change] = []
    wanted: list[str] = []

    def read(form: str) -> None:
        row = waiting[form].pop(0)
        visible[form] = row.op == "u"
        desk.table = {f for f in forms if visible[f]}
        batch = desk.judge(row)
        published.extend(batch.changes)
        wanted.extend(json.loads(w.raw or "[]")[0] for w in batch.prepared.wanted)

    for _ in range(chance.randrange(4, 40)):
        form = chance.choice(forms)
        if chance.random() < 0.5:
            op = "d" if held[form] and chance.random() < 0.5 else "u"
            held[form] = op == "u"
            waiting[form].append(desk.row(op, form, A if op == "d" else None))
        elif waiting[form]:
            read(form)
        elif wanted:
            # A wanted row is enqueued under its lock: not while its writer has not committed.
            raw = wanted.pop()
            if waiting[raw]:
                wanted.append(raw)
            else:
                waiting[raw].append(desk.row("u" if held[raw] else "d", raw))
    while wanted or any(waiting.values()):
        for form in forms:
            while waiting[form]:
                read(form)
        for raw in dict.fromkeys(wanted):
            waiting[raw].append(desk.row("u" if held[raw] else "d", raw))
        wanted.clear()
    if published:
        last = max(published, key=lambda c: c.version)
        assert (last.op is ChangeOp.UPSERT) == any(held.values())
        states = [v.state for k in desk.known.values() for v in k.variants]
        assert states.count(HOLDS) == (1 if any(held.values()) and states else states.count(HOLDS))
        assert states.count(PARKED) == len(desk.parked)


# --- odds -------------------------------------------------------------------------------------


def test_resident_numbers() -> None:
    assert is_resident_id("11010519491231002X")
    assert not is_resident_id("110105194912310021")
    assert not is_resident_id("11010519491331002X")


def test_a_contract_with_other_places_judges_anew() -> None:
    wider = contract(UNIT, places=(*PLACES, "330106109054"))
    desk = Desk(Publication(UNIT, "person", PUBLISH, wider, SECRET))
    assert only(desk.judge(desk.row("u", "1", area="330106109054"))).division == "330106109054"


def test_a_delete_by_key_is_dropped_when_a_row_holds_the_key_after_all() -> None:
    """It must not wait in the outbox for ever."""
    desk = Desk()
    held = desk.judge(desk.row("u", "k")).changes[0]
    late = desk.row("d", "")._replace(key=held.key, raw=())
    batch = desk.judge(late)
    assert batch.changes == []
    assert batch.prepared.drop == [late.position]


def test_stray_bytes_are_read_in_the_encoding_that_the_mapping_names() -> None:
    """GBK in a text column of SQLite; what is no text in that either is parked as ever."""
    publish = PUBLISH.model_copy(update={"encoding": "gb18030"})
    desk = Desk(Publication(UNIT, "person", publish, AGREED, SECRET))
    stray = "李雷".encode("gb18030").decode("utf-8", "surrogateescape")
    change = only(desk.judge(desk.row("u", "1", 姓名=stray)))
    record = Codecs(AGREED).record_codec("person", 1).decode(change.record or ())
    assert record["name"] == "李雷"
    assert reasons(desk.judge(desk.row("u", "2", 姓名="\udcff\udcff"))) == ["not_text"]

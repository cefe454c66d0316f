"""Which stage speaks for a unit, who is asked, and what he is told to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deptbus.change import Incarnation
from deptbus.operations import stages
from deptbus.operations.advice import advice, page_of
from deptbus.operations.lag import Lag, Look, PartitionState, Seen, Unseen
from deptbus.operations.margin import FOR_EVER
from deptbus.operations.signs import (
    SILENT_SECONDS,
    AgentSigns,
    Life,
    Sign,
    SystemSigns,
    latest,
    life_of,
)
from deptbus.operations.stages import (
    Parked,
    Part,
    Stage,
    StageReport,
    outbox_seen,
    parked_of,
    stage_report,
    unit_report,
)
from deptbus.operations.verdicts import Limits, Reader, Track, Verdict, follow
from deptbus.wire.control import AgentReport, AppliedBeat, Heartbeat

ROOT = Path(__file__).parents[3]
NOW = 1_800_000_000.0
UNIT = "housing@330106"
OK, STOPPED, STALLED = Verdict.OK, Verdict.STOPPED, Verdict.STALLED
NOTHING = Lag(PartitionState.OK, 0, 0.0, waits=False)
LATE = Lag(PartitionState.OK, 5, 300.0, waits=True)
AWAY = Lag(PartitionState.UNREACHABLE, reason="not_leader")


def part(verdict: Verdict | None, lag: Lag = LATE, margin: float | None = FOR_EVER) -> Part:
    return Part(Track(NOW, None, lag, verdict, NOW - 9), margin)


def report(*parts: Part, **words) -> StageReport:
    return stage_report(UNIT, Stage.APPLY, "科", parts, now=NOW, **words)


WELL, CALM, STANDS = part(OK, NOTHING), part(Verdict.CATCHING_UP), part(STALLED)
NOBODY = part(None, AWAY)
ROWS = {
    "0 closed, and late": ((STANDS,), {"silent_since": NOW - 99, "closed_until": NOW + 9}, OK),
    "0 closed, and nobody can see": ((NOBODY,), {"silent_since": 1.0, "closed_until": NOW + 9}, OK),
    "0 closed, and records are gone": (
        (part(Verdict.LOST),),
        {"silent_since": 1.0, "closed_until": NOW + 9},
        Verdict.LOST,
    ),
    "0 closed, and capture gave way": (
        (WELL,),
        {"missed": True, "closed_until": NOW + 9},
        Verdict.LOST,
    ),
    "1 capture gave way": ((WELL,), {"missed": True}, Verdict.LOST),
    "1 and it stands": ((STANDS,), {"missed": True}, Verdict.LOST),
    "2 one stands": ((WELL, STANDS), {}, STALLED),
    "2 one stands, another nobody can see": ((NOBODY, STANDS), {}, STALLED),
    "2 it is lost, and nobody is there": (
        (part(Verdict.LOST),),
        {"silent_since": 1.0},
        Verdict.LOST,
    ),
    "3 silent, nothing waits": ((WELL,), {"silent_since": NOW - 99}, STOPPED),
    "3 silent, nobody can see": ((NOBODY,), {"silent_since": NOW - 99}, STOPPED),
    "4 nobody can see one": ((WELL, NOBODY), {}, None),
    "4 nobody can see one, another catches up": ((CALM, NOBODY), {}, None),
    "5 well": ((WELL, WELL), {}, OK),
    "5 catches up": ((WELL, CALM), {}, Verdict.CATCHING_UP),
    "5 nothing to read": ((), {}, OK),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_rule(row):
    parts, words, expected = ROWS[row]
    assert report(*parts, **words).verdict == expected


def test_every_rule_has_a_row():
    doc = (stages.__doc__ or "").splitlines()
    assert {line[0] for line in doc if line[:1].isdigit()} == {row[0] for row in ROWS}


def test_numbers_with_an_unknown_part_are_not_known():
    known = report(part(STALLED), part(OK, NOTHING, 10.0), part(OK, LATE, 50.0))
    assert (known.lag_records, known.lag_seconds, known.margin_seconds) == (10, 300.0, 10.0)
    unknown = report(part(STALLED), NOBODY, part(OK, LATE, None))
    assert (unknown.lag_records, unknown.lag_seconds) == (None, None)
    assert unknown.margin_seconds is None
    assert unknown.reason == "not_leader"


def test_since_when():
    assert report(STANDS).since == NOW - 9
    assert report(WELL, silent_since=NOW - 70).since == NOW - 70


def test_who_speaks_for_a_unit():
    def said(verdict: Verdict | None, stage: Stage, seconds: float | None = 0.0) -> StageReport:
        return StageReport(UNIT, stage, "科", verdict, None, seconds, NOW)

    well = said(OK, Stage.OUTBOX)
    assert (
        unit_report([well, said(STALLED, Stage.APPLY), said(None, Stage.INTAKE)]).stage == "apply"
    )
    assert (
        unit_report(
            [well, said(Verdict.CATCHING_UP, Stage.APPLY), said(None, Stage.INTAKE)]
        ).verdict
        is None
    )
    longer = [said(STALLED, Stage.INTAKE, 5.0), said(STALLED, Stage.APPLY, 9.0)]
    assert unit_report(longer).stage == "apply"
    alike = [said(OK, Stage.APPLY), said(OK, Stage.OUTBOX), said(OK, Stage.INTAKE)]
    assert unit_report(alike).stage == "outbox"


def beat(rows: int | None, oldest_ago: float | None = None) -> Heartbeat:
    oldest = None if oldest_ago is None else int((NOW - oldest_ago) * 1e6)
    me = Incarnation(1, b"\1" * 8)
    return Heartbeat(UNIT, "main", me, 1, 100, 1, (0,), "f", False, 0, int(NOW * 1e6), rows, oldest)


def test_an_outbox_is_judged_as_a_log():
    seen = outbox_seen(beat(5, 90), Reader.ALIVE)
    assert seen == Seen(100, 0, 105, 105, Look(100, 105, 100, int((NOW - 90) * 1000), 5))
    track = follow(None, seen, Reader.ALIVE, NOW, Limits())
    assert (track.verdict, track.lag.records, track.lag.seconds) == (Verdict.BEHIND, 5, 90.0)
    assert (
        follow(None, outbox_seen(beat(0), Reader.ALIVE), Reader.ALIVE, NOW, Limits()).verdict is OK
    )


@pytest.mark.parametrize(
    ("told", "reader"),
    [(None, Reader.ALIVE), (beat(3, 5), Reader.GONE), (beat(None), Reader.ALIVE)],
)
def test_an_outbox_that_nobody_tells_of_is_not_empty(told, reader):
    assert isinstance(outbox_seen(told, reader), Unseen)


def sign(age: float, known: float | None = None, is_news: bool = False) -> Sign:
    return Sign(int((NOW - age) * 1e6), NOW - (age if known is None else known), is_news)


@pytest.mark.parametrize(
    ("given", "reader", "last"),
    [
        (sign(5), Reader.ALIVE, NOW - 5),
        (sign(SILENT_SECONDS + 1, 0), Reader.GONE, NOW - SILENT_SECONDS - 1),
        (sign(3600, 3, is_news=True), Reader.ALIVE, NOW - 3),  # his clock is wrong
        (sign(-3600, 3), Reader.ALIVE, NOW - 3),
        (sign(-3600, SILENT_SECONDS + 1), Reader.GONE, NOW - SILENT_SECONDS - 1),
        (sign(5, SILENT_SECONDS + 1, is_news=True), Reader.GONE, NOW - SILENT_SECONDS - 1),
        (None, Reader.GONE, None),
    ],
)
def test_who_lives(given, reader, last):
    life = life_of(given, NOW)
    assert life.reader is reader
    assert life.last == (None if last is None else pytest.approx(last))
    assert life.silent_since == (life.last if reader is Reader.GONE else None)


def test_signs_that_follow_each_other():
    me = Incarnation(1, b"\1" * 8)
    signs = SystemSigns().took(AppliedBeat(UNIT, "main", me, None, 1_000_000), NOW)
    assert life_of(signs.recipient_sign, NOW).reader is Reader.GONE  # half a century old
    assert (
        life_of(
            signs.took(AppliedBeat(UNIT, "main", me, 5, 1_000_000), NOW + 1).recipient_sign, NOW + 1
        ).reader
        is Reader.GONE
    )
    signs = signs.took(AppliedBeat(UNIT, "main", me, None, 2_000_000), NOW + 2)
    assert life_of(signs.recipient_sign, NOW + 2).reader is Reader.ALIVE
    assert signs.source is None


def test_what_a_recipient_tells_of_parked_rows():
    me = Incarnation(1, b"\1" * 8)
    beat = AppliedBeat(UNIT, "main", me, None, 1, 5, ("d", "e"), ("r1", "r2"), (4, 1))
    assert parked_of(beat) == (Parked("d", "r1", 4), Parked("e", "r2", 1))
    assert parked_of(AppliedBeat(UNIT, "main", me, None, 1)) == ()
    assert parked_of(None) == ()


def test_a_worker_that_said_that_it_stops_is_gone():
    running = AgentSigns(AgentReport("a", 1, "d", "running", int(NOW * 1e6)), sign(1))
    stopped = AgentSigns(AgentReport("b", 1, "d", "stopped", int(NOW * 1e6)), sign(0))
    assert stopped.life(NOW).reader is Reader.GONE
    assert latest([running.life(NOW), stopped.life(NOW)]).reader is Reader.ALIVE
    assert latest([]) == Life(Reader.GONE)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("verdict", [*Verdict, None])
def test_every_verdict_has_advice_and_a_page(verdict, stage):
    text = advice(verdict, stage, UNIT)
    assert text.endswith(f"See {page_of(verdict)}")
    assert "{" not in text
    file, _, anchor = page_of(verdict).partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(encoding="utf-8"), re.M)
    assert anchor in {h.lower().replace("`", "").replace(" ", "-") for h in headings}

"""The catalogue is whole: every word that is used is there, in both languages, and none is idle."""

from __future__ import annotations

import inspect
import re
from functools import cache
from importlib.resources import files
from string import Formatter

import pytest

from deptbus import errors
from deptbus.change import Cause, DeliveryOp, Direction
from deptbus.console import desk, roles
from deptbus.console.words import Words, catalogue, sentences
from deptbus.contract.model import Sharing
from deptbus.department import connect, install, target
from deptbus.errors import DeptbusError
from deptbus.operations import (
    advice,
    alarms_board,
    audit,
    findings,
    freshness_report,
    hold,
    lookout,
    proposal_desk,
    trace_desk,
)
from deptbus.operations.advice import advice_template
from deptbus.operations.findings import Word
from deptbus.operations.freshness import Fresh
from deptbus.operations.lag import PartitionState
from deptbus.operations.offsets import NO_COORDINATOR, NO_TOPIC
from deptbus.operations.picture import SavedEntries
from deptbus.operations.proofs import ProofState
from deptbus.operations.proposals import State as Proposed
from deptbus.operations.quarantine import State
from deptbus.operations.reconcile_classes import Class
from deptbus.operations.stages import Stage
from deptbus.operations.verdicts import Verdict
from deptbus.operations.withheld import WhyNot
from deptbus.proof.certificate import HELD
from deptbus.stream import brokers, policies
from deptbus.stream.quarantine import REASONS as STREAM_REASONS
from deptbus.wire.guard import REASONS as WIRE_REASONS

REASONS = WIRE_REASONS | STREAM_REASONS
# Constants of the bus that pages show, by the section that has their words.
SECTIONS = {
    "verdict": [*Verdict, "UNKNOWN", "closed", "absent", "quiet"],
    "stage": list(Stage),
    "state": list(PartitionState),
    "unreachable": [
        NO_COORDINATOR, NO_TOPIC, "broker_away", "no_leader", "adapter_silent", "outbox_not_told",
    ],
    "fresh": [*Fresh, "unknown"],
    "sharing": list(Sharing),
    "why": [*WhyNot, "held"],
    "case": list(State),
    "reason": list(REASONS),
    "meaning": list(REASONS),
    "role": list(roles.Role),
    "direction": list(Direction),
    "op": list(DeliveryOp),
    "cause": list(Cause),
    "wait": ["intake", "routing", "inbox", "held", "missing", "quarantine"],
    "verb": [
        audit.QUARANTINE_RESEND,
        audit.QUARANTINE_DISMISS,
        audit.QUARANTINE_RETRY,
        audit.RESEND,
        audit.HOLD,
        audit.RESUME,
        audit.CONTRACT_ACTIVATE,
        audit.ALARM_ACK,
        audit.REPLAY_PLAN,
        audit.REPLAY_APPLY,
        audit.REPAIR_ORDER,
        audit.REBUILD_ORDER,
        audit.RECONCILE_REPAIR,
        audit.CERTIFICATE,
        audit.PROPOSE,
        audit.PROPOSAL_CONFIRM,
        audit.PROPOSAL_DECLINE,
        audit.JOB_PAUSE,
        audit.JOB_RESUME,
        audit.JOB_CANCEL,
        audit.JOB_ENDED,
    ],
    "alarm": [*(v for v in Verdict if v.needs_a_person), *Word],
    "saved": [SavedEntries().method],
    "theme": ["now_auto", "now_dark", "now_light", "to_auto", "to_dark", "to_light"],
    "pulse": ["well", "person", "unknown"],
    "done": [
        "resend", "dismiss", "hold", "resume", "acknowledge", "propose", "confirmed", "declined",
        "job_run", "job_paused", "job_cancelled",
    ],
    "leg": ["source", "copy", "both"],
    "proposed": list(Proposed),
    "jobs": ["act_replay", "act_repair"],
    "difference": [*Class, HELD],
    "mended": [*Class, HELD],
    "proved": list(ProofState),
    "order": [
        "ordered", "waiting", "sending", "pausing", "paused", "cancelling", "cancelled", "done",
        "refused",
    ],
    "login": ["state", "token", "no_role", "provider_away", "provider_refused"],
    "error": [
        *(f"{code}{more}" for code in (400, 401, 403, 404, 405, 413, 415, 500, 503)
          for more in ("", "_more")),
        "csrf", "nothing_chosen", "one_target", "one_choice",
    ],
    "find": ["bad_natural", "bad_key"],
    "nav": [
        "map", "units", "datasets", "lag", "quarantine", "holds", "saved", "find", "audit",
        "alarms", "proof", "jobs",
    ],
    "unit": ["d", "h", "min", "s"],
}  # fmt: skip


_ASKED = re.compile(r"""\b(?:t|self)\(['"]([a-z_]+\.[A-Za-z_0-9]*[A-Za-z0-9])['"]""")


def _used() -> set[str]:
    """Names that templates and modules ask for by themselves."""
    found: set[str] = set()
    package = files("deptbus.console")
    for folder in (package, package.joinpath("templates")):
        for file in folder.iterdir():
            if file.name.endswith((".html", ".py")):
                text = file.read_text(encoding="utf-8")
                found |= set(
                    re.findall(
                        r"""\b(?:t|self)\(['"]([a-z_]+\.[A-Za-z_0-9]*[A-Za-z0-9])['"]""", text
                    )
                )
    return found


def test_every_word_that_is_used_is_there() -> None:
    wanted = _used() | {f"{section}.{n}" for section, names in SECTIONS.items() for n in names}
    assert wanted - catalogue().keys() == set()


def test_no_word_is_idle() -> None:
    wanted = _used() | {f"{section}.{n}" for section, names in SECTIONS.items() for n in names}
    assert catalogue().keys() - wanted == set()


@pytest.mark.parametrize("name", catalogue())
def test_a_word_is_there_in_both_languages(name: str) -> None:
    english, chinese = catalogue()[name]
    assert english.strip()
    assert chinese.strip()
    assert _places(english) == _places(chinese)
    same = {"Start", "ok"}
    assert re.search(r"[\u4e00-\u9fff]", chinese) or english in same
    assert not re.search(r"[\u4e00-\u9fff]", english)


def test_every_advice_is_translated() -> None:
    wanted = {advice_template(v, s) for v in (*Verdict, None) for s in Stage}
    assert wanted - sentences().keys() == set()


@pytest.mark.parametrize("reason", ["", "x" * 600, "about 330106199001011237"])
def test_what_is_wrong_with_a_reason_is_said_in_chinese(reason: str) -> None:
    with pytest.raises(DeptbusError) as refused:
        audit.checked_reason(reason)
    assert refused.value.what in sentences()
    assert refused.value.mend in sentences()


# What SQLite and PostgreSQL say; department.connect passes on SQLite's words, and makes
# PostgreSQL's of the kind of the error.
OF_DATABASES = (
    "FOREIGN KEY constraint failed", "CHECK constraint failed: {}", "UNIQUE constraint failed: {}",
    "NOT NULL constraint failed: {}", "foreign key violation: {}", "check violation: {}",
    "unique violation: {}", "not null violation: {}",
)  # fmt: skip


@cache
def _said() -> str:
    """All texts of the modules whose sentences are translated, with their places emptied and their
    pieces put together."""
    modules = (
        advice, alarms_board, audit, brokers, connect, desk, errors, findings, freshness_report,
        hold, install, lookout, policies, proposal_desk, target, trace_desk,
    )  # fmt: skip
    source = "".join(inspect.getsource(module) for module in modules)
    source = source.replace("{_REASON_LETTERS}", str(audit._REASON_LETTERS))
    return _emptied(re.sub(r'"\s*\n\s*f?"', "", source))


def _emptied(text: str) -> str:
    return re.sub(r"\{[^{}]*\}", "{}", text).replace("{}.{}", "{}")


@pytest.mark.parametrize("english", sentences())
def test_no_translation_is_idle(english: str) -> None:
    """What the code does not say any more has no translation either."""
    said, wanted = _said(), _emptied(english)
    advised = {_emptied(advice_template(v, s)) for v in (*Verdict, None) for s in Stage}
    is_said = any(f"{mark}{wanted}" in said for mark in ('"', ". ", "{}: "))
    assert is_said or wanted in advised or wanted in OF_DATABASES
    assert _places(english) == _places(sentences()[english])


@pytest.mark.parametrize("english", sentences())
def test_a_sentence_whose_places_are_filled_in_is_known_again(english: str) -> None:
    places = {name: f"<{name}, a.b@330106>" for name in _places(english)}
    assert Words("zh").told(english.format(**places)) == sentences()[english].format(**places)
    assert Words("en").told(english.format(**places)) == english.format(**places)


def test_several_sentences_are_translated_one_by_one() -> None:
    chinese = Words("zh")
    said = "no broker answers at 127.0.0.1:9092 (refused). Start the bus, or name another with "
    assert chinese.told(f"{said}--bootstrap") == (
        "127.0.0.1:9092 没有节点应答（refused）。请启动总线，或用 --bootstrap 指定其他总线"
    )
    assert chinese.told("Nobody says so. Is it running?") == "Nobody says so。它在运行吗？"
    assert chinese.told("Nobody says so. Nor so") == "Nobody says so. Nor so"
    held = DeptbusError("x is held already, since 1 UTC by a: it moves. Soon", mend="See `x`")
    assert chinese.refusal(held) == "x 已由 a 自 1 UTC 起暂停：it moves. Soon。见 `x`"
    assert Words("en").refusal(held) == str(held)


def test_a_duration_is_told_in_its_two_greatest_units() -> None:
    english, chinese = Words("en"), Words("zh")
    assert english.duration(3 * 3600 + 20 * 60 + 5) == "3 h 20 min"
    assert chinese.duration(86_400) == "1 天"
    assert english.duration(59.9) == "59 s"
    assert english.duration(None) == "not known"  # never 0


def _places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}

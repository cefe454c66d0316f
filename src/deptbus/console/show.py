"""What the pages call to show a value: times, states, places, options. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from deptbus.console.map_layout import state_of
from deptbus.console.roles import Person
from deptbus.console.snapshot import Snapshot
from deptbus.console.words import Words
from deptbus.errors import Exit
from deptbus.operations.advice import advice_template, page_of
from deptbus.operations.arrival import NEVER
from deptbus.operations.audit import Operator
from deptbus.operations.findings import duty_of
from deptbus.operations.lag_report import is_bad
from deptbus.operations.parked import ParkedRecord
from deptbus.operations.proposal_desk import RepairTerms
from deptbus.operations.proposals import is_another, proposer
from deptbus.operations.quarantine import UNRESOLVED, place_text
from deptbus.operations.replay_plan import plan_of
from deptbus.operations.stages import BUS, OFFICE, Stage, StageReport
from deptbus.operations.status import Beside, red_stages, status_document
from deptbus.operations.verdicts import Verdict
from deptbus.wire.control import Act, AlarmTold, ProofOutcome, Proposal

_CHINA = timezone(timedelta(hours=8))  # the bus's days are China's, wherever the browser is


def moment(seconds: float | None) -> str:
    """For people: 2027-01-31 09:05:07, China's time."""
    if seconds is None or math.isinf(seconds):
        return ""
    return f"{datetime.fromtimestamp(seconds, _CHINA):%Y-%m-%d %H:%M:%S}"


def machine_time(seconds: float | None) -> str:
    """For `datetime=`; scripts tell from it how long ago that is."""
    if seconds is None or math.isinf(seconds):
        return ""
    return datetime.fromtimestamp(seconds, _CHINA).isoformat(timespec="seconds")


def seconds_of_us(at_us: int) -> float:
    return at_us / 1_000_000


def advised(t: Words, report: StageReport) -> str:
    return t.sentence(advice_template(report.verdict, report.stage), unit=report.unit)


def told_advice(t: Words, told: AlarmTold, said: Mapping[str, Any]) -> str:
    """What an alarm advises: of a verdict what is advised now, else as it was told."""
    unit = str(said.get("unit") or "")
    if told.word in Verdict.__members__ and said.get("stage") in set(Stage):
        template = advice_template(Verdict(told.word), Stage(said["stage"]))
        return t.sentence(template, unit=unit)
    return t.told(str(said.get("advice") or ""))


def owner(t: Words, name: str) -> str:
    return t("common.office") if name == OFFICE else name


def safe_until(t: Words, report: StageReport, at: float) -> str:
    margin = report.margin_seconds
    if margin is None:
        return t("lag.safe_unknown")
    if math.isinf(margin):
        return t("lag.safe_for_ever")
    return t("lag.safe_until", when=moment(at + margin)[:16])


def arrival(t: Words, report: StageReport) -> str:
    if report.expected_seconds is None:
        return ""
    if report.expected_seconds == NEVER:
        return t("lag.never")
    return t("lag.arrives_in", time=t.duration(report.expected_seconds))


_WORDS = {Exit.DONE: "well", Exit.ANSWER_IS_NO: "person", Exit.COULD_NOT: "unknown"}


def well(snapshot: Snapshot) -> str:
    """The one word of the whole bus, as `deptbus status` says it by its exit code."""
    if snapshot.lag is None:
        return "unknown"
    beside = Beside(snapshot.freshness, snapshot.cases, snapshot.proofs)
    return _WORDS[Exit(status_document(snapshot.lag, beside)["exit_code"])]


def act_subject(act: Act) -> str:
    words = [act.unit, act.dataset, act.key.hex() if act.key is not None else ""]
    words += act.subjects[:3]
    more = len(act.subjects) - 3
    return " ".join(filter(None, [*words, f"+{more}" if more > 0 else ""]))


def classes_of(outcome: ProofOutcome) -> str:
    """3 stale, 1 missing"""
    told = zip(outcome.classes, outcome.counts, strict=True)
    return ", ".join(f"{count} {name}" for name, count in told)


def may_confirm(proposal: Proposal, person: Person) -> bool:
    """Whether this person is another than whoever proposed it."""
    return is_another(proposer(proposal), Operator(person.name, by_console=True))


def terms_of(proposal: Proposal) -> dict[str, Any]:
    """What a proposal would do, for people: of a plan what was counted, of a repair its terms."""
    if proposal.act == "repair":
        return RepairTerms.model_validate_json(proposal.content).model_dump()
    plan = plan_of(proposal.content, Path(proposal.proposal))
    withheld = {field for one in plan.expected for field in one.fields_withheld}
    return {
        "selection": plan.selection,
        "sent": plan.sent,
        "seconds": plan.seconds,
        "withheld": sorted(withheld),
    }


def row_name(row: ParkedRecord) -> str:
    """Of a parked row, among all that are listed."""
    words = row.unit, row.system, row.dataset, row.source_unit, row.key.hex()
    return "/".join(words)


GLOBALS: dict[str, Any] = {
    "moment": moment,
    "machine_time": machine_time,
    "seconds_of_us": seconds_of_us,
    "advised": advised,
    "told_advice": told_advice,
    "duty_of": duty_of,
    "owner": owner,
    "safe_until": safe_until,
    "arrival": arrival,
    "well": well,
    "red": red_stages,
    "is_bad": is_bad,
    "state_of": state_of,
    "place_text": place_text,
    "row_name": row_name,
    "classes_of": classes_of,
    "may_confirm": may_confirm,
    "terms_of": terms_of,
    "runbook": page_of,
    "act_subject": act_subject,
    "UNRESOLVED": UNRESOLVED,
    "BUS": BUS,
}

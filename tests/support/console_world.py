"""A console over a bus that is not there: a snapshot with something of everything on it, people of
every role, and a desk that notes what it was asked to do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.testclient import TestClient

from deptbus.change import Cause, Change, ChangeOp, DeliveryOp, Direction, Incarnation, Received
from deptbus.console.app import Console, console_of, make_app
from deptbus.console.desk import Asked, Decision, Retried, Wanted, WantedReplay
from deptbus.console.roles import Person, Role
from deptbus.console.settings import OpenId, Settings
from deptbus.console.snapshot import Board, Snapshot
from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Contract, Hold, Policy
from deptbus.errors import DeptbusError
from deptbus.operations.audit import checked_reason
from deptbus.operations.catalogue import dataset_sheets
from deptbus.operations.freshness import Fresh, Freshness
from deptbus.operations.freshness_report import FreshnessRow
from deptbus.operations.lag import Lag, PartitionState, Place, Seen
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.observer import Picture
from deptbus.operations.offset_requests import Cluster
from deptbus.operations.parked import ParkedRecord
from deptbus.operations.parked_desk import Ask
from deptbus.operations.picture import Applied, Flow, SavedEntries, SavedRow
from deptbus.operations.proofs import Proved, Subject
from deptbus.operations.proposal_desk import VALID_US, RepairTerms
from deptbus.operations.proposals import ProposalStanding, State
from deptbus.operations.quarantine import Case
from deptbus.operations.replay_apply import Standing
from deptbus.operations.replay_plan import VALID_FOR, Expected, Plan, PlannedRange, plan_of
from deptbus.operations.stages import BUS, OFFICE, Stage, StageReport
from deptbus.operations.trace import Arrival, Trace, Version, Wait
from deptbus.operations.trace import Seen as SeenAt
from deptbus.operations.unit_sheet import unit_sheets
from deptbus.operations.verdicts import Track, Verdict
from deptbus.wire.control import (
    Act,
    AlarmSeen,
    AlarmTold,
    JobOrder,
    OrderProgress,
    ParkedRetried,
    ProofOutcome,
    Proposal,
    ProposalDecided,
    QuarantineNote,
    Resolution,
)

NOW = 1_800_000_000.0
POLICE, HOUSING, HEALTH = "public_security@330106", "housing@330106", "health@330106"
KEY = bytes(range(0xA0, 0xB0))
ME = Incarnation(1, bytes(8))
NATURAL = "330106199001011237"  # a number that may be seen nowhere
LISTEN = "127.0.0.1:8420"
BASE = f"http://{LISTEN}"
PEOPLE = {
    Role.VIEWER: Person("vera", frozenset({Role.VIEWER})),
    Role.OPERATOR: Person("olga", frozenset({Role.OPERATOR})),
    Role.CLERK: Person("carl", frozenset({Role.CLERK}), HOUSING),
    Role.AUDITOR: Person("adam", frozenset({Role.AUDITOR})),
}
_TOKEN = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@cache
def contract() -> Contract:
    return load(bundled())


def policy() -> Policy:
    held = Hold(unit=HEALTH, reason="its database moves", held_by="olga", held_at=datetime.now(UTC))
    return Policy(
        number=7,
        activated_at=datetime(2026, 1, 1, tzinfo=UTC),
        activated_by="olga",
        contract=contract(),
        holds=(held,),
    )


def stage(unit: str, at: Stage, verdict: Verdict | None, owner: str = "科技科", **more: Any) -> Any:
    words: dict[str, Any] = {"lag_records": 3, "lag_seconds": 4000.0, "since": NOW - 4000}
    if verdict is Verdict.OK:
        words = {"lag_records": 0, "lag_seconds": 0.0, "since": NOW}
    return StageReport(unit, at, owner, verdict, **(words | more))


def lag_report() -> LagReport:
    stages = (
        stage(BUS, Stage.ROUTING, Verdict.OK, OFFICE),
        stage(POLICE, Stage.OUTBOX, Verdict.CATCHING_UP, expected_seconds=65.0),
        stage(POLICE, Stage.INTAKE, Verdict.OK, OFFICE),
        stage(HOUSING, Stage.APPLY, Verdict.STOPPED, margin_seconds=90_000.0),
        stage(HEALTH, Stage.APPLY, Verdict.OK, closed_until=NOW + 3600),
        stage("civil_affairs@330106", Stage.APPLY, None, reason="broker_away", margin_seconds=None),
        stage("human_resources@330106", Stage.APPLY, Verdict.STOPPED, has_lived=False),
    )
    units = tuple(s for s in stages if not (s.unit == POLICE and s.stage is Stage.INTAKE))
    place = Place("deptbus.adapter", "in.housing-330106", 1)
    track = Track(
        NOW, Seen(5, 0, 8, 8), Lag(PartitionState.OK, 3, 4000.0, waits=True), Verdict.STOPPED, NOW
    )
    picture = Picture(NOW, Cluster((), {}), {}, True, {place: track})
    return LagReport(NOW, picture, units, stages, True, policy().holds)


def case(unit: str, offset: int, reason: str = "malformed", **more: Any) -> Case:
    note = QuarantineNote(
        f"out.{unit.replace('@', '-')}", 0, offset, offset, reason, "科技科", unit, "resident", KEY,
        4, int((NOW - 100) * 1e6),
    )  # fmt: skip
    return Case(note, **more)


def parked(unit: str, number: int, reason: str = "FOREIGN KEY constraint failed") -> ParkedRecord:
    at_us = int((NOW - 100 + number) * 1e6)
    key = bytes([0xA0 + number]) * 16
    return ParkedRecord(
        unit, "科技科", "main", "resident", POLICE, key, 4, reason, at_us, 3, int(NOW * 1e6)
    )


def proof(unit: str, stale: int = 0) -> ProofOutcome:
    at_us = int((NOW - 7200) * 1e6)
    classes, counts = (("stale",), (stale,)) if stale else ((), ())
    verdict: Any = "different" if stale else "equal"
    return ProofOutcome(
        unit,
        "resident",
        "copy",
        verdict,
        7,
        at_us,
        False,
        1234,
        classes,
        counts,
        "olga",
        b"{}",
        (KEY,) * bool(stale),
        classes,
        ("version 3",) * bool(stale),
    )


def standing(job: str, unit: str, state: Any = None) -> Standing:
    at_us = int((NOW - 300) * 1e6)
    order = JobOrder(
        job, unit, "replay", ("resident",), ("id",), (), (), (), 1, 5000, "ab" * 32, 7, "olga", "",
        "their disk failed", at_us,
    )  # fmt: skip
    progress = None
    if state is not None:
        progress = OrderProgress(
            job, unit, 7, state, "", (), "resident/1", 9, 1200, 3, at_us, at_us + 9
        )
    return Standing(order, state or "ordered", "run", progress)


@cache
def plan() -> Plan:
    made_at = datetime.fromtimestamp(NOW, UTC)
    expected = Expected(
        dataset="resident", upserts=5, deletes=1, withdrawals=2, without_right=3, superseded=1,
        unknown=0, fields_sent={"name": 5}, fields_withheld={"phone": 5},
    )  # fmt: skip
    return Plan(
        cluster="c", policy=7, contract="ab" * 32, unit=HOUSING, datasets=("resident",),
        topic_ids=("id",), rights={"resident": "d"}, selection="every key",
        ranges=(PlannedRange(dataset="resident", partition=0, start=0, end=9, note="of it all"),),
        keys={}, expected=(expected,), seconds=0.1, seconds_by="assumed", requester="oscar",
        reason="their disk failed", made_at=made_at, expires_at=made_at + VALID_FOR,
    )  # fmt: skip


def proposed(name: str, by: str, state: State, act: Any = "repair") -> ProposalStanding:
    terms = RepairTerms(leg="copy", most=3, max_delete=2, overwrite_local=True)
    content = plan().as_file() if act == "replay" else terms.model_dump_json()
    at_us = int((NOW - 60) * 1e6)
    proposal = Proposal(
        name, act, HOUSING, ("resident",), content, by, "", True, "a proof found it", at_us,
        at_us + VALID_US,
    )  # fmt: skip
    decided = None
    if state is State.DONE:
        decided = ProposalDecided(name, "confirmed", "omar", "", True, "I looked", at_us + 1)
    return ProposalStanding(proposal, state, decided, "0 left" if state is State.DONE else "")


def alarm(subject: str, word: str, **said: Any) -> AlarmTold:
    at = int((NOW - 500) * 1e6)
    content = json.dumps({"owner": "科技科", "runbook": "docs/operations.md#stopped", **said})
    return AlarmTold(word.lower(), subject, 2, "reminder", word, 6, at, at, ("sms",), content)


def resolution(outcome: Any) -> Resolution:
    return Resolution("t", 0, 1, outcome, "a", "olga", "tested", "", (), None, int(NOW * 1e6))


@cache
def snapshot() -> Snapshot:
    now, now_in_force = datetime.fromtimestamp(NOW, UTC), policy()
    fresh = {
        POLICE: Freshness(Fresh.LATE, NOW - 200_000, NOW - 100),
        HOUSING: Freshness(Fresh.FRESH, NOW - 10, NOW + 9000),
    }
    return Snapshot(
        number=1,
        at=NOW,
        policy=now_in_force,
        lag=lag_report(),
        freshness=(
            FreshnessRow(POLICE, "resident", "科技科", 24, fresh[POLICE]),
            FreshnessRow(HOUSING, "housing_unit", "房产科", 24, fresh[HOUSING]),
            FreshnessRow("enterprise@330106", "enterprise", "x", 1, Freshness(None, None, None)),
        ),
        cases=(
            case(POLICE, 1),
            case(HOUSING, 2, "bad_division"),
            case(POLICE, 3, resolution=resolution("dismissed")),
            case(HOUSING, 4, "fenced", superseded=True),
            case("", 5, "unreadable_batch", resolution=resolution("resend_asked")),
        ),
        parked=(parked(HOUSING, 1), parked(HOUSING, 2, "CHECK [age]"), parked(HEALTH, 3)),
        retried=(
            ParkedRetried(HOUSING, "main", ME, "r1", 9, 6, 3, True, int((NOW - 40) * 1e6)),
            ParkedRetried(HEALTH, "main", ME, "r2", 4, 0, 0, False, int((NOW - 2) * 1e6)),
        ),
        acts=(
            Act("a1", "hold", "olga", "bus", "its database moves", HEALTH, "", None, (), 1),
            Act("a2", "quarantine_dismiss", "olga", "", "a test", "", "", KEY, tuple("abcde"), 2),
        ),
        alarms=(
            (alarm(f"lag/{HOUSING}/apply", "STOPPED", unit=HOUSING, stage="apply"), None),
            (
                alarm("quarantine/bus", "QUARANTINED", unit=BUS, advice="See what and why"),
                AlarmSeen("a", "quarantine/bus", 1, "act", "olga", "known", int(NOW * 1e6)),
            ),
        ),
        proofs=Proved(
            {now_in_force.number: now_in_force},
            {Subject(o.unit, o.dataset, o.leg): o for o in (proof(HOUSING), proof(HEALTH, 3))},
        ),
        orders=(standing("replay-1", HOUSING, "sending"), standing("repair-2", HEALTH)),
        proposals=(
            proposed("replay-9", "oscar", State.WAITING, "replay"),
            proposed("mend-8", "olga", State.WAITING),
            proposed("mend-7", "oscar", State.DONE),
        ),
        units={sheet.unit: sheet for sheet in unit_sheets(now_in_force, now)},
        datasets={sheet.dataset: sheet for sheet in dataset_sheets(now_in_force, now)},
        flows=(
            Flow(POLICE, HOUSING, "resident", "horizontal", 3, NOW - 5),
            Flow(POLICE, "public_security@3301", "resident", "upward", 1, NOW - 4),
            Flow(POLICE, "public_security@330106005", "resident", "downward", 12, NOW - 4),
            Flow(POLICE, "grassroots@330106005", "resident", "return", 1, NOW - 3),
            Flow("public_security@330105", HEALTH, "resident", "granted", 1, NOW - 3),
        ),
        applied={HOUSING: Applied(NOW - 60, 2), HEALTH: Applied(None, None)},
        saved=SavedEntries(
            rows=(
                SavedRow(HOUSING, "resident", "2027-01-15", 1234),
                SavedRow(HEALTH, "resident", "2027-01-14", 17),
            ),
            since=NOW - 86_400,
        ),
    )


def trace() -> Trace:
    change = Change(
        "resident", KEY, ChangeOp.UPSERT, None, POLICE, Incarnation(1, bytes(8)), 4,
        int(NOW * 1e6), 1, "330106", (), Cause.LIVE, None, 7, 1, None,
    )  # fmt: skip
    received = Received(
        "resident", KEY, DeliveryOp.UPSERT, POLICE, 4, int(NOW * 1e6), 7, Direction.HORIZONTAL,
        "neighbours", ("g1",), Cause.LIVE, None, ("name",), None, 1,
    )  # fmt: skip
    at = SeenAt("out.public_security-330106", 0, 1, int(NOW * 1000), True)
    return Trace(
        "resident",
        KEY,
        [Version(change, at, at)],
        [Arrival(HOUSING, received, at)],
        [Wait("inbox", HOUSING, 4), Wait("held", HEALTH, 4, "its database moves")],
        ["in.gone"],
    )


@dataclass
class NotedDesk:
    """Does nothing, and remembers what it was asked for. Reasons are checked as ever."""

    done: list[tuple[Any, ...]] = field(default_factory=list)
    refusal: DeptbusError | None = None
    record: dict[str, Any] | None = field(
        default_factory=lambda: {
            "written_at_ms": int(NOW * 1000),
            "bytes": 90,
            "key": KEY.hex(),
            "unreadable": None,
            "kind": "change",
            "change": {
                "op": "upsert",
                "source_unit": POLICE,
                "version": 4,
                "fields": {"name": "(masked: conditional)", "division": "330106"},
            },
        }
    )

    async def hold(self, unit: str, dataset: str, person: Person, reason: str) -> None:
        self._do("hold", unit, dataset, person.name, checked_reason(reason))

    async def resume(self, unit: str, dataset: str, person: Person, reason: str) -> None:
        self._do("resume", unit, dataset, person.name, checked_reason(reason))

    async def resend(self, cases: Sequence[Case], person: Person, reason: str) -> Asked:
        self._do("resend", tuple(c.place for c in cases), person.name, checked_reason(reason))
        return Asked(len(cases), 1)

    async def dismiss(self, cases: Sequence[Case], person: Person, reason: str) -> None:
        self._do("dismiss", tuple(c.place for c in cases), person.name, checked_reason(reason))

    async def retry(self, asks: Sequence[Ask], person: Person, reason: str) -> Retried:
        self._do("retry", tuple(ask.subject for ask in asks), person.name, checked_reason(reason))
        return Retried(9, 6, 3, 1)

    async def acknowledge(self, subjects: Sequence[str], person: Person, reason: str) -> None:
        self._do("acknowledge", tuple(subjects), person.name, checked_reason(reason))

    async def plan(self, wanted: WantedReplay, person: Person, reason: str) -> Plan:
        self._do("plan", wanted, person.name, checked_reason(reason))
        return plan()

    async def propose_replay(self, plan: str, person: Person) -> str:
        self._do("propose_replay", plan_of(plan, Path("p")).job, person.name)
        return "replay-1"

    async def propose_repair(
        self, subject: Subject, terms: RepairTerms, person: Person, reason: str
    ) -> str:
        self._do("propose_repair", subject, terms, person.name, checked_reason(reason))
        return "mend-1"

    async def decide(self, name: str, word: Decision, person: Person, reason: str) -> None:
        self._do("decide", name, word, person.name, checked_reason(reason))

    async def steer(self, job: str, wanted: Wanted, person: Person, reason: str) -> None:
        self._do("steer", job, wanted, person.name, checked_reason(reason))

    async def show(self, case: Case) -> dict[str, Any] | None:
        return self.record

    async def find(self, dataset: str, key: bytes, unit: str) -> Trace:
        self._do("find", dataset, key, unit)
        return trace()

    def key_units(self) -> dict[str, tuple[str, ...]]:
        return {POLICE: ("resident",), HOUSING: ("housing_unit",)}

    async def key_of(
        self, unit: str, dataset: str, natural: tuple[str, ...], contract: Contract
    ) -> bytes:
        if self.refusal is not None:
            raise self.refusal
        return KEY

    def _do(self, *what: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.done.append(what)


@dataclass
class World:
    console: Console
    desk: NotedDesk
    app: Starlette

    def browser(self, *, language: str = "en", theme: str = "auto") -> TestClient:
        """Somebody who is not logged in; redirects are not followed."""
        browser = TestClient(
            self.app, base_url=self.console.settings.base_url, follow_redirects=False
        )
        browser.cookies.set(self.console.look_cookie_name, f"{language}.{theme}")
        return browser

    def of(self, who: Role | Person, **look: str) -> TestClient:
        """Somebody who is."""
        browser = self.browser(**look)
        person = PEOPLE[who] if isinstance(who, Role) else who
        browser.cookies.set(self.console.cookie_name, self.console.sessions.begin(person))
        return browser

    def token(self, browser: TestClient) -> str:
        return self.console.sessions.csrf(browser.cookies[self.console.cookie_name])

    def post(self, browser: TestClient, path: str, **form: Any) -> Any:
        """With the token that a page of this browser has."""
        return browser.post(path, data={"csrf": self.token(browser), **form})

    def change(self, **parts: Any) -> None:
        board = self.console.board
        board.snapshot = replace(board.snapshot, **parts)


def token_of(page: str) -> str:
    found = _TOKEN.search(page)
    assert found is not None, "no form on this page"
    return found[1]


def console_world(
    *,
    accounts: Path | None = None,
    tickets: Path | None = None,
    openid: OpenId | None = None,
    now_snapshot: Snapshot | None = None,
    **settings: Any,
) -> World:
    board, desk = Board(), NotedDesk()
    board.snapshot = now_snapshot or snapshot()
    made = Settings(accounts=accounts, tickets=tickets, openid=openid, listen=LISTEN, **settings)
    console = console_of(made, board, desk, now=lambda: NOW)
    return World(console, desk, make_app(console))

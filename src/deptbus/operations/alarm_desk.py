"""Turns looks into notices, keeps them on the bus, and brings them to people until they arrive.

A notice is kept with the ways by which it has still to go before it goes, and without each way once
it has arrived. So a desk that is killed at any moment tells once more at the most what it was
telling (with the same `alarm` and `notice`), and forgets nothing. A way that fails is tried again
with back-off for as long as that is the alarm's last notice; a later one says all that it said and
takes its place, and that is told in the log.

Of several desks on one bus one leads and tells. Where the bus has no `bus.alarms` (it is not
ours, or `deptbus topics apply` was not run) alarms live as long as the process, which is told. A
bus that is away is an alarm itself: it is told at once and kept when the bus is back.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable, DeptbusError
from deptbus.operations.alarm_settings import AlarmSettings, Way
from deptbus.operations.alarms import Alarm, Kind, Look, Notice, judge, scope_of
from deptbus.operations.alarms_board import AlarmsBoard, alarm_of, outgoing
from deptbus.operations.findings import About, Found, Scope
from deptbus.operations.lag_report import when
from deptbus.operations.leader import Leadership
from deptbus.operations.notify import NotDelivered, deliver
from deptbus.stream.log import Sender
from deptbus.wire.control import AlarmTold

log = structlog.get_logger(__name__)

GROUP = "deptbus.monitor"
_BACKOFF_SECONDS = (1.0, 60.0)
_WRITE_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 60.0  # whether the bus keeps alarms by now


class Place(Enum):
    """Of a desk among those of its bus."""

    NOT_KNOWN = "not_known"  # the bus was not reached yet: nobody knows what was told before
    KEEPS_NONE = "keeps_none"  # the bus has no place for alarms: this desk is alone
    STANDS_BY = "stands_by"  # another one tells
    LEADS = "leads"


class AlarmDesk:
    """`run` beside any number of `take`, until cancelled."""

    def __init__(
        self,
        connection: Connection,
        settings: AlarmSettings,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._connection, self._settings, self._now = connection, settings, now
        self._board: AlarmsBoard | None = None  # None: the bus was not reached, or keeps none
        self._sender: Sender | None = None
        self._place = Place.NOT_KNOWN
        self._alarms: dict[str, Alarm] = {}
        self._told: dict[str, AlarmTold] = {}  # by subject: the last notice, as it is kept
        self._unkept: set[str] = set()  # subjects whose last notice is not on the bus yet
        self._keeping = asyncio.Lock()
        self._wake = asyncio.Event()
        self.outcomes: Counter[tuple[str, str]] = Counter()  # (way, `delivered` or `failed`)

    async def run(self) -> None:
        """Never ends by what goes wrong with the bus or a way."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stand_for_ever())
            for way in self._settings.ways:
                group.create_task(self._bring_for_ever(way))

    @property
    def tells(self) -> bool:
        return self._place is not Place.STANDS_BY

    def open(self) -> list[AlarmTold]:
        """Those that are open, whoever told them."""
        stands_by = self._board is not None and not self.tells
        told = self._board.kept.told if self._board is not None and stands_by else self._told
        return [one for one in tuple(told.values()) if one.kind != Kind.OVER]

    def pending(self) -> Counter[str]:
        """Notices that have not arrived yet, by way."""
        told = tuple(self._told.values()) if self.tells else ()
        return Counter({w.name: sum(w.name in t.pending for t in told) for w in self.ways})

    @property
    def ways(self) -> tuple[Way, ...]:
        return self._settings.ways

    async def take(self, found: Found) -> None:
        """One look; returns when what follows from it is decided. Raises nothing for a bus that is
        away."""
        if not self.tells:
            return
        look = found.look
        if self._place is Place.NOT_KNOWN:
            # What was told before is not known yet. Only this is no news of what stands there.
            kept = tuple(f for f in look.findings if scope_of(f.subject) == Scope.CLUSTER)
            look = Look(kept, look.scopes & {Scope.CLUSTER})
        acks = self._board.kept.acks() if self._board is not None else {}
        self._alarms, notices = judge(
            self._alarms, look, acks, self._now(), self._settings.patience
        )
        for notice in notices:
            self._tell(notice, found.about.get(notice.subject))
        await self._keep()
        self._wake.set()

    # --- what is kept -------------------------------------------------------------------------

    async def _stand_for_ever(self) -> None:
        """Finds the topic, reads it, and stands for leading, as soon as the bus can be reached."""
        said = ""
        while True:
            try:
                async with (
                    AlarmsBoard(self._connection) as self._board,
                    Sender(self._connection) as self._sender,
                    Leadership(self._connection, GROUP, names.ALARMS) as lead,
                ):
                    await self._follow(self._board, lead)
            except BusRefused as error:
                if self._place is not Place.KEEPS_NONE:
                    log.warning("alarms_not_kept", error=str(error))
                self._place, pause = Place.KEEPS_NONE, _LOOK_AGAIN_SECONDS
            except BusUnreachable as error:
                if error.what != said:
                    log.warning("alarms_unreadable", error=error.what)
                said, pause = error.what, _BACKOFF_SECONDS[0]
            except Exception as error:
                log.error("alarms_broke", error=type(error).__name__, exc_info=True)
                pause = _BACKOFF_SECONDS[1]
            finally:
                self._board = self._sender = None
            await asyncio.sleep(pause)

    async def _follow(self, board: AlarmsBoard, lead: Leadership) -> None:
        """Each time that this desk begins to lead, what others told is taken up."""
        while True:
            if not lead.gained.is_set():
                self._place = Place.STANDS_BY
            await lead.gained.wait()
            await board.refresh()
            # Told while the bus was away, unless another desk has told something since.
            kept = board.kept.told
            self._unkept = {
                s
                for s in self._unkept
                if s not in kept or kept[s].told_at_us < self._told[s].told_at_us
            }
            mine = {s: self._told[s] for s in self._unkept}
            alarms = {s: self._alarms[s] for s in mine}
            self._told = dict(kept) | mine
            self._alarms = {s: alarm_of(told) for s, told in self._told.items()} | alarms
            self._place = Place.LEADS
            await self._keep()
            log.info("alarms_taken_up", open=len(self.open()), pending=sum(self.pending().values()))
            self._wake.set()
            await lead.lost.wait()

    async def _keep(self) -> None:
        """What the bus does not have yet. What it does not take now is kept at the next look."""
        async with self._keeping:
            sender = self._sender
            if sender is None or not self._unkept or not self.tells:
                return  # whoever leads meanwhile writes
            now = {subject: self._told[subject] for subject in sorted(self._unkept)}
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await sender.send([outgoing(told) for told in now.values()])
            except (DeptbusError, TimeoutError) as error:
                log.warning("alarms_not_written", error=str(error), alarms=len(now))
                return
            for subject, told in now.items():
                if self._told.get(subject) is told:
                    self._unkept.discard(subject)

    # --- what is told -------------------------------------------------------------------------

    def _tell(self, notice: Notice, about: About | None) -> None:
        before = self._told.get(notice.subject)
        lost = before.pending if before is not None and before.alarm == notice.alarm else ()
        for way in lost:
            log.warning("notice_overtaken", way=way, alarm=notice.alarm, by=notice.kind.value)
        alarm = self._alarms[notice.subject]
        raised_at = alarm.raised_at if alarm.raised_at is not None else notice.at
        document = _document(notice, raised_at, about, before)
        self._told[notice.subject] = AlarmTold(
            alarm=notice.alarm,
            subject=notice.subject,
            number=notice.number,
            kind=notice.kind.value,
            word=notice.word,
            severity=notice.severity,
            raised_at_us=int(raised_at * 1e6),
            told_at_us=int(notice.at * 1e6),
            pending=tuple(way.name for way in self._settings.ways),
            content=json.dumps(document, ensure_ascii=False),
        )
        self._unkept.add(notice.subject)
        log.warning(
            "alarm_told",
            kind=notice.kind.value,
            alarm=notice.alarm,
            subject=notice.subject,
            word=notice.word,
        )

    async def _bring_for_ever(self, way: Way) -> None:
        tries: dict[tuple[str, int], int] = {}
        due: dict[tuple[str, int], float] = {}
        while True:
            waiting = [told for told in self._told.values() if way.name in told.pending]
            clock = time.monotonic()
            ready = [t for t in waiting if due.get((t.alarm, t.number), 0.0) <= clock]
            if not ready or not self.tells:
                self._wake.clear()
                times = [due[t.alarm, t.number] for t in waiting] if self.tells else []
                await self._woken(min(times, default=clock + _BACKOFF_SECONDS[1]) - clock)
                continue
            told = min(ready, key=lambda t: t.told_at_us)
            notice = told.alarm, told.number
            try:
                await deliver(way, told.content)
            except NotDelivered as error:
                self.outcomes[way.name, "failed"] += 1
                tries[notice] = tries.get(notice, 0) + 1
                pause = min(_BACKOFF_SECONDS[0] * 2 ** (tries[notice] - 1), _BACKOFF_SECONDS[1])
                due[notice] = time.monotonic() + pause
                log.warning(
                    "notice_not_delivered",
                    way=way.name,
                    alarm=told.alarm,
                    kind=told.kind,
                    reason=error.reason,
                    tries=tries[notice],
                    again_seconds=pause,
                )
                continue
            self.outcomes[way.name, "delivered"] += 1
            tries.pop(notice, None)
            due.pop(notice, None)
            log.info("notice_delivered", way=way.name, alarm=told.alarm, kind=told.kind)
            await self._arrived(way, told)

    async def _woken(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.01, seconds)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _arrived(self, way: Way, told: AlarmTold) -> None:
        now = self._told.get(told.subject)
        if now is None or (now.alarm, now.number) != (told.alarm, told.number):
            return  # another notice has taken its place meanwhile
        pending = tuple(name for name in now.pending if name != way.name)
        self._told[told.subject] = replace(now, pending=pending)
        self._unkept.add(told.subject)
        await self._keep()


def _document(
    notice: Notice, raised_at: float, about: About | None, before: AlarmTold | None
) -> dict[str, Any]:
    """What is delivered. Of an alarm that is over, what its last notice said is said once more."""
    if about is not None:
        said = {
            "unit": about.unit,
            "stage": about.stage,
            "dataset": about.dataset,
            "owner": about.owner,
            "duty": about.duty.model_dump() if about.duty is not None else None,
            "since": None if about.since is None else when(about.since),
            "details": dict(about.details or {}),
            "advice": about.advice,
            "runbook": about.runbook,
        }
    else:
        said = _said_before(before)
    document = {
        "alarm": notice.alarm,
        "notice": notice.number,
        "kind": notice.kind.value,
        "at": when(notice.at),
        "subject": notice.subject,
        "word": notice.word,
        "severity": notice.severity,
        "raised_at": when(raised_at),
    } | said
    return document | {"text": _text(document)}


_NOTICE_FIELDS = (
    "alarm", "notice", "kind", "at", "subject", "word", "severity", "raised_at", "text",
)  # fmt: skip


def _said_before(before: AlarmTold | None) -> dict[str, Any]:
    said = json.loads(before.content) if before is not None else {}
    return {name: value for name, value in said.items() if name not in _NOTICE_FIELDS}


def _text(document: Mapping[str, Any]) -> str:
    """One line for a telephone."""
    where = " ".join(filter(None, (document.get("unit"), document.get("stage"),
                                   document.get("dataset")))) or document["subject"]  # fmt: skip
    if document["kind"] == Kind.OVER.value:
        return f"{where}: over, since {document['at']}"
    duty = document.get("duty")
    ring = f"{duty['name']} {duty['phone']}" if duty else document.get("owner") or ""
    rung = f"; ring {document.get('owner')}, {ring}" if duty else f"; ring {ring}" if ring else ""
    return f"{where}: {document['word']}{rung}. {document.get('advice', '')}"

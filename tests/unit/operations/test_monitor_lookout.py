"""No look that fails ends the lookout, and after it there is no report of what was seen before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient

from deptbus.connection import Connection
from deptbus.errors import BusUnreachable
from deptbus.operations import lookout as lookout_module
from deptbus.operations.alarm_settings import AlarmSettings
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.lookout import Lookout, Pace
from deptbus.operations.monitor import Monitor
from deptbus.operations.monitor_http import monitor_app
from deptbus.operations.observer import Picture
from deptbus.operations.offset_requests import Cluster
from deptbus.operations.verdicts import USUAL

NOWHERE = Connection(bootstrap="127.0.0.1:1")
PACE = Pace(look=0.01, rare=0.01, deadline=0.2)
Step = Callable[[], Any]


def seen() -> LagReport:
    return LagReport(1.0, Picture(1.0, Cluster((1,), {}), {}, True), (), (), has_contract=False)


class Script:
    """What each look does; the last one again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: Step) -> None:
        self.steps, self.begun, self.ended = list(steps), 0, 0
        script = self

        class Watch:
            def __init__(self, *_: object) -> None:
                script.begun += 1

            async def start(self) -> None:
                return

            async def stop(self) -> None:
                script.ended += 1

            async def look(self) -> LagReport:
                step = script.steps.pop(0) if len(script.steps) > 1 else script.steps[0]
                found = step()
                if asyncio.iscoroutine(found):
                    return await found
                return found

        monkeypatch.setattr(lookout_module, "LagWatch", Watch)


def raising(error: Exception) -> Step:
    def step() -> LagReport:
        raise error

    return step


async def hanging() -> LagReport:
    await asyncio.sleep(60)
    raise AssertionError


@asynccontextmanager
async def looking() -> AsyncIterator[tuple[Lookout, list[bool]]]:
    """The lookout, and whether there was a report after each look."""
    had: list[bool] = []

    async def took() -> None:
        had.append(lookout.sight.report is not None)

    lookout = Lookout(NOWHERE, USUAL, took, PACE)
    task = asyncio.create_task(lookout.run())
    try:
        yield lookout, had
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("failing", "trouble"),
    [
        (raising(BusUnreachable("no broker answers")), "no broker answers"),
        (raising(RuntimeError("with a record in it")), "our own bug: RuntimeError"),
        (hanging, "a look took longer than 0 s"),
    ],
    ids=["the bus is away", "our own bug", "a look that does not end"],
)
async def test_it_goes_on(failing: Step, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, seen, failing, seen)
    async with looking() as (lookout, had):
        await until(lambda: len(had) > 3)
        assert had[:3] == [True, False, True]
        assert lookout.sight.trouble == ""
    Script(monkeypatch, failing)
    async with looking() as (lookout, had):
        await until(lambda: len(had) > 1)
        assert (had[0], lookout.sight.trouble) == (False, trouble)


async def test_after_our_own_bug_it_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, raising(RuntimeError()), seen)
    async with looking() as (_, had):
        await until(lambda: len(had) > 2)
        assert (script.begun, script.ended) == (2, 1)
    assert script.ended == 2


async def test_a_desk_that_fails_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, seen)
    calls = 0

    async def took() -> None:
        nonlocal calls
        calls += 1
        raise ValueError

    lookout = Lookout(NOWHERE, USUAL, took, PACE)
    task = asyncio.create_task(lookout.run())
    await until(lambda: calls > 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_what_is_served_before_anybody_could_look() -> None:
    monitor = Monitor(NOWHERE, AlarmSettings())
    with TestClient(monitor_app(monitor)) as client:
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "it has not looked yet\n")
        figures = client.get("/metrics").text
        assert 'deptbus_look_state{state="unreachable"} 1.0' in figures
        assert "kafka_consumergroup_lag" not in figures
        assert client.get("/subjects").status_code == 503
        nowhere = client.get("/nowhere")
        assert (nowhere.status_code, nowhere.json()["error_code"]) == (404, 404)
        assert client.post("/metrics").status_code == 405


def test_ready_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = Monitor(NOWHERE, AlarmSettings(), pace=Pace(look=1, deadline=1))
    sight = monitor.lookout.sight
    sight.at, sight.trouble = time.monotonic(), ""
    assert monitor.trouble() == ""
    sight.trouble = "no broker answers"
    assert monitor.trouble() == "no broker answers"
    sight.at, sight.trouble = time.monotonic() - 100, ""
    assert monitor.trouble() == "no look has ended for 100 s"

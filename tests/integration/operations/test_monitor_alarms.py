"""Alarms on a real bus: told once, kept through restarts and kills, acknowledged, over; retried."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from office_bus import HOUSING, SOURCE
from office_town import Town
from prometheus_client.parser import text_string_to_metric_families
from webhook import Webhook

from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.ports import free_port
from deptbus.connection import Connection
from deptbus.operations.alarm_desk import AlarmDesk
from deptbus.operations.alarm_settings import AlarmSettings, Way
from deptbus.operations.alarms_board import acknowledge, chosen, read_alarms
from deptbus.operations.audit import Operator, read_acts
from deptbus.operations.lookout import Pace
from deptbus.operations.monitor import Monitor

pytestmark = pytest.mark.service

OPERATOR = Operator("王五")
PACE = Pace(look=0.2, rare=3600)
STOPPED, LOST = f"lag/{HOUSING}/apply", f"lag/{SOURCE}/outbox"


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with Webhook() as hook:
        hook.subject = STOPPED
        yield hook


def settings(hook: Webhook, **words: Any) -> AlarmSettings:
    given = {"raise_after_seconds": 0, "over_after_seconds": 0, "repeat_hours": 1}
    way = Way(name="duty", webhook=hook.url)
    return AlarmSettings.model_validate(given | words | {"ways": (way,)})


@asynccontextmanager
async def watching(town: Town, told: AlarmSettings) -> AsyncIterator[Monitor]:
    """A monitor that is dropped at the end as a kill drops it: nothing is written on the way."""
    monitor = Monitor(town.bus.connection, told, pace=PACE, now=town.now)
    running = asyncio.create_task(monitor.run())
    try:
        yield monitor
    finally:
        # Not in the midst of opening a connection: the client leaves one behind then.
        await until(lambda: monitor.lookout.sight.freshness is not None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def looks(monitor: Monitor, count: int = 3) -> None:
    """So many more that saw the bus."""
    for _ in range(count):
        before = monitor.lookout.sight.looks
        await until(lambda before=before: monitor.lookout.sight.looks > before)  # type: ignore[misc]
        assert monitor.trouble() == ""


async def test_a_stopped_adapter_is_one_alarm_through_restarts(town: Town, hook: Webhook) -> None:
    told = settings(hook)
    async with watching(town, told) as monitor:
        await looks(monitor)
        assert hook.got == []
        town.alive.remove(HOUSING)
        await town.live(61)
        await until(lambda: hook.got)
        (notice,) = hook.got
        assert notice["kind"] == "raised"
        assert (notice["word"], notice["unit"], notice["stage"]) == ("STOPPED", HOUSING, "apply")
        assert notice["runbook"] == "docs/operations.md#stopped"
        assert "deptbus department run" in notice["text"]
        await until(lambda: not monitor.alarms.pending()["duty"])
        await looks(monitor)
    await town.live(60)
    async with watching(town, told) as monitor:  # the monitor was killed and started again
        await until(lambda: monitor.alarms.open())
        await looks(monitor)
        assert len(hook.got) == 1
        mine = chosen(await read_alarms(town.bus.connection), [STOPPED])
        await acknowledge(town.bus.connection, mine, OPERATOR, "rung them")
        await town.live(3600)  # acknowledged: no reminder
        await looks(monitor)
        town.alive.add(HOUSING)
        await town.live(1)
        await until(lambda: len(hook.got) > 1)
        await looks(monitor)
    assert hook.told() == ["raised", "over"]
    assert len(set(hook.told("alarm"))) == 1
    assert STOPPED not in [a.subject for a in (await read_alarms(town.bus.connection)).open()]
    (act,) = [a for a in await read_acts(town.bus.connection) if a.verb == "alarm_ack"]
    assert (act.operator, act.reason) == ("王五", "rung them")
    assert act.subjects == (STOPPED,)


async def test_what_nobody_acknowledges_is_said_again(town: Town, hook: Webhook) -> None:
    async with watching(town, settings(hook)) as monitor:
        await looks(monitor)
        town.alive.remove(HOUSING)
        await town.live(61)
        await until(lambda: len(hook.got) == 1)
        await town.live(3601)
        await until(lambda: len(hook.got) == 2)
        await looks(monitor)
    assert hook.told() == ["raised", "reminder"]


async def test_a_way_that_fails_is_tried_again_and_counted(town: Town, hook: Webhook) -> None:
    hook.status, hook.subject = 503, LOST
    told = settings(hook)
    town.resync_needed = True
    await town.live(0)
    async with watching(town, told) as monitor:
        await until(lambda: monitor.alarms.outcomes["duty", "failed"] >= 2)
        figures = sample(monitor)
        assert figures["deptbus_alarm_deliveries_total", ("failed", "duty")] >= 2
        assert figures["deptbus_alarm_notices_pending", ("duty",)] >= 1
        assert hook.got == []
    async with watching(town, told) as monitor:  # killed before it could be told
        hook.status = 200
        await until(lambda: hook.got)
        await until(lambda: not monitor.alarms.pending()["duty"])
        figures = sample(monitor)
        assert figures["deptbus_alarm_deliveries_total", ("delivered", "duty")] >= 1
        assert figures["deptbus_alarms_open", ("lag",)] == 1
    assert hook.told() == ["raised"]
    assert hook.told("word") == ["LOST"]


def sample(monitor: Monitor) -> dict[tuple[str, tuple[str, ...]], float]:
    from deptbus.metrics.endpoint import text_of

    text, _ = text_of(monitor.metrics)
    return {
        (s.name, tuple(value for _, value in sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }


async def test_two_monitors_tell_once(town: Town, hook: Webhook) -> None:
    told = settings(hook)
    async with watching(town, told) as one, watching(town, told) as other:
        await until(lambda: one.alarms.tells != other.alarms.tells)
        await looks(one)
        await looks(other)
        town.resync_needed, hook.subject = True, LOST
        await town.live(0)
        await until(lambda: hook.got)
        await looks(one)
        await looks(other)
        await until(lambda: one.alarms.open() and other.alarms.open())
    assert hook.told() == ["raised"]


@pytest.mark.parametrize("bug", ["keeps nothing", "forgets on failure"])
async def test_a_planted_bug_is_found(
    town: Town, hook: Webhook, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above hold breaks when alarms are not kept, or a failed way is not retried."""

    async def nothing(_: AlarmDesk) -> None:
        return

    if bug == "keeps nothing":
        monkeypatch.setattr(AlarmDesk, "_keep", nothing)
        with pytest.raises((AssertionError, ValueError)):
            async with asyncio.timeout(60):
                await test_a_stopped_adapter_is_one_alarm_through_restarts(town, hook)
    else:
        from deptbus.operations import alarm_desk

        async def lost(*_: object) -> None:
            return

        monkeypatch.setattr(alarm_desk, "deliver", lost)
        monkeypatch.setattr(sys.modules[__name__], "until", _soon)
        with pytest.raises(AssertionError):
            await test_a_way_that_fails_is_tried_again_and_counted(town, hook)


async def _soon(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 4
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_broker_that_goes_and_comes_back_is_unknown_and_an_alarm(
    broker: Connection, service_folder: Path, hook: Webhook
) -> None:
    """On a cluster without contract, too: figures are absent meanwhile, never 0."""
    # Started from the main thread, whose end would be its own (cluster.lifeline).
    server = EmbeddedBroker(service_folder / "monitor-broker")
    connection = server.start()
    hook.subject = "cluster/bus"
    monitor = Monitor(connection, settings(hook), pace=PACE)
    running = asyncio.create_task(monitor.run())
    try:
        await until(lambda: monitor.lookout.sight.report is not None)
        assert ("deptbus_look_state", ("whole",)) in sample(monitor)
        assert ("kafka_brokers", ()) in sample(monitor)
        server.stop()
        await until(lambda: hook.got)
        assert hook.told("word") == ["UNREACHABLE"]
        told = sample(monitor)
        assert ("deptbus_look_state", ("unreachable",)) in told
        assert not [name for name, _ in told if name.startswith("kafka_")]
        assert monitor.trouble()
        server.start()
        await until(lambda: len(hook.got) == 2)
        assert hook.told() == ["raised", "over"]
        assert ("kafka_brokers", ()) in sample(monitor)
        assert monitor.trouble() == ""
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        server.stop()


# --- the process --------------------------------------------------------------------------------


class Process:
    def __init__(self, town: Town, settings_file: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "deptbus.cli.main", "monitor", "--listen", self.address),
                *("--settings", str(settings_file), "--look-seconds", "0.5"),
            ],
            env=os.environ | town.bus.connection.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"monitor at http://{self.address}\n"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


async def test_a_monitor_that_is_killed_tells_no_second_time(
    town: Town, hook: Webhook, tmp_path: Path
) -> None:
    path = tmp_path / "monitor.yml"
    path.write_text(
        "raise_after_seconds: 0\nover_after_seconds: 0\nways:\n"
        f"  - name: duty\n    webhook: {hook.url}\n    headers: {{X-Token: sesame}}\n"
    )
    town.resync_needed, hook.subject = True, LOST
    await town.live(0)
    first = await asyncio.to_thread(Process, town, path)
    await asyncio.to_thread(hook.until, lambda: bool(hook.got))
    await _kept(town, lambda told: told.pending == ())
    assert await asyncio.to_thread(first.end, signal.SIGKILL) == -signal.SIGKILL
    second = await asyncio.to_thread(Process, town, path)
    try:
        await _figure(second, 'deptbus_alarms_open{scope="lag"} 1.0')
        assert await asyncio.to_thread(second.get, "/readyz") == "it looks\n"
        assert f'deptbus_unit_verdict{{stage="outbox",unit="{SOURCE}",verdict="LOST"}} 1.0' in (
            await asyncio.to_thread(second.get, "/metrics")
        )
        await _run(town, "alarm", "ack", "--all", "--reason", "rung them", "--operator", "li")
        listed = json.loads((await _run(town, "alarm", "ls", "-o", "json"))[1])["alarms"]
        (alarm,) = [a for a in listed if a["subject"] == LOST]
        assert (alarm["word"], alarm["acknowledged"]["by"]) == ("LOST", "li")
        town.resync_needed = False
        await town.live(0)
        await asyncio.to_thread(hook.until, lambda: len(hook.got) == 2)
    finally:
        began = time.monotonic()
        code = await asyncio.to_thread(second.end, signal.SIGTERM)
    assert (code, time.monotonic() - began < 5) == (0, True)
    assert hook.told() == ["raised", "over"]
    assert hook.headers[0]["X-Token"] == "sesame"


async def _kept(town: Town, condition: Callable[[Any], bool]) -> None:
    deadline = time.monotonic() + 30
    while True:
        told = (await read_alarms(town.bus.connection)).open()
        if told and all(map(condition, told)):
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def _figure(process: Process, line: str) -> None:
    deadline = time.monotonic() + 30
    while line not in await asyncio.to_thread(process.get, "/metrics"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def _run(town: Town, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deptbus.cli.main",
        *words,
        env=os.environ | town.bus.connection.environment(),
        stdout=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()

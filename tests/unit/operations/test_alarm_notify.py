"""One notice by one way: a command that runs, a webhook that answers; whatever else is told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from webhook import Webhook

from deptbus.operations.alarm_settings import Way
from deptbus.operations.notify import NotDelivered, deliver

CONTENT = json.dumps(
    {
        "alarm": "a1",
        "notice": 1,
        "kind": "raised",
        "subject": "s",
        "word": "STOPPED",
        "unit": "housing@330106",
        "owner": "房产管理科",
        "duty": {"name": "值班室", "phone": "668101"},
        "text": "housing@330106: STOPPED",
    },
    ensure_ascii=False,
)


def command(code: str, **words: object) -> Way:
    return Way.model_validate({"name": "desk", "command": (sys.executable, "-c", code), **words})


async def test_a_command_gets_the_alarm_as_input_and_in_its_environment(tmp_path: Path) -> None:
    out = tmp_path / "told"
    code = (
        "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read() + '\\n' + "
        "'|'.join(os.environ['DEPTBUS_ALARM_' + n] for n in "
        "('WORD', 'UNIT', 'STAGE', 'DUTY', 'PHONE', 'NOTICE')))"
    )
    way = Way(name="desk", command=(sys.executable, "-c", code, str(out)))
    await deliver(way, CONTENT)
    content, _, variables = out.read_text(encoding="utf-8").partition("\n")
    assert content == CONTENT
    assert variables == "STOPPED|housing@330106||值班室|668101|1"


async def test_a_command_that_reads_nothing_is_fine() -> None:
    await deliver(command("pass"), CONTENT + " " * 1_000_000)


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (command("raise SystemExit(3)"), "it ended with 3"),
        (Way(name="desk", command=("/nowhere/ring",)), "it cannot be run (No such file"),
        (Way(name="chat", webhook="http://127.0.0.1:1/x"), "it cannot be reached (ConnectError)"),
    ],
)
async def test_what_failed_is_told_without_address_or_arguments(way: Way, reason: str) -> None:
    with pytest.raises(NotDelivered) as told:
        await deliver(way, CONTENT)
    assert told.value.reason.startswith(reason)
    assert "nowhere" not in told.value.reason
    assert "127.0.0.1" not in told.value.reason


async def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    out = tmp_path / "child"
    code = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', "
        f"'import time; time.sleep(60)']); open({str(out)!r}, 'w').write(str(p.pid)); "
        "time.sleep(60)"
    )
    with pytest.raises(NotDelivered) as told:
        await deliver(command(code, timeout_seconds=2), CONTENT)
    assert told.value.reason == "no answer in time"
    deadline = time.monotonic() + 10
    while _lives(int(out.read_text())):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
    except PermissionError:
        os.kill(pid, 0)
        return True


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with Webhook() as hook:
        hook.subject = "s"
        yield hook


async def test_a_webhook_gets_json(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # never asked
    way = Way.model_validate({"name": "c", "webhook": hook.url, "headers": {"X-Token": "t"}})
    await deliver(way, CONTENT)
    assert hook.got == [json.loads(CONTENT)]
    (headers,) = hook.headers
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["X-Token"] == "t"


@pytest.mark.parametrize("status", [301, 400, 404, 500, 503])
async def test_any_other_answer_has_not_arrived(hook: Webhook, status: int) -> None:
    hook.status = status
    with pytest.raises(NotDelivered) as told:
        await deliver(Way(name="c", webhook=hook.url), CONTENT)
    assert told.value.reason == f"it answered {status}"
    assert hook.tries == 1  # a redirection is not followed

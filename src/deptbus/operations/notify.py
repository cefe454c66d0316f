"""Brings one notice to people by one way: a command that is run, or a webhook that is called.

Arrived means: the command ended with 0, the webhook answered with 2xx, in time. Whatever else is
NotDelivered, and is tried again by whoever asked; a receiver that was reached and could not say so
gets it once more, with the same `alarm` and `notice`. No error names an address, an argument or a
header: they may hold tokens.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from deptbus.operations.alarm_settings import Way

_ENVIRONMENT = ("alarm", "notice", "kind", "subject", "word", "unit", "stage", "dataset", "owner",
                "text")  # fmt: skip


class NotDelivered(Exception):
    """`reason`: a few words of ours, fit for a log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def deliver(way: Way, content: str) -> None:
    """`content`: the notice as JSON. Raises NotDelivered."""
    try:
        async with asyncio.timeout(way.timeout_seconds):
            if way.command:
                await _run(way, content)
            else:
                await _call(way, content)
    except TimeoutError:
        raise NotDelivered("no answer in time") from None
    except NotDelivered:
        raise
    except Exception as error:  # noqa: BLE001 - one way's failure must not end the others
        raise NotDelivered(f"our own bug: {type(error).__name__}") from None


async def _run(way: Way, content: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *way.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | _variables(json.loads(content)),
            start_new_session=True,  # what it starts goes with it
        )
    except OSError as error:
        raise NotDelivered(f"it cannot be run ({error.strerror})") from None
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # it need not read
            await process.communicate(content.encode())
        code = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code != 0:
        raise NotDelivered(f"it ended with {code}")


def _variables(document: Mapping[str, Any]) -> dict[str, str]:
    """DEPTBUS_ALARM_... for commands that read no JSON."""
    found = {f"DEPTBUS_ALARM_{n.upper()}": str(document.get(n) or "") for n in _ENVIRONMENT}
    duty = document.get("duty") or {}
    return found | {
        "DEPTBUS_ALARM_DUTY": str(duty.get("name", "")),
        "DEPTBUS_ALARM_PHONE": str(duty.get("phone", "")),
    }


async def _call(way: Way, content: str) -> None:
    import httpx2  # a tenth of a second that only who has a webhook pays for

    assert way.webhook is not None
    headers = {name: value.get_secret_value() for name, value in way.headers.items()}
    headers |= {"Content-Type": "application/json; charset=utf-8"}
    try:
        # Only where the operator says: no proxy of the environment, no redirection.
        async with httpx2.AsyncClient(trust_env=False, timeout=way.timeout_seconds) as client:
            answer = await client.post(way.webhook, content=content.encode(), headers=headers)
    except httpx2.TimeoutException:
        raise NotDelivered("no answer in time") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise NotDelivered(f"it cannot be reached ({type(error).__name__})") from None
    if not answer.is_success:
        raise NotDelivered(f"it answered {answer.status_code}")

"""Server-sent events: tells open pages that something changed, and which changes flow just now.

A page that is told asks for itself again and takes over what differs; so what it shows went
through the same doors as ever.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from deptbus.console.snapshot import seen_by
from deptbus.console.visit import Visit
from deptbus.operations.picture import Flow

BEAT_SECONDS = 10.0  # at least so often something is sent, which shows both sides that it stands
_MOST = 500


async def follow(visit: Visit) -> Response:
    console = visit.console
    if console.followers >= _MOST:
        raise HTTPException(503)
    return StreamingResponse(
        _events(visit), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _events(visit: Visit) -> AsyncIterator[str]:
    console, cookie = visit.console, visit.cookie
    known: set[int] | None = None  # flows that this page was told of
    console.followers += 1
    try:
        async for whole in console.board.follow(BEAT_SECONDS):
            person = console.sessions.person(cookie)
            if person is None:
                yield _event("ended", {})
                return
            snapshot = seen_by(whole, person)
            flows = [f for f in snapshot.flows if known is not None and id(f) not in known]
            known = {id(f) for f in snapshot.flows}
            if flows:
                yield _event("flows", [_flow(flow) for flow in flows])
            yield _event("changed", {"number": snapshot.number})
    finally:
        console.followers -= 1


def _flow(flow: Flow) -> dict[str, str | int]:
    return {
        "source": flow.source,
        "recipient": flow.recipient,
        "dataset": flow.dataset,
        "direction": flow.direction,
        "count": flow.count,
    }


def _event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"

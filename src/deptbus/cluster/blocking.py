"""Calls that block, off the event loop, in a thread that nobody has to wait for at the end.

The loop's own pool is joined when the loop closes, so that one call to a broker that is gone would
hold up Ctrl-C for as long as the call's time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


async def in_thread(call: Callable[[], Answer]) -> Answer:
    """What `call` returns or raises. Cancelling leaves it to end by itself."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Answer] = loop.create_future()

    def settle(answer: Answer | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)  # type: ignore[arg-type]

    def run() -> None:
        try:
            answer, error = call(), None
        except Exception as raised:  # noqa: BLE001 - handed over whole to who awaits
            answer, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, answer, error)

    threading.Thread(target=run, daemon=True).start()
    return await future

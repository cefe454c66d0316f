"""Ends connections over TLS in time.

TLS says goodbye and waits for an answer, for thirty seconds in Python and in uvloop; the client
waits for that when it is closed. Whatever is being closed reads no more, so the answer may never be
seen, and an adapter that was asked to stop was killed by its manager instead. Nothing hangs on a
goodbye: what was sent is acked by then, or its outcome is unknown whatever the connection says.
"""

from __future__ import annotations

from typing import Any

from aiokafka.conn import AIOKafkaConnection

GOODBYE_SECONDS = 0.5

_close = AIOKafkaConnection.close


def install() -> None:
    """Reaches into the client, whose version is pinned; may be called again."""
    AIOKafkaConnection.close = _close_in_time


def _close_in_time(self: Any, reason: Any = None, exc: BaseException | None = None) -> Any:
    writer = self._writer
    closed = _close(self, reason, exc)
    # Not asked of the transport: where the other side hung up first it knows nothing any more.
    if writer is not None and self._security_protocol.endswith("SSL"):
        self._loop.call_later(GOODBYE_SECONDS, writer.transport.abort)
    return closed

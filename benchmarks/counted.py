"""A TCP relay on the loopback that counts what goes through it: bytes on the wire of a program that
tells none itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 256 * 1024


class Counted:
    """`port` on the loopback; `bytes` of both directions of all connections so far."""

    def __init__(self) -> None:
        self.port = 0
        self.bytes = 0

    async def relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(_CHUNK):
                self.bytes += len(data)
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass  # either side went away: the other is told by the close
        finally:
            sink.close()
            with suppress(ConnectionError):
                await sink.wait_closed()


@asynccontextmanager
async def counted(host: str, port: int) -> AsyncIterator[Counted]:
    """What connects to `Counted.port` speaks to host:port."""
    count = Counted()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)
        await asyncio.gather(count.relay(reader, back), count.relay(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    count.port = server.sockets[0].getsockname()[1]
    try:
        yield count
    finally:
        server.close()


def through(url: str, port: int) -> str:
    """The same database by way of a port on the loopback."""
    parts = urlsplit(url)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))

"""The relay passes every byte on, and counts those of both directions."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.counted import counted, through


async def test_bytes_of_both_directions_are_counted() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(5)
        writer.write(data * 200_000)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, counted("127.0.0.1", server.sockets[0].getsockname()[1]) as count:
        for turn in (1, 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", count.port)
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.read(-1), 30) == b"hello" * 200_000
            writer.close()
            await writer.wait_closed()
            assert count.bytes == turn * (5 + 1_000_000)


@pytest.mark.parametrize(
    ("url", "by"),
    [
        ("postgresql://u:p@127.0.0.1:5432/d", "postgresql://u:p@127.0.0.1:7/d"),
        ("postgresql://localhost/d?x=1", "postgresql://127.0.0.1:7/d?x=1"),
    ],
)
def test_a_url_is_led_by_the_relay(url: str, by: str) -> None:
    assert through(url, 7) == by

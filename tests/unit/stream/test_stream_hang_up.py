"""A connection over TLS is closed in time, whatever the other side does."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.conn import AIOKafkaConnection, create_conn
from secure_broker import Authority

from deptbus.stream import brokers, hang_up
from deptbus.tls import client_context

SOON = 5.0  # Python's own patience is thirty seconds


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def mute(authority: Authority) -> Iterator[int]:
    """The port of a server that shakes hands, and then neither reads nor says anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.certificate("mute"))
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            plain, _ = server.accept()
            with context.wrap_socket(plain, server_side=True):
                over.wait(60)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        over.set()
        thread.join(10)


async def close_a_connection(port: int, authority: Authority) -> None:
    connection = await create_conn(
        "127.0.0.1",
        port,
        security_protocol="SSL",
        ssl_context=client_context(authority.file, None, None),
    )
    await asyncio.wait_for(connection.close(), SOON)


@pytest.fixture(autouse=True)
def _no_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: AIOKafkaConnection) -> None:
        """Nobody would answer it."""

    monkeypatch.setattr(AIOKafkaConnection, "_do_version_lookup", nothing)


async def test_nobody_waits_for_a_goodbye(mute: int, authority: Authority) -> None:
    brokers.reach_into_client()
    await close_a_connection(mute, authority)


async def test_planted_waiting_for_it_is_caught(
    mute: int, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[asyncio.Transport] = []

    def close(self: AIOKafkaConnection, *words: object) -> object:
        kept.append(self._writer.transport)
        return hang_up._close(self, *words)

    monkeypatch.setattr(AIOKafkaConnection, "close", close)
    with pytest.raises(TimeoutError):
        await close_a_connection(mute, authority)
    kept[0].abort()
    await asyncio.sleep(0)

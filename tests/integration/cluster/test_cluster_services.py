"""The services that every other integration test stands on."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient

from deptbus.connection import Connection

pytestmark = pytest.mark.service


def test_the_session_broker_answers_with_one_broker(broker: Connection) -> None:
    metadata = AdminClient(broker.librdkafka()).list_topics(timeout=5)
    assert len(metadata.brokers) == 1


async def test_each_database_is_fresh_and_its_own(postgres: Callable[[], str]) -> None:
    first, second = postgres(), postgres()
    assert first != second
    connection = await asyncpg.connect(first)
    try:
        await connection.execute("CREATE TABLE made_here (x int)")
    finally:
        await connection.close()
    connection = await asyncpg.connect(second)
    try:
        assert await connection.fetchval("SELECT to_regclass('made_here')") is None
    finally:
        await connection.close()

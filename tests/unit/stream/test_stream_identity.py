"""Ids of topics: what is heard again is not taken apart again, what is new is."""

from __future__ import annotations

import uuid
from io import BytesIO
from typing import Any

import pytest

from deptbus.errors import BusRefused
from deptbus.stream import identity
from deptbus.stream.identity import topic_identity, topic_ids

FORBIDDEN = 29


class Client:
    """Answers as a broker does, from bytes to bytes."""

    def __init__(self, ids: dict[str, int]) -> None:
        self.ids = ids

    def get_random_node(self) -> int:
        return 1

    async def send(self, _node: int, request: Any) -> Any:
        asked = request.build(identity._MetadataRequestV12)
        encoded = BytesIO(asked.encode())
        names = [name for _, name, _ in asked.SCHEMA.decode(encoded)[0]]
        topics = [
            (0, name, uuid.UUID(int=self.ids[name]).bytes, False, [], 0, {})
            if name in self.ids
            else (FORBIDDEN, name, bytes(16), False, [], 0, {})
            for name in names
        ]
        answer = (0, [], "cluster", 1, topics, {})
        return asked.RESPONSE_TYPE.decode(BytesIO(identity._MetadataResponse.SCHEMA.encode(answer)))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for each answer that was taken apart."""
    found: list[int] = []
    identity._identities.cache_clear()
    decode = identity._MetadataResponse.decode

    def counted(data: BytesIO) -> Any:
        found.append(1)
        return decode(data)

    monkeypatch.setattr(identity._MetadataResponse, "decode", counted)
    return found


async def test_an_answer_that_came_before_is_not_taken_apart(decoded: list[int]) -> None:
    client = Client({f"out.{n}": n for n in range(1000)})
    topics = [*client.ids, "gone"]
    wanted = {topic: str(uuid.UUID(int=n)) for topic, n in client.ids.items()}
    for _ in range(5):
        assert await topic_ids(client, topics) == wanted
    assert len(decoded) == 1


async def test_a_topic_that_was_made_again_is_noticed_at_once(decoded: list[int]) -> None:
    client = Client({f"out.{n}": n for n in range(1000)})
    topics = list(client.ids)
    await topic_ids(client, topics)
    client.ids["out.500"] = 5000
    assert (await topic_ids(client, topics))["out.500"] == str(uuid.UUID(int=5000))
    del client.ids["out.500"]
    assert "out.500" not in await topic_ids(client, topics)
    assert await topic_ids(client, ["out.3"]) == {"out.3": str(uuid.UUID(int=3))}


async def test_one_topic_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "PATIENCE_SECONDS", 0.0)
    client = Client({"in.a": 9})
    assert await topic_identity(client, "in.a") == ("cluster", str(uuid.UUID(int=9)))
    with pytest.raises(BusRefused):
        await topic_identity(client, "in.b")

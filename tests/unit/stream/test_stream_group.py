"""A group that nobody joins: what its coordinator may answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import CoordinatorLoadInProgressError, NotCoordinatorForGroupError

from deptbus.errors import BusUnreachable
from deptbus.stream.group import LagCommitter

TOPIC = "in.housing-330106"


class Coordinator:
    """A client whose one broker gives these answers, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self._answers, self.lookups = list(answers), 0

    async def coordinator_lookup(self, *_: Any) -> int:
        self.lookups += 1
        return 1

    async def send(self, *_: Any, **__: Any) -> Any:
        return self._answers.pop(0)


def fetched(*partitions: tuple[int, int, str, int], code: int = 0) -> Any:
    topics = [(TOPIC, list(partitions))] if partitions else []
    return SimpleNamespace(topics=topics, error_code=code)


async def test_what_is_committed() -> None:
    client: Any = Coordinator(fetched((0, 7, "", 0), (1, -1, "", 0)))
    assert await LagCommitter(client, "group").committed(TOPIC, [0, 1]) == {0: 7}


@pytest.mark.parametrize("error", [CoordinatorLoadInProgressError, NotCoordinatorForGroupError])
async def test_an_error_of_the_whole_is_waited_out(error: Any) -> None:
    """A broker that has not loaded its groups yet names the error, and no topic."""
    client: Any = Coordinator(fetched(code=error.errno), fetched((0, 7, "", 0)))
    committer = LagCommitter(client, "group")
    with pytest.raises(BusUnreachable):
        await committer.committed(TOPIC, [0])
    assert await committer.committed(TOPIC, [0]) == {0: 7}
    assert client.lookups == 2  # it may be another one now


async def test_an_error_of_a_partition() -> None:
    error = CoordinatorLoadInProgressError.errno
    client: Any = Coordinator(SimpleNamespace(topics=[(TOPIC, [(0, error)])]))
    with pytest.raises(BusUnreachable):
        await LagCommitter(client, "group").commit(TOPIC, {0: 7})

"""An adapter whose system is cancelled by nobody does not end as if it had been asked to."""

from __future__ import annotations

import asyncio

import pytest

from deptbus.department import adapter


class Cancelled:
    """Stands for a SystemRun in which a client's own CancelledError came up."""

    def __init__(self) -> None:
        self.settled = asyncio.Event()
        self.settled.set()

    async def run(self) -> None:
        raise asyncio.CancelledError

    def stop(self) -> None:
        return


class Going(Cancelled):
    def __init__(self) -> None:
        super().__init__()
        self._asked = asyncio.Event()

    async def run(self) -> None:
        await self._asked.wait()

    def stop(self) -> None:
        self._asked.set()


async def test_it_ends_with_our_own_bug() -> None:
    waiting = asyncio.create_task(asyncio.Event().wait())
    with pytest.raises(RuntimeError, match="nobody had asked"):
        await adapter._run_systems([Cancelled(), Going()], waiting)  # type: ignore[list-item]
    waiting.cancel()


async def test_who_is_asked_to_end_ends_well() -> None:
    asked = asyncio.Event()
    asked.set()
    waiting = asyncio.create_task(asked.wait())
    await adapter._run_systems([Going()], waiting)  # type: ignore[list-item]

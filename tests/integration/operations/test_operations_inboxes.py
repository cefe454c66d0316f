"""An inbox that was deleted and made again is filled anew, also by an office that begins later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from office_bus import (
    HOUSING,
    SOURCE,
    Agent,
    Bus,
    Recipient,
    contract,
    copy_of,
    entitled,
    make_again,
    person,
    requests_at,
    until,
)

from deptbus.names import in_topic
from deptbus.operations.inboxes import Inboxes

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]

TOPIC = in_topic(HOUSING)


async def loses_what_was_unread(bus: Bus, *, office_sees_it: bool) -> None:
    """Raises AssertionError when the inbox does not come to hold all that its unit should have."""
    policy = await bus.activate(contract())
    agent = Agent(bus, "agent", policy)
    async with agent.alive():
        async with bus.office() as office:
            await bus.job_done(HOUSING, policy.number)
            await until(lambda: TOPIC in office.jobs.topic_ids, "its id is noted")
            await bus.write(*(person(bus.codecs, n, 1) for n in range(40)))
            await agent.route()
            if office_sees_it:
                await make_again(bus, TOPIC)
                await _filled(bus, policy)
        if not office_sees_it:
            await make_again(bus, TOPIC)
            async with bus.office():
                await _filled(bus, policy)
    # Whoever comes later finds it noted, and nothing to be done.
    async with bus.office() as office:
        await office.jobs.refresh()
        await asyncio.sleep(0)
        assert office.desk.due() == {}
        assert office.inboxes.made_again == {}


async def _filled(bus: Bus, policy) -> None:
    wanted = await entitled(bus, HOUSING, policy)
    assert len(wanted) == 40

    async def is_there() -> bool:
        jobs = await bus.last_progress()
        anew = [j for name, j in jobs.items() if name.count("/") == 2]
        return bool(anew) and all(j.state == "done" for j in anew)

    async with Recipient(bus, HOUSING).running():
        await until(is_there, "the job that fills it anew", 20)
    assert (await copy_of(bus, HOUSING)).table() == wanted


@pytest.mark.parametrize("office_sees_it", [True, False])
async def test_an_inbox_made_again_is_filled_anew(
    new_bus: Callable[[], Bus], office_sees_it: bool
) -> None:
    async with new_bus() as bus:
        await loses_what_was_unread(bus, office_sees_it=office_sees_it)


async def test_planted_blindness_to_inboxes_is_caught(
    new_bus: Callable[[], Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inboxes, "due", lambda self, due, digests: dict(due))
    async with new_bus() as bus:
        with pytest.raises(AssertionError, match="fills it anew"):
            await loses_what_was_unread(bus, office_sees_it=True)


@pytest.mark.parametrize("office_sees_it", [True, False])
async def test_a_source_whose_inbox_was_made_again_is_asked_for_all_it_has(
    new_bus: Callable[[], Bus], office_sees_it: bool
) -> None:
    """What it was asked for before is lost with the old one. It receives nothing, so no job fills
    the new one; its id is noted all the same."""
    inbox = in_topic(SOURCE)
    async with new_bus() as bus:
        await bus.activate(contract())
        async with bus.office() as office:
            await until(lambda: inbox in office.jobs.topic_ids, "its id is noted")
            before = office.jobs.topic_ids[inbox]
            if office_sees_it:
                await make_again(bus, inbox)
                await _noted_anew(office, inbox, before)
        if not office_sees_it:
            await make_again(bus, inbox)
        async with bus.office() as office:
            await _noted_anew(office, inbox, before)
            (request,) = await requests_at(bus)
            assert (request.dataset, request.key) == ("person", None)
            assert request.request == f"{inbox}/{office.jobs.topic_ids[inbox]}"


async def _noted_anew(office, topic: str, before: str) -> None:
    async def is_noted() -> bool:
        await office.jobs.refresh()
        return office.jobs.topic_ids.get(topic) not in (None, before)

    await until(is_noted, "its new id is noted")

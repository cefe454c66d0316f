"""`bus.contract`, deleted by mistake and made again: nothing is in force until it is activated once
more, under a number that never was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from office_bus import GRID, HOUSING, Agent, Bus, Recipient, contract, make_again, person, until
from structlog.testing import capture_logs

from deptbus.cli.up import ensure_contract
from deptbus.contract.model import Policy
from deptbus.errors import ContractUnreadable, DeptbusError
from deptbus.names import CONTRACT
from deptbus.operations import activation
from deptbus.operations.activation import propose, put_in_force
from deptbus.stream.follow import TopicFollower
from deptbus.stream.policies import PolicyFollower, read_policies

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]

NARROW = contract(housing=("id", "place"))


async def policies_three(bus: Bus) -> Policy:
    for fields in (("id", "place"), ("id", "place", "phone"), ("id", "place", "name")):
        policy = await bus.activate(contract(housing=fields))
    return policy


def _says(follower: PolicyFollower) -> str:
    try:
        return f"policy {follower.current().number}"
    except ContractUnreadable as error:
        return str(error)


async def goes_on(bus: Bus) -> None:
    """Raises AssertionError when somebody works on under the contract that was lost, or does not
    hear of the one that is activated."""
    policy = await policies_three(bus)
    agent, follower = Agent(bus, "agent", policy), PolicyFollower(bus.connection)
    await follower.start()
    try:
        recipients = Recipient(bus, HOUSING).running(), Recipient(bus, GRID).running()
        async with agent.alive(), bus.office(), recipients[0], recipients[1]:
            await bus.write(*(person(bus.codecs, n) for n in range(10)))
            await bus.job_done(HOUSING, 3)
            with capture_logs() as logs:
                await make_again(bus, CONTRACT, 1)
                await until(
                    lambda: "deptbus contract activate" in _says(follower),
                    "it is not taken for in force any more",
                    10,
                )
            told = [line for line in logs if line["event"] == "contract_made_again"]
            assert told
            assert {line["policy"] for line in told} == {3}
            proposal = await propose(bus.connection, NARROW, "test")
            assert proposal.is_lost
            await put_in_force(bus.connection, proposal)
            await until(
                lambda: _says(follower) == f"policy {proposal.new.number}", "it is heard of", 10
            )
            assert proposal.new.number == 4
            await agent.adopt(follower.current())
            await bus.job_done(HOUSING, 4)
    finally:
        await follower.stop()
    # Who begins now knows this one alone, and its jobs are of that number.
    assert sorted((await read_policies(bus.connection)).policies) == [4]


async def test_a_contract_made_again_is_activated_under_the_next_number(
    new_bus: Callable[[], Bus],
) -> None:
    async with new_bus() as bus:
        await goes_on(bus)


async def test_planted_trust_in_a_contract_that_was_lost_is_caught(
    new_bus: Callable[[], Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(TopicFollower, "_is_another", never)
    async with new_bus() as bus:
        with pytest.raises(AssertionError, match="in force any more"):
            await goes_on(bus)


async def test_planted_number_that_was_there_before_is_caught(
    new_bus: Callable[[], Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object) -> int:
        return 0

    monkeypatch.setattr(activation, "_last_at_work", none)
    monkeypatch.setattr(activation.Proposal, "is_lost", True)
    async with new_bus() as bus:
        with pytest.raises(AssertionError, match="it is heard of"):
            await goes_on(bus)


def topics(bus: Bus) -> set[str]:
    return set(AdminClient(bus.connection.librdkafka()).list_topics(timeout=10).topics)


async def test_up_guesses_no_contract_where_one_was_lost(
    new_bus: Callable[[], Bus], tmp_path: Path
) -> None:
    async with new_bus() as bus:
        policy = await policies_three(bus)
        await Agent(bus, "agent", policy).report()
        await make_again(bus, CONTRACT, 1)
        before = topics(bus)
        with pytest.raises(DeptbusError, match="nobody knows what was in force"):
            await ensure_contract(tmp_path, None, bus.connection)
        assert (await read_policies(bus.connection)).last == 0
        assert topics(bus) == before

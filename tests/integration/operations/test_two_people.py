"""Where the contract asks for two people, one alone neither replays nor repairs, whichever way he
takes: command line, functions, or his own confirmation."""

from __future__ import annotations

import asyncio
import json

import pytest
from copy_town import copies_of, found_in, prove
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from office_bus import HOUSING, Agent, Bus, Recipient, contract, person, until
from office_orders import closed, deliveries_behind, order_keys
from test_operations_cli import run
from test_replay_command import planned

from deptbus import names
from deptbus.contract.model import Contract, TwoPeople
from deptbus.errors import DeptbusError, Exit
from deptbus.operations import (
    proposal_desk,
    proposal_duty,
    proposals,
    reconcile_repair,
    replay_apply,
)
from deptbus.operations.audit import Operator, read_acts
from deptbus.operations.proofs import Subject, read_proved
from deptbus.operations.proposal_desk import (
    RepairTerms,
    decide,
    propose_repair,
    read_proposals,
)
from deptbus.operations.proposal_duty import Carrier, proposals_carried
from deptbus.operations.reconcile import Scope, reconcile
from deptbus.operations.reconcile_repair import Wishes, repair
from deptbus.operations.replay_desk import read_orders, steer
from deptbus.proof.certificate import verify
from deptbus.stream.log import end_offsets

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

WANG, LI = Operator("wang"), Operator("li")
SCOPE = Scope(HOUSING, "person", legs="copy", deep=True, deadline_seconds=40)
TERMS = RepairTerms(leg="copy", deep=True, most=2, overwrite_local=True)


def guarded() -> Contract:
    return contract().model_copy(update={"two_people": TwoPeople(acts=("replay", "repair"))})


async def says(bus: Bus, word: str, name: str, who: str) -> tuple[int | None, str]:
    code, _, err = await run(
        bus, "proposal", word, name, "--reason", "I looked at it", "--operator", who
    )
    return code, err


async def proposed(bus: Bus) -> dict[str, str]:
    """Proposal -> how it stands."""
    _, out, _ = await run(bus, "proposal", "ls", "--all", "-o", "json")
    return {one["proposal"]: one["state"] for one in json.loads(out)["proposals"]}


async def test_a_replay_is_ordered_once_another_person_has_confirmed_it(new_bus, tmp_path):
    async with new_bus() as bus:
        policy = await bus.activate(guarded())
        await bus.write(*(person(bus.codecs, n) for n in range(40)))
        async with (
            Agent(bus, "a", policy).alive(),
            Recipient(bus, HOUSING).running(),
            bus.office(
                keeper_interval_hours=None, further=(proposals_carried(bus.connection, None),)
            ),
        ):
            await bus.job_done(HOUSING, 1)
            before = await end_offsets(bus.connection, names.in_topic(HOUSING))
            plan = await planned(bus, tmp_path, "--all")
            job = plan["job"]
            applies = ("replay", "apply", plan["file"], "--yes", "--operator", "wang")
            code, out, _ = await run(bus, *applies)
            assert code == Exit.ANSWER_IS_NO
            assert f"deptbus proposal confirm {job}" in out
            for who in ("wang", "Wang "):
                code, err = await says(bus, "confirm", job, who)
                assert (code, "another person has to confirm it" in err) == (1, True)
            assert await proposed(bus) == {job: "waiting"}
            assert (await read_orders(bus.connection)).orders == {}
            assert await end_offsets(bus.connection, names.in_topic(HOUSING)) == before

            assert await says(bus, "confirm", job, "li") == (0, "")
            code, out, err = await run(bus, "replay", "status", job, "--wait", "-o", "json")
            while code == Exit.COULD_NOT:  # the operations process has not taken it up yet
                code, out, err = await run(bus, "replay", "status", job, "--wait", "-o", "json")
            assert (json.loads(out)["state"], code, err) == ("done", 0, "")
            assert len(await deliveries_behind(bus, HOUSING, before)) == 40

            async def is_told() -> bool:
                return (await proposed(bus))[job] == "done"

            await until(is_told, "what came of it is told")
            code, out, _ = await run(bus, *applies, "-o", "json")  # it is that job by now
            assert (code, json.loads(out)["state"]) == (0, "done")
            code, err = await says(bus, "decline", job, "li")
            assert (code, "is done already" in err) == (1, True)
        acts = [(a.verb, a.operator) for a in await read_acts(bus.connection)]
        assert acts == [
            ("replay_plan", "wang"),
            ("proposal_made", "wang"),
            ("proposal_confirmed", "li"),
            ("replay_apply", "wang"),
            ("job_ended", "wang"),
        ]


async def test_what_was_declined_is_not_done(new_bus, tmp_path):
    async with new_bus() as bus:
        policy = await bus.activate(guarded())
        await bus.write(*(person(bus.codecs, n) for n in range(9)))
        async with Agent(bus, "a", policy).alive():
            plan = await planned(bus, tmp_path, "--all")
            applies = ("replay", "apply", plan["file"], "--yes", "--operator", "wang")
            assert (await run(bus, *applies))[0] == 1
            assert await says(bus, "decline", plan["job"], "li") == (0, "")
            assert await proposed(bus) == {plan["job"]: "declined"}
            code, err = await says(bus, "confirm", plan["job"], "li")
            assert (code, "is declined already" in err) == (1, True)
            code, _, err = await run(bus, *applies)
            assert (code, "is declined already" in err) == (1, True)


async def test_a_repair_is_done_once_another_person_has_confirmed_it(new_bus, tmp_path):
    private_key = Ed25519PrivateKey.generate()
    async with copies_of(new_bus, tmp_path, None, 60, range(40, 60)) as (copies, office):
        connection = copies.bus.connection
        policy = await copies.bus.activate(guarded())
        await office.policies.refresh()
        await copies.agent.adopt(policy)
        await copies.sql("UPDATE people SET called = 'typed' WHERE no IN ('1', '2')")
        found = await reconcile(office, connection, SCOPE)
        assert found.differences == 2
        wishes = Wishes("typed over", overwrite_local=True)
        with pytest.raises(DeptbusError, match="asks for two people"):
            await repair(office, connection, found, wishes, WANG)

        name = await propose_repair(
            connection, guarded(), HOUSING, ["person"], TERMS, WANG, "typed over"
        )
        carrier = Carrier(connection, office, lambda: private_key)
        with pytest.raises(DeptbusError, match="another person has to confirm it"):
            await decide(connection, guarded(), name, "confirmed", "I say so", WANG)
        with pytest.raises(DeptbusError, match="asks for two people"):
            await repair(office, connection, found, wishes, WANG, proposal=name)
        await office.jobs.refresh()
        assert not await carrier.carry_next("repair")
        assert set(found_in(await prove(copies, office, deep=True)).values()) == {"edited_locally"}

        await decide(connection, guarded(), name, "confirmed", "I looked at it", LI)
        with pytest.raises(DeptbusError, match="by other terms"):
            await repair(
                office, connection, found, Wishes("w", 9, overwrite_local=True), WANG, proposal=name
            )
        await office.jobs.refresh()
        assert await carrier.carry_next("repair")
        carried = (await read_proposals(connection)).carried[name]
        assert (carried.state, carried.told) == ("done", "person: 0 differences left")
        assert found_in(await prove(copies, office, deep=True)) == {}
        outcome = (await read_proved(connection)).outcomes[Subject(HOUSING, "person", "copy")]
        assert verify(outcome.certificate, private_key.public_key()).is_equal
        assert not await carrier.carry_next("repair")


async def test_what_cannot_be_done_yet_is_done_later(new_bus, tmp_path, monkeypatch):
    monkeypatch.setattr(proposal_duty, "AGAIN_SECONDS", 0.1)
    async with copies_of(new_bus, tmp_path, None, 60, range(40, 60)) as (copies, office):
        connection = copies.bus.connection
        await copies.sql("UPDATE people SET called = 'typed' WHERE no IN ('1', '2')")
        blocking = await order_keys(copies.bus, HOUSING, [b"\0" * 16])
        await steer(connection, blocking, "paused", "their busy hour", LI)
        name = await propose_repair(
            connection, contract(), HOUSING, ["person"], TERMS, WANG, "typed over"
        )
        carrier = Carrier(connection, office, None)
        await office.jobs.refresh()
        assert await carrier.carry_next("repair")
        carried = (await read_proposals(connection)).carried[name]
        assert (carried.state, carried.told) == (
            "begun",
            f"job {blocking} of {HOUSING} is still open",
        )
        await steer(connection, blocking, "cancelled", "their busy hour", LI)
        await closed(copies.bus, blocking)

        async def is_done() -> bool:
            await carrier.carry_next("repair")
            return (await read_proposals(connection)).carried[name].state == "done"

        await until(is_done, "the repair is done")
        assert found_in(await prove(copies, office, deep=True)) == {}


async def test_what_was_begun_is_done_by_whoever_leads_next(new_bus, tmp_path, monkeypatch):
    """The first one dies when it has mended, before it has told so."""
    async with copies_of(new_bus, tmp_path, None, 60, range(40, 60)) as (copies, office):
        connection = copies.bus.connection
        await copies.sql("UPDATE people SET called = 'typed' WHERE no IN ('1', '2')")
        name = await propose_repair(
            connection, contract(), HOUSING, ["person"], TERMS, WANG, "typed over"
        )
        await office.jobs.refresh()

        async def die(*_) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(Carrier, "_keep", die)
            with pytest.raises(asyncio.CancelledError):
                await Carrier(connection, office, None).carry_next("repair")
        assert (await read_proposals(connection)).carried[name].state == "begun"
        assert await Carrier(connection, office, None).carry_next("repair")
        carried = (await read_proposals(connection)).carried[name]
        assert (carried.state, carried.told) == ("done", "person: 0 differences left")
        assert found_in(await prove(copies, office, deep=True)) == {}


async def test_a_repair_mends_no_more_than_was_proposed(new_bus, tmp_path):
    async with copies_of(new_bus, tmp_path, None, 60, range(40, 60)) as (copies, office):
        connection = copies.bus.connection
        await copies.sql("UPDATE people SET called = 'typed' WHERE no IN ('1', '2', '3')")
        name = await propose_repair(
            connection, contract(), HOUSING, ["person"], TERMS, WANG, "typed over"
        )
        await office.jobs.refresh()
        assert await Carrier(connection, office, None).carry_next("repair")  # one may, here
        carried = (await read_proposals(connection)).carried[name]
        assert carried.state == "refused"
        assert carried.told.startswith("3 differences of person by now, and 2 were proposed")
        assert len(found_in(await prove(copies, office, deep=True))) == 3


async def test_planted_bug_one_person_confirms_himself(new_bus, tmp_path, monkeypatch):
    for module in (proposals, proposal_desk):
        monkeypatch.setattr(module, "is_another", lambda first, second: True)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await test_a_repair_is_done_once_another_person_has_confirmed_it(new_bus, tmp_path)


async def test_planted_bug_a_repair_asks_for_no_second_person(new_bus, tmp_path, monkeypatch):
    async def nobody(*_, **__) -> None:
        return None

    monkeypatch.setattr(reconcile_repair, "check_second", nobody)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await test_a_repair_is_done_once_another_person_has_confirmed_it(new_bus, tmp_path)


async def test_a_plan_is_not_applied_by_function_either(new_bus, tmp_path):
    from pathlib import Path

    from deptbus.operations.replay_plan import read_plan
    from deptbus.operations.replay_planner import open_desk

    async with new_bus() as bus:
        policy = await bus.activate(guarded())
        await bus.write(*(person(bus.codecs, n) for n in range(9)))
        async with Agent(bus, "a", policy).alive(), open_desk(bus.connection) as desk:
            plan = read_plan(Path((await planned(bus, tmp_path, "--all"))["file"]))
            with pytest.raises(DeptbusError, match="asks for two people"):
                await replay_apply.apply_plan(desk, plan, WANG)
            assert (await read_orders(bus.connection)).orders == {}

"""Copies are proved at the hour of the contract, once, and what came of it is kept and signed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from copy_town import copies_of, key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from office_bus import HOUSING, SOURCE, contract

from deptbus import names
from deptbus.contract.model import Proofs
from deptbus.operations import nightly as module
from deptbus.operations.leg import LegResult
from deptbus.operations.nightly import AGAIN, Nightly
from deptbus.operations.office import utc_now
from deptbus.operations.proofs import Subject, read_proved
from deptbus.operations.reconcile_copy import CopyProved
from deptbus.proof.certificate import verify
from deptbus.routing import CHINA
from deptbus.stream.log import Outgoing

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

COPY = Subject(HOUSING, "person", "copy")
DAY = timedelta(days=1)


async def put_hour_in_force(copies, office):
    """A contract whose hour struck a minute ago; `deep`."""
    struck = (utc_now() - timedelta(minutes=1)).astimezone(CHINA)
    hourly = contract().model_copy(update={"proofs": Proofs(at=f"{struck:%H:%M}", deep=True)})
    policy = await copies.bus.activate(hourly)
    await office.policies.refresh()
    await copies.agent.adopt(policy)
    return policy


async def proved_by(nightly, copies):
    """All that is due is tried; the outcomes then."""
    while await nightly.prove_next():
        pass
    return (await read_proved(copies.bus.connection)).outcomes


async def test_a_copy_is_proved_once_a_night_and_what_came_of_it_is_kept(new_bus, tmp_path):
    private_key = Ed25519PrivateKey.generate()
    async with copies_of(new_bus, tmp_path, None) as (copies, office):
        nightly = Nightly(copies.bus.connection, office, lambda: private_key)
        assert not await nightly.prove_next()  # the contract has no hour
        policy = await put_hour_in_force(copies, office)
        first = (await proved_by(nightly, copies))[COPY]
        assert (first.verdict, first.rows, first.deep) == ("equal", 300, True)
        certificate = verify(first.certificate, private_key.public_key())
        assert certificate.is_equal
        assert (certificate.unit, certificate.policy) == (HOUSING, policy.number)
        assert not await nightly.prove_next()

        await copies.sql("UPDATE people SET called = 'typed' WHERE no = ?", "1")
        await copies.sql("DELETE FROM ledger WHERE key = ?", key(4))
        await copies.sql("DELETE FROM people WHERE no = ?", "4")
        assert (await proved_by(nightly, copies))[COPY] == first
        office.tools = replace(office.tools, now=lambda: utc_now() + DAY)
        second = (await proved_by(nightly, copies))[COPY]
        assert dict(zip(second.classes, second.counts, strict=True)) == {
            "edited_locally": 1,
            "missing": 1,
        }
        assert not verify(second.certificate, private_key.public_key()).is_equal


async def test_what_could_not_be_told_leaves_the_last_proof_and_is_tried_again(
    new_bus, tmp_path, monkeypatch
):
    async with copies_of(new_bus, tmp_path, None) as (copies, office):
        await put_hour_in_force(copies, office)
        nightly = Nightly(copies.bus.connection, office, None)
        first = (await proved_by(nightly, copies))[COPY]
        assert first.certificate == b""  # without a key
        await copies.sql("UPDATE ledger SET version = 99 WHERE key = ?", key(4))
        later = utc_now() + DAY
        office.tools = replace(office.tools, now=lambda: later)

        tried = []

        async def cannot(*_, **__):
            tried.append(1)
            result = LegResult("copy", HOUSING, "", "person", could_not_tell="planted")
            return [CopyProved(result)]

        with monkeypatch.context() as planted:
            planted.setattr(module, "prove_copy", cannot)
            assert (await proved_by(nightly, copies))[COPY] == first
            assert await nightly.prove_next() is False  # not again and again
        assert tried == [1]
        assert await nightly.prove_next() is False
        office.tools = replace(office.tools, now=lambda: later + AGAIN)
        assert (await proved_by(nightly, copies))[COPY].verdict == "different"


async def test_sources_that_have_joined_are_proved_too(new_bus, tmp_path, monkeypatch):
    """What the leg itself finds has tests of its own; here it is what becomes of it."""
    source = Subject(SOURCE, "person", "source")
    asked = []

    async def found(office, connection, unit, dataset):
        asked.append((unit, dataset))
        return LegResult("source", unit, "main", dataset, rows=7, by_class={"missing": 2})

    monkeypatch.setattr(module, "prove_source", found)
    async with copies_of(new_bus, tmp_path, None) as (copies, office):
        await put_hour_in_force(copies, office)
        nightly = Nightly(copies.bus.connection, office, None)
        assert source not in await proved_by(nightly, copies)
        assert asked == []  # nobody ever published there
        announced = Outgoing(names.out_topic(SOURCE), 0, None, b"any record")
        await copies.bus.sender.send([announced])
        kept = (await proved_by(nightly, copies))[source]
        assert asked == [(SOURCE, "person")]
        assert (kept.verdict, kept.rows, kept.classes, kept.counts) == (
            "different", 7, ("missing",), (2,),
        )  # fmt: skip


async def test_the_leading_process_does_further_duties_until_it_ends(new_bus):
    began, ended = asyncio.Event(), asyncio.Event()

    async def duty(office):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with new_bus() as bus:
        await bus.activate(contract())
        async with bus.office(keeper_interval_hours=None, further=(duty,)):
            await asyncio.wait_for(began.wait(), 30)
            assert not ended.is_set()
        await asyncio.wait_for(ended.wait(), 30)

"""`deptbus quarantine` on a real bus: listed, shown masked, asked for again, dismissed; by name."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from office_bus import SOURCE, Bus, contract, key_of_person, person
from test_operations_cli import run

from deptbus import names
from deptbus.cli.quarantine_view import document
from deptbus.operations.audit import QUARANTINE_DISMISS, QUARANTINE_RESEND, read_acts
from deptbus.operations.quarantine import UNRESOLVED, State, place_text
from deptbus.operations.quarantine_desk import read_quarantine
from deptbus.operations.search import deadline_in
from deptbus.stream import quarantine
from deptbus.stream.log import LogRecord, Outgoing, read_to_end
from deptbus.stream.policies import read_policies
from deptbus.wire.control import ResendRequest, decode_control
from deptbus.wire.partitioner import partition_of

pytestmark = pytest.mark.service

OUT = names.out_topic(SOURCE)
WHY = ("--reason", "contract mended", "--operator", "wang")


async def refuse(bus: Bus, number: int, *, garbage: bool = False) -> str:
    """A record in the source's outbox with its note, as intake writes it; returns its place."""
    change = person(bus.codecs, number)
    value = b"\x00 no record" if garbage else bus.codecs.encode_change(change)
    partition = partition_of(change.key, 4)
    (offset,) = await bus.sender.send([Outgoing(OUT, partition, change.key, value)])
    reason = "malformed" if garbage else quarantine.OUTSIDE_TERRITORY
    record = LogRecord(OUT, partition, offset, 0, change.key, value)
    note = quarantine.note(
        contract(), OUT, partition, record, reason, time.time_ns() // 1000,
        None if garbage else change,
    )  # fmt: skip
    await bus.sender.send([note])
    return f"{OUT}/{partition}/{offset}"


async def listed(bus: Bus, states: tuple[State, ...] = UNRESOLVED) -> dict[str, dict]:
    """Place -> the note, as `ls` tells them."""
    history = await read_policies(bus.connection)
    found = await read_quarantine(bus.connection, history, deadline=deadline_in(30))
    assert found.is_whole
    return {place_text(c.place): document(c) for c in found.cases if c.state in states}


async def test_a_case_is_listed_asked_for_and_closed_by_the_newer_version(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        place = await refuse(bus, 3)
        unreadable = await refuse(bus, 4, garbage=True)
        notes = await listed(bus)
        assert notes[place]["state"] == notes[unreadable]["state"] == "open"
        assert (notes[place]["superseded"], notes[unreadable]["superseded"]) == (False, None)
        code, out, err = await run(bus, "quarantine", "ls", "-o", "json")
        assert (code, err) == (1, "")  # something is not resolved
        assert json.loads(out) == {
            "notes": list(notes.values()),
            "parked": [],
            "parked_rows": [],
            "is_whole": True,
        }
        assert notes[place]["key"] == key_of_person(3).hex()
        assert (notes[place]["owner"], notes[place]["unit"]) == ("office", SOURCE)

        code, out, err = await run(bus, "quarantine", "resend", "--all", "--yes", *WHY)
        assert (code, err) == (0, "")
        assert "asked for 2 records" in out
        requests = [
            decode_control(r.value)
            for r in await read_to_end(bus.connection, names.in_topic(SOURCE))
        ]
        assert {(r.dataset, r.key, r.reason) for r in requests if isinstance(r, ResendRequest)} == {
            ("person", key_of_person(3), "contract mended"),
            ("person", key_of_person(4), "contract mended"),
        }
        notes = await listed(bus)
        assert {n["state"] for n in notes.values()} == {"resend_asked"}
        assert {n["resolved"]["by"] for n in notes.values()} == {"wang"}

        # The answers: the same version of somebody else's clock would not do for the first.
        await bus.write(person(bus.codecs, 3), person(bus.codecs, 4))
        notes = await listed(bus)
        assert set(notes) == {place}
        await bus.write(person(bus.codecs, 3, 2))
        assert await listed(bus) == {}
        every = await listed(bus, tuple(State))
        assert {n["state"] for n in every.values()} == {"superseded"}
        acts = await read_acts(bus.connection)
        assert [(a.verb, a.operator, a.reason) for a in acts] == [
            (QUARANTINE_RESEND, "wang", "contract mended")
        ]
        assert set(acts[0].subjects) == {place, unreadable}


async def test_what_is_shown_is_masked_and_what_is_dismissed_says_by_whom(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        place = await refuse(bus, 3)
        code, out, err = await run(bus, "quarantine", "show", place, "-o", "json")
        assert (code, err) == (0, "")
        fields = json.loads(out)["record"]["change"]["fields"]
        assert (fields["name"], fields["salary"]) == ("n3v1", "(masked: conditional)")
        assert "s3v1" not in out
        code, out, err = await run(bus, "quarantine", "show", place)
        assert (code, err) == (0, "")
        assert "n3v1" in out
        assert "s3v1" not in out
        code, _, err = await run(bus, "quarantine", "dismiss", place, "--yes", "--operator", "wang")
        assert (code, err.count("\n")) == (2, 1)  # without a reason nothing is dismissed
        assert set(await listed(bus)) == {place}
        code, _, err = await run(bus, "quarantine", "dismiss", place, "--yes", *WHY)
        assert (code, err) == (0, "")
        assert await listed(bus) == {}
        (note,) = (await listed(bus, tuple(State))).values()
        assert note["state"] == "dismissed"
        assert note["resolved"]["reason"] == "contract mended"
        (act,) = await read_acts(bus.connection)
        assert (act.verb, act.operator, act.subjects) == (QUARANTINE_DISMISS, "wang", (place,))
        assert act.act == note["resolved"]["act"]


async def test_thousands_are_resolved_at_once(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        changes = [person(bus.codecs, n) for n in range(3000)]
        notes = [
            quarantine.note(
                contract(), OUT, 0, LogRecord(OUT, 0, n, 0, c.key, b""), "unknown_dataset", 1, c
            )
            for n, c in enumerate(changes)
        ]
        await bus.sender.send(notes)
        await bus.write(*(replace(c, version=2) for c in changes[:1000]))
        began = time.monotonic()
        words = ("--refused-for", "unknown_dataset", "--yes", *WHY)
        code, out, err = await run(bus, "quarantine", "resend", *words)
        assert (code, err) == (0, "")
        assert "asked for 2000 records" in out  # the others are superseded
        assert time.monotonic() - began < 60
        requests = await read_to_end(bus.connection, names.in_topic(SOURCE))
        assert len(requests) == 2000
        acts = await read_acts(bus.connection)
        assert sum(len(act.subjects) for act in acts) == 2000

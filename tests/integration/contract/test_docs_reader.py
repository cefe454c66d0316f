"""The ten lines of docs/contract.md read every kind of record with the stored schema alone."""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from deptbus.change import Cause, Change, ChangeOp, Incarnation, Reason
from deptbus.cluster import topics
from deptbus.connection import Connection
from deptbus.contract.load import load
from deptbus.contract.model import Policy
from deptbus.routing import Router
from deptbus.stream.log import Outgoing, Sender
from deptbus.stream.schemas import write_schemas
from deptbus.wire import control
from deptbus.wire.codecs import Codecs

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[3]
POLICE = "civil_affairs@330106"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = bytes(range(16))
INCARNATION = Incarnation(3, b"\x01" * 8)
VALUES = {
    "resident_id": "330106193805120012",
    "name": "沈测试甲",
    "sex": "female",
    "born": date(1938, 5, 12),
    "place": "330106109001",
    "lives_alone": True,
    "monthly_yuan": Decimal("300.00"),
    "phone": None,
}
CONTROLS: list[control.Control] = [
    control.Announcement(POLICE, "main", INCARNATION, 0, 1),
    control.Marker("m", "cut", POLICE, "main", INCARNATION, 1),
    control.Incarnated(POLICE, "main", INCARNATION, (4, 5), "ab" * 16),
    control.Heartbeat(POLICE, "main", INCARNATION, 7, 8, 1, (4, 5), "ab" * 16, False, 0, 1),
    control.AppliedBeat(POLICE, "main", INCARNATION, None, 1),
    control.PolicyMarker(2, ("elder_allowance",), "job"),
    control.ResendRequest("r", "elder_allowance", KEY, "asked"),
    control.PolicyRecord(1, "d" * 64, 1, "test", "{}"),
    control.QuarantineNote("out.x", 0, 1, 1, "malformed", "me", POLICE, "d", None, None, 1),
    control.AgentReport("agent", 1, "d", "running", 1),
    control.JobProgress("job", POLICE, 1, (), "done", ("p",), 1, 0, 1, 2),
    control.TopicNoted("in.x", "id", 1),
]


def records(codecs: Codecs) -> list[tuple[bytes | None, bytes]]:
    """One of each kind: changes and deliveries of each op, and all control records."""
    contract = load(ROOT / "examples" / "two-units")
    record = codecs.record_codec("elder_allowance", 1).encode(VALUES)
    upsert = Change(
        dataset="elder_allowance",
        key=KEY,
        op=ChangeOp.UPSERT,
        reason=None,
        source_unit=POLICE,
        incarnation=INCARNATION,
        version=8,
        source_time_us=1,
        publication=7,
        division="330106109001",
        former_divisions=("330106005",),
        cause=Cause.LIVE,
        job=None,
        policy=1,
        schema_version=1,
        record=record,
    )
    gone = replace(upsert, op=ChangeOp.DELETE, reason=Reason.REMOVED, record=None)
    left = replace(gone, reason=Reason.MOVED_OUT)
    router = Router(Policy(number=1, activated_at=NOW, activated_by="test", contract=contract))
    made: list[tuple[bytes | None, bytes]] = []
    for change in (upsert, gone, left):
        deliveries = router.route(change, NOW)
        assert deliveries
        made.append((KEY, codecs.encode_change(change)))
        made += [(KEY, value) for value in codecs.encode_deliveries(change, deliveries, 1)]
    return made + [(None, control.encode_control(one)) for one in CONTROLS]


async def test_the_script_of_the_docs_reads_every_kind_of_record(
    broker: Connection, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", text, re.S)
    assert found
    script = tmp_path / "read.py"
    script.write_text(found[1], encoding="utf-8")

    topic = f"data.docs_{uuid.uuid4().hex}"
    codecs = Codecs(load(ROOT / "examples" / "two-units"))
    made = records(codecs)
    wanted = (*topics.wanted_before_any_contract(), topics.Topic(topic, 2, {}))
    await asyncio.to_thread(lambda: topics.apply(broker, topics.plan(broker, wanted)))
    async with Sender(broker) as sender:
        await write_schemas(sender, codecs.schemas() | codecs.take_new_schemas())
        await sender.send([Outgoing(topic, i % 2, key, v) for i, (key, v) in enumerate(made)])

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(script),
        broker.bootstrap,
        topic,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    lines = out.decode().splitlines()
    assert len(lines) == len(made)
    full = [line for line in lines if "Decimal('300.00')" in line]
    assert len(full) == 1  # the change; the delivery lacks the amount
    assert "datetime.date(1938, 5, 12)" in full[0]
    assert sum("沈测试甲" in line for line in lines) == 2
    assert sum("'op': 'withdraw'" in line for line in lines) == 1
    assert sum("moved_out" in line for line in lines) == 1

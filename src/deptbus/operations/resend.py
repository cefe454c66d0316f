"""Asks a source for the present state of a key or a dataset: the remedy for anything lost."""

from __future__ import annotations

import uuid

from deptbus.connection import Connection
from deptbus.contract.model import Policy
from deptbus.errors import DeptbusError
from deptbus.names import in_topic
from deptbus.operations.audit import RESEND, Operator, acts_of, record
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import ResendRequest, encode_control
from deptbus.wire.partitioner import partition_of


async def request_resend(
    connection: Connection,
    policy: Policy,
    unit: str,
    dataset: str,
    key: bytes | None,
    *,
    by: Operator,
    reason: str,
) -> str:
    """Puts a request into the inbox of the source unit; returns the request's name.

    `key`: 16 bytes; None asks for every record of the dataset. One request for a key lies in the
    key's own partition, one for a dataset in the first: the adapter reads them all, and begins its
    snapshot once. Raises DeptbusError when the unit does not publish the dataset.
    """
    if not policy.contract.may_publish(unit, dataset):
        published = ", ".join(policy.contract.published_by(unit)) or "nothing"
        raise DeptbusError(
            f"{unit} does not publish {dataset}", mend=f"By policy {policy.number}: {published}"
        )
    request = ResendRequest(uuid.uuid4().hex, dataset, key, reason)
    value = encode_control(request)
    topic = in_topic(unit)
    async with Sender(connection) as sender:
        count = await sender.partitions(topic)
        number = 0 if key is None else partition_of(key, count)
        for act in acts_of(by, RESEND, reason, unit=unit, dataset=dataset, key=key):
            await record(sender, act)
        await sender.send([Outgoing(topic, number, None, value)])
    return request.request

"""Reads what a topic of control records says at this moment."""

from __future__ import annotations

from deptbus.connection import Connection
from deptbus.errors import WireRefused
from deptbus.stream.log import read_to_end
from deptbus.wire.control import Control, decode_control


async def read_controls(connection: Connection, topic: str) -> list[Control]:
    """In their order within each partition, without what is no control record: whoever follows the
    topic tells of that. Raises BusUnreachable, BusRefused."""
    found = []
    for record in await read_to_end(connection, topic):
        try:
            found.append(decode_control(record.value))
        except WireRefused:
            continue
    return found

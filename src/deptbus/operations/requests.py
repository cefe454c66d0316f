"""Watches the control topics of all units for sources that ask what the bus has of them.

A request holds until its adapter takes it back, a younger incarnation of the same system is known,
or it is old: by then nobody waits for it. It is answered once by each process that leads, so a
leader that dies in the midst is made up for by the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deptbus.change import Incarnation
from deptbus.connection import Connection
from deptbus.errors import BusRefused, DeptbusError, WireRefused
from deptbus.names import control_topic, unit_of_topic
from deptbus.operations.inventory import Answer, Shelves
from deptbus.stream.brokers import open_consumer, partitions_of, translate, wait_long
from deptbus.wire.control import (
    Control,
    Heartbeat,
    Incarnated,
    InventoryRequest,
    check_key,
    decode_control,
)

log = structlog.get_logger(__name__)

REQUEST_SECONDS = 3600.0
_POLL_SECONDS = 0.5
_BACKOFF_SECONDS = (0.5, 30.0)

System = tuple[str, str]  # unit, name of its system


class Asked:
    """Which requests are to be answered, by what the control topics say. Pure."""

    def __init__(self) -> None:
        self._youngest: dict[System, Incarnation] = {}
        self._requests: dict[System, tuple[InventoryRequest, float]] = {}

    def take(self, unit: str, record: Control, written_seconds: float) -> None:
        """A record of `control.<unit>`, and when it was written (seconds since the epoch)."""
        if not isinstance(record, Incarnated | Heartbeat | InventoryRequest):
            return
        if record.unit != unit:
            return  # it can speak for itself alone
        system = unit, record.system
        if isinstance(record, InventoryRequest):
            self._requests[system] = record, written_seconds
        youngest = self._youngest.get(system)
        if youngest is None or record.incarnation > youngest:
            self._youngest[system] = record.incarnation

    def standing(self, now_seconds: float) -> dict[System, InventoryRequest]:
        return {
            system: request
            for system, (request, written) in self._requests.items()
            if request.datasets
            and request.incarnation == self._youngest[system]
            and now_seconds - written < REQUEST_SECONDS
        }


class RequestsDesk:
    """`run` until cancelled: then every answer that is under way is given up."""

    def __init__(
        self, connection: Connection, shelves: Shelves, units: Callable[[], list[str]]
    ) -> None:
        self._connection = connection
        self._shelves = shelves
        self._units = units
        self._asked = Asked()
        self._answers: dict[System, tuple[InventoryRequest, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        pause, told = _BACKOFF_SECONDS[0], ""
        try:
            while True:
                try:
                    await self._watch()
                except DeptbusError as error:
                    if error.what != told:
                        told = error.what
                        log.warning("requests_unreadable", error=told)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BACKOFF_SECONDS[1])
        finally:
            tasks = [task for _, task in self._answers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        """Reads on until the bus fails. Begins at the beginning: the topics are compacted."""
        consumer = await open_consumer(self._connection)
        try:
            watched: list[str] | None = None
            while True:
                if self._units() != watched:
                    watched = self._units()
                    unread = await self._assign(consumer, watched)
                found = await consumer.getmany(
                    timeout_ms=int(_POLL_SECONDS * 1000), max_records=5000
                )
                wait_long(consumer, not found)
                for place, records in found.items():
                    unit = unit_of_topic(place.topic)
                    for record in records:
                        self._take(unit, record.key, record.value, record.timestamp / 1000)
                # Not before the end: what was asked long ago may have been taken back since.
                unread = {p: e for p, e in unread.items() if await consumer.position(p) < e}
                if not unread:
                    self._settle()
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error) from error
        finally:
            await consumer.stop()

    async def _assign(
        self, consumer: AIOKafkaConsumer, units: Iterable[str]
    ) -> dict[TopicPartition, int]:
        """Where the control topics end now, by place."""
        places: list[TopicPartition] = []
        for unit in units:
            try:
                places += await partitions_of(consumer, control_topic(unit))
            except BusRefused as error:
                log.warning("requests_unreadable", unit=unit, error=error.what)
        if not places:
            raise BusRefused("no unit of the contract has a control topic")
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
        return ends

    def _take(self, unit: str, key: bytes | None, value: bytes | None, written: float) -> None:
        try:
            record = decode_control(value)
            check_key(key, record)
        except WireRefused as error:
            log.error("control_record_refused", topic=control_topic(unit), reason=error.reason)
            return
        self._asked.take(unit, record, written)

    def _settle(self) -> None:
        """Bring the answers under way in line with what is asked; nothing is answered twice."""
        standing = self._asked.standing(time.time())
        for system, (request, task) in list(self._answers.items()):
            if standing.get(system) != request:
                task.cancel()
                del self._answers[system]
            elif task.done() and not task.cancelled():
                task.result()  # anything that is raised here is our own bug, and ends the process
        for system, request in standing.items():
            if system not in self._answers:
                task = asyncio.create_task(self._answer(request), name=f"answer {system}")
                self._answers[system] = request, task

    async def _answer(self, request: InventoryRequest) -> None:
        pause = _BACKOFF_SECONDS[0]
        while True:
            try:
                await Answer(request, self._shelves).run()
                return
            except DeptbusError as error:
                log.warning("answer_interrupted", unit=request.unit, error=error.what)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _BACKOFF_SECONDS[1])

"""Inboxes that were deleted and made again: what lay there unread is delivered anew by a job.

The id of every inbox is noted on the bus (beside the progress of jobs, so that it outlives the
inbox and us). One with another id gets a job over all that its unit may have; when that is done,
the new id is noted. Its recipient has its own word to say: it stops until `rejoin`. Requests for a
resend lay there too, and nobody else knows of which keys: the unit is asked for all that it
publishes. The same look serves the canonical topics (`canonicals.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import BusRefused, BusUnreachable, ContractUnreadable
from deptbus.operations.board import JobsBoard
from deptbus.operations.canonicals import Canonicals, note_topic, request_all
from deptbus.operations.due import HELD, Digests, DueJob
from deptbus.stream.brokers import consumer_of
from deptbus.stream.identity import topic_ids
from deptbus.stream.log import Sender
from deptbus.stream.policies import PolicyFollower

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
_SHORT = 8


def job_anew(
    unit: str, topic_id: str, digests: Mapping[int, Digests], due: DueJob | None
) -> DueJob | None:
    """Pure: all datasets that the unit ever had a right to, under the newest policy; with the job
    that is due anyway in it. None when it never had any. `digests`: policy number -> digests."""
    had = {d for of_units in digests.values() for d in of_units.get(unit, {})}
    # What is held back now is due by itself, when the hold is lifted.
    newest = digests[max(digests)].get(unit, {}) if digests else {}
    had -= {d for d, digest in newest.items() if digest == HELD}
    if not had:
        return None
    first_loads = due.first_loads if due is not None else frozenset()
    return DueJob(unit, max(digests), tuple(sorted(had)), first_loads, topic_id[:_SHORT])


class Inboxes:
    """`keep` beside the jobs; `made_again`: unit -> id of the inbox that is to be filled anew."""

    def __init__(
        self, connection: Connection, sender: Sender, jobs: JobsBoard, policies: PolicyFollower
    ) -> None:
        self._connection, self._sender = connection, sender
        self._jobs, self._policies = jobs, policies
        self._canonicals = Canonicals(sender, jobs)
        self.made_again: dict[str, str] = {}
        # (unit, id of its inbox)
        self._asked: set[tuple[str, str]] = set()
        self._never_filled: set[tuple[str, str]] = set()  # units that never had any right

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with consumer_of(self._connection) as consumer:
                    while True:
                        contract = self._policies.current().contract
                        topics = [names.in_topic(unit) for unit in contract.unit_by_name]
                        topics += map(names.data_topic, contract.datasets)
                        ids = await topic_ids(consumer._client, topics)
                        await self._jobs.refresh()
                        await self.look(contract, ids)
                        await self._canonicals.look(contract, ids)
                        await asyncio.sleep(LOOK_SECONDS)
            except (BusUnreachable, BusRefused, ContractUnreadable) as error:
                log.debug("inboxes_not_looked_at", error=error.what)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, contract: Contract, ids: Mapping[str, str]) -> None:
        """`ids`: of the inboxes that are there now. Raises BusUnreachable, BusRefused."""
        for unit in contract.unit_by_name:
            topic = names.in_topic(unit)
            now, noted = ids.get(topic), self._jobs.topic_ids.get(topic)
            if now is None or now == noted:
                continue
            if noted is not None:
                await self._ask_again(contract, unit, now)
            if noted is None or self._is_filled(unit, now):
                await note_topic(self._sender, topic, now)
                self.made_again.pop(unit, None)
            elif self.made_again.get(unit) != now:
                log.error(
                    "inbox_made_again",
                    topic=topic,
                    mend=f"It is filled anew; run `deptbus department rejoin` at {unit}, and start "
                    "its adapter again",
                )
                self.made_again[unit] = now

    async def _ask_again(self, contract: Contract, unit: str, topic_id: str) -> None:
        """Before its new id is noted: killed in between, the next of us asks once more."""
        if (unit, topic_id) in self._asked:
            return
        topic = names.in_topic(unit)
        for dataset in contract.datasets:
            if contract.may_publish(unit, dataset):
                name, reason = f"{topic}/{topic_id}", f"{topic} was deleted and made again"
                await request_all(self._sender, unit, dataset, name, reason)
        self._asked.add((unit, topic_id))

    def _is_filled(self, unit: str, topic_id: str) -> bool:
        return (unit, topic_id) in self._never_filled or any(
            job.unit == unit and job.state == "done" and job.job.endswith(f"/{topic_id[:_SHORT]}")
            for job in self._jobs.jobs.values()
        )

    def due(self, due: Mapping[str, DueJob], digests: Mapping[int, Digests]) -> dict[str, DueJob]:
        """The jobs that are due, with those of inboxes that were made again."""
        found = dict(due)
        for unit, topic_id in self.made_again.items():
            anew = job_anew(unit, topic_id, digests, due.get(unit))
            if anew is not None:
                found[unit] = anew
            elif digests and HELD not in digests[max(digests)].get(unit, {}).values():
                self._never_filled.add((unit, topic_id))
        return found

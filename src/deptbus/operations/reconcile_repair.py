"""Mends what a proof of copies found, and nothing else.

1. What may be mended, by class: `missing`, `stale`, `wrong` and `unentitled` by the record's last
   state or a withdrawal, as today's rights have it; `extra` only when a number of deletions was
   allowed that is not exceeded; `edited_locally` only when local edits may go. A row of any class
   that was also edited locally is left alone otherwise. `parked` and `claimed` are the recipient's
   own matter.
2. First the orders, into the partitions of the keys: what was seen of each row, and what may be
   done to it. Then a job of just those keys, behind them in every partition. An adapter leaves out
   a row that is not any more as it was seen.
3. Differences of the source leg are published anew by their source, as its table has them then. An
   `extra` one is deleted on the bus and so in every copy: it counts as an extra row in rule 1.
   `parked` is the source's own matter.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import DeptbusError
from deptbus.operations import audit
from deptbus.operations.leg import LegResult
from deptbus.operations.office import Office
from deptbus.operations.proposal_desk import RepairTerms, check_second
from deptbus.operations.reconcile import Reconciled
from deptbus.operations.reconcile_classes import Class
from deptbus.operations.reconcile_copy import CopyProved, Seen
from deptbus.operations.replay_desk import KEYS_A_PART, check_alone, ids_of, place, read_orders
from deptbus.operations.source_repair import order_resend, until_published
from deptbus.proof.certificate import HELD
from deptbus.stream.log import Outgoing, end_offsets
from deptbus.wire.control import JobOrder, RepairOrder, encode_control
from deptbus.wire.partitioner import partition_of

DELIVER, FORGET, REMOVE = "deliver", "forget", "remove"
JOB_SECONDS = 1800.0
RESEND_SECONDS = 60.0
_LOOK_SECONDS = 0.2
_KEYS_A_RECORD = 5_000


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person allows. `max_delete`: so many extra rows may go; 0: none."""

    reason: str
    max_delete: int = 0
    overwrite_local: bool = False


@dataclass(slots=True)
class Mended:
    """What was ordered. Whether it was done the next proof says."""

    jobs: list[str] = field(default_factory=list)
    ordered: Counter[str] = field(default_factory=Counter)  # by class
    left: Counter[str] = field(default_factory=Counter)  # by reason
    # (source, dataset) -> keys that it is to publish again
    resent: dict[tuple[str, str], int] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "jobs": self.jobs,
            "ordered": dict(sorted(self.ordered.items())),
            "resent": [
                {"unit": unit, "dataset": dataset, "keys": keys}
                for (unit, dataset), keys in sorted(self.resent.items())
            ],
            "left": dict(sorted(self.left.items())),
        }


def action_of(seen: Seen, wishes: Wishes) -> tuple[str | None, str]:
    """Rule 1: what is to be done, or None and why it is left alone."""
    word = seen.finding.word
    if word in (Class.PARKED, Class.CLAIMED):
        return None, f"{word}: the recipient's own matter"
    if word == Class.EXTRA and not wishes.max_delete:
        return None, "extra: not without --delete-extra"
    is_edited = seen.is_edited or word == Class.EDITED_LOCALLY
    if is_edited and not wishes.overwrite_local:
        return None, "edited locally: not without --overwrite-local"
    if not seen.finding.on_bus:
        return REMOVE, ""
    return (DELIVER if seen.is_known else FORGET), ""


async def repair(
    office: Office,
    connection: Connection,
    found: Reconciled,
    wishes: Wishes,
    by: audit.Operator,
    *,
    proposal: str = "",
    deadline_seconds: float = JOB_SECONDS,
) -> Mended:
    """Returns when the jobs are closed. Raises DeptbusError before anything is done when more extra
    rows would go than may, or where two people are asked for and no `proposal` of such terms was
    confirmed; and when a job was refused or is not done in time."""
    await _check_second(office, connection, found, wishes, proposal)
    extra = sum(result.by_class.get(Class.EXTRA, 0) for result in found.results)
    if wishes.max_delete and extra > wishes.max_delete:
        raise DeptbusError(
            f"{extra} extra rows would be removed, and {wishes.max_delete} may be",
            mend="Look at them first; then give a greater --max-delete",
        )
    mended = Mended()
    for result in found.results:
        if result.leg == "source" and result.findings:
            await _resend(office, connection, result, wishes, by, mended)
    for copy in found.copies:
        if copy.seen:
            await _Repair(office, connection, copy, wishes, by, mended).run(deadline_seconds)
    return mended


async def _check_second(
    office: Office, connection: Connection, found: Reconciled, wishes: Wishes, proposal: str
) -> None:
    agreed = await check_second(
        connection,
        office.policies.current().contract,
        "repair",
        {result.dataset for result in found.results if result.findings},
        proposal=proposal,
    )
    if agreed is None:
        return
    terms = RepairTerms.model_validate_json(agreed.content)
    agreed_to = terms.max_delete, terms.overwrite_local
    is_same = agreed_to == (wishes.max_delete, wishes.overwrite_local) and all(
        copy.result.unit == agreed.unit for copy in found.copies
    )
    if not is_same or found.differences > terms.most:
        raise DeptbusError(
            f"{found.differences} differences are to be mended, and {terms.most} were proposed, or "
            "by other terms",
            mend="Propose it anew",
        )


async def _resend(
    office: Office,
    connection: Connection,
    result: LegResult,
    wishes: Wishes,
    by: audit.Operator,
    mended: Mended,
) -> None:
    """Rule 3. Returns when the source has published them, or has had RESEND_SECONDS to do so."""
    left = {HELD, Class.PARKED, *([] if wishes.max_delete else [Class.EXTRA])}
    keys = [finding.key for finding in result.findings if finding.word not in left]
    if Class.EXTRA in left and result.by_class.get(Class.EXTRA):
        mended.left["extra: not without --delete-extra"] += result.by_class[Class.EXTRA]
    parked = result.by_class.get(Class.PARKED, 0)
    if parked:
        mended.left["parked: the source's own matter"] += parked
    if result.held:
        mended.left["held: until somebody at the source releases them"] += result.held
    if keys:
        name = f"resend-{uuid.uuid4().hex[:12]}"
        topic = names.data_topic(result.dataset)
        ends = dict(enumerate(await end_offsets(connection, topic)))
        await order_resend(
            office.shelves,
            result.unit,
            result.dataset,
            keys,
            by=by,
            reason=wishes.reason,
            name=name,
        )
        mended.jobs.append(name)
        mended.resent[(result.unit, result.dataset)] = len(keys)
        await until_published(
            office.shelves, result.dataset, keys, name=name, behind=ends, seconds=RESEND_SECONDS
        )


class _Repair:
    """Of one copy."""

    def __init__(
        self,
        office: Office,
        connection: Connection,
        copy: CopyProved,
        wishes: Wishes,
        by: audit.Operator,
        mended: Mended,
    ) -> None:
        self._office, self._connection, self._copy = office, connection, copy
        self._wishes, self._by, self._mended = wishes, by, mended
        self._job = f"repair-{uuid.uuid4().hex[:12]}"
        self._unit, self._dataset = copy.result.unit, copy.result.dataset

    async def run(self, deadline_seconds: float) -> None:
        chosen: list[tuple[Seen, str]] = []
        ordered: Counter[str] = Counter()
        for seen in self._copy.seen:
            action, why = action_of(seen, self._wishes)
            if action is None:
                self._mended.left[why] += 1
            else:
                chosen.append((seen, action))
                ordered[seen.finding.word] += 1
        if not chosen:
            return
        check_alone(await read_orders(self._connection), self._unit)
        self._mended.ordered += ordered
        keys = [seen.finding.key for seen, action in chosen if action == DELIVER]
        order = await self._order(len(keys))
        for act in audit.acts_of(
            self._by,
            audit.RECONCILE_REPAIR,
            self._wishes.reason,
            unit=self._unit,
            dataset=self._dataset,
            subjects=(
                f"job {self._job}",
                *(f"{n} {word}" for word, n in sorted(ordered.items())),
            ),
        ):
            await audit.record(self._office.tools.sender, act)
        await self._send_orders(chosen)
        self._mended.jobs.append(self._job)
        if keys:
            await place(self._connection, order, {self._dataset: keys}, verb=audit.REPAIR_ORDER)
            await self._closed(deadline_seconds)

    async def _order(self, keys: int) -> JobOrder:
        return JobOrder(
            job=self._job,
            unit=self._unit,
            cause="repair",
            datasets=(self._dataset,),
            topic_ids=await ids_of(self._connection, (self._dataset,)),
            places=(),
            starts=(),
            ends=(),
            key_parts=-(-keys // KEYS_A_PART),
            keys=keys,
            plan="",
            policy=self._office.policies.current().number,
            operator=self._by.name,
            bus_user=self._by.bus_user,
            reason=self._wishes.reason,
            ordered_at_us=time.time_ns() // 1000,
        )

    async def _send_orders(self, chosen: list[tuple[Seen, str]]) -> None:
        """Rule 2."""
        topic = names.in_topic(self._unit)
        count = await self._office.tools.sender.partitions(topic)
        by_partition: dict[int, list[tuple[Seen, str]]] = {}
        for seen, action in chosen:
            number = partition_of(seen.finding.key, count) if seen.finding.on_bus else 0
            by_partition.setdefault(number, []).append((seen, action))
        records = []
        for number, of_partition in by_partition.items():
            for at in range(0, len(of_partition), _KEYS_A_RECORD):
                some = of_partition[at : at + _KEYS_A_RECORD]
                order = RepairOrder(
                    self._job,
                    self._dataset,
                    tuple(seen.finding.key for seen, _ in some),
                    tuple(seen.seen for seen, _ in some),
                    tuple(action for _, action in some),
                    self._wishes.overwrite_local,
                    time.time_ns() // 1000,
                )
                records.append(Outgoing(topic, number, None, encode_control(order)))
        await self._office.tools.sender.send(records)

    async def _closed(self, deadline_seconds: float) -> None:
        until = time.monotonic() + deadline_seconds
        while True:
            orders = await read_orders(self._connection)
            if not orders.is_open(self._job):
                break
            if time.monotonic() > until:
                raise DeptbusError(
                    f"job {self._job} is not done in time; it goes on by itself",
                    mend="Is an operations process running? Ask again later",
                )
            await asyncio.sleep(_LOOK_SECONDS)
        progress = orders.progress[self._job]
        if progress.state != "done":
            raise DeptbusError(
                f"job {self._job} was {progress.state}: {progress.problem or 'by an operator'}"
            )

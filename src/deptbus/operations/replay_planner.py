"""Makes a plan: resolves what was chosen to offsets, reads it, and asks today's rights of each key.

Nothing is changed but for the act in `bus.audit` by which the plan is known to have been made here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deptbus import names
from deptbus.change import Cause, Change, DeliveryOp
from deptbus.connection import Connection
from deptbus.contract.model import Policy, Sharing
from deptbus.errors import DeptbusError
from deptbus.operations import audit
from deptbus.operations.carrier import Owed
from deptbus.operations.controls import read_controls
from deptbus.operations.due import HELD
from deptbus.operations.library import Library
from deptbus.operations.logs import CanonicalLogs, Chosen, Span
from deptbus.operations.office import utc_now
from deptbus.operations.replay_choice import Choice, ranges_by_offsets, ranges_by_time
from deptbus.operations.replay_desk import refused
from deptbus.operations.replay_plan import VALID_FOR, Expected, Plan, PlannedRange
from deptbus.stream.brokers import open_consumer, partitions_of, translate
from deptbus.stream.identity import topic_identity
from deptbus.stream.log import LogRecord, Sender
from deptbus.stream.policies import PolicyFollower
from deptbus.wire.control import Act, JobProgress, OrderProgress
from deptbus.wire.partitioner import partition_of

ASSUMED_RATE = 1000.0  # deliveries a second, of a recipient that no job has met yet
_TELLING = 1000  # deliveries that a job must have sent for its rate to say something


@dataclass
class Desk:
    """What planning and checking need of the bus; see `open_desk`."""

    connection: Connection
    consumer: AIOKafkaConsumer
    policies: PolicyFollower
    library: Library
    logs: CanonicalLogs

    async def identity(self, dataset: str) -> tuple[str, str]:
        """Ids of the cluster and of the canonical topic. Raises BusRefused, BusUnreachable."""
        found = await topic_identity(self.consumer._client, names.data_topic(dataset))
        return found.cluster_id, found.topic_id

    async def offsets_for(self, dataset: str, at: datetime | None) -> list[int | None] | None:
        """By partition, the broker's own answer: the first offset whose record is not older."""
        if at is None:
            return None
        places: list[TopicPartition] = await partitions_of(self.consumer, names.data_topic(dataset))
        # Rounded up: a record within the same millisecond but before that instant is older.
        at_ms = -(-int(at.timestamp() * 1_000_000) // 1000)
        try:
            found = await self.consumer.offsets_for_times(dict.fromkeys(places, at_ms))
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error) from error
        return [None if found[place] is None else found[place].offset for place in places]

    def rights(self, unit: str) -> dict[str, str]:
        """Dataset -> digest of all that decides what the unit receives of it now."""
        policy = self.policies.current()
        return dict(self.library.digests(policy.number).get(unit, {}))

    def had(self, unit: str) -> list[str]:
        """Datasets that the unit has a right to, or ever had one."""
        numbers = self.library.numbers()
        return sorted({d for n in numbers for d in self.library.digests(n).get(unit, {})})


@asynccontextmanager
async def open_desk(connection: Connection) -> AsyncIterator[Desk]:
    """Raises BusUnreachable, BusRefused, ContractUnreadable when no contract is in force."""
    async with AsyncExitStack() as stack:
        consumer = await open_consumer(connection)
        stack.push_async_callback(consumer.stop)
        policies = PolicyFollower(connection)
        await policies.start()
        stack.push_async_callback(policies.stop)
        policies.current()
        library = Library(policies)
        logs = CanonicalLogs(connection, library.decode)
        await logs.start()
        stack.push_async_callback(logs.stop)
        yield Desk(connection, consumer, policies, library, logs)


async def make_plan(
    desk: Desk,
    unit: str,
    dataset: str,
    choice: Choice,
    by: audit.Operator,
    reason: str,
    *,
    keeps_keys: bool = False,
) -> tuple[Plan, dict[str, set[bytes]]]:
    """The plan, and with `keeps_keys` by dataset the keys that are in it (some hundred bytes each).
    `dataset`: empty means every one that the unit has a right to, or ever had. Raises DeptbusError
    when unit or dataset are unknown or held, BusUnreachable, BusRefused."""
    policy = desk.policies.current()
    datasets = _datasets(desk, policy, unit, dataset)
    made_at = utc_now()
    rights = desk.rights(unit)
    identities = [await desk.identity(d) for d in datasets]
    if choice.cluster not in ("", identities[0][0]):
        raise refused(f"the certificate is of another cluster ({choice.cluster})", "Choose by time")
    keeps_keys = keeps_keys or choice.keys is not None
    tallies = [_Tally(desk, policy, unit, d, made_at, keeps_keys) for d in datasets]
    ranges: list[PlannedRange] = []
    for tally in tallies:
        ranges += await _read(desk, tally, choice)
    sent = sum(tally.sent for tally in tallies)
    rate, rate_by = await _rate(desk.connection, unit)
    plan = Plan(
        cluster=identities[0][0],
        policy=policy.number,
        contract=policy.contract.digest,
        unit=unit,
        datasets=tuple(datasets),
        topic_ids=tuple(topic_id for _, topic_id in identities),
        rights={d: rights.get(d, "") for d in datasets},
        selection=choice.words,
        ranges=tuple(ranges),
        keys={t.dataset: tuple(sorted(k.hex() for k in t.found)) for t in tallies if choice.keys},
        expected=tuple(tally.expected(choice) for tally in tallies),
        seconds=round(sent / rate, 1),
        seconds_by=rate_by,
        requester=by.name,
        reason=reason,
        made_at=made_at,
        expires_at=made_at + VALID_FOR,
    )
    await _record(desk.connection, plan, by)
    return plan, {tally.dataset: tally.found for tally in tallies}


def _datasets(desk: Desk, policy: Policy, unit: str, dataset: str) -> list[str]:
    if unit not in policy.contract.unit_by_name:
        raise DeptbusError(f"the contract has no unit {unit}", mend="See `deptbus contract show`")
    had = desk.had(unit)
    if dataset and dataset not in had:
        raise refused(f"{unit} never had a right to {dataset}", "See `deptbus contract show`")
    datasets = [dataset] if dataset else [d for d in had if d in policy.contract.datasets]
    if not datasets:
        raise refused(f"{unit} never had a right to any dataset", "See `deptbus contract show`")
    for name in datasets:
        held = policy.hold_of(unit, name)
        if held is not None or desk.rights(unit).get(name) == HELD:
            by = f" by {held.held_by}: {held.reason}" if held else ""
            raise refused(f"deliveries of {name} to {unit} are held{by}", "`deptbus resume` first")
    return datasets


# -- reading what was chosen ----------------------------------------------------------------------


@dataclass
class _Tally:
    """Counts what would be sent of one dataset."""

    desk: Desk
    policy: Policy
    unit: str
    dataset: str
    now: datetime
    keeps_keys: bool
    ops: Counter[DeliveryOp | None] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    withheld: Counter[str] = field(default_factory=Counter)
    found: set[bytes] = field(default_factory=set)
    superseded: int = 0

    def __post_init__(self) -> None:
        self._owed = Owed(
            self.desk.library,
            lambda: self.now,
            self.unit,
            self.policy.number,
            "plan",
            lambda _: Cause.REPLAY,
        )
        known = self.policy.contract.datasets.get(self.dataset)
        sharing = known.sharing if known is not None else {}
        self._published = [f for f, s in sharing.items() if s is not Sharing.NOT_SHARED]

    @property
    def sent(self) -> int:
        return sum(count for op, count in self.ops.items() if op is not None)

    def count(self, change: Change, is_in_range: bool) -> None:
        delivery = self._owed.delivery(change)
        if self.keeps_keys:
            self.found.add(change.key)
        self.superseded += not is_in_range
        self.ops[delivery.op if delivery is not None else None] += 1
        if delivery is not None and delivery.op is DeliveryOp.UPSERT:
            self.fields.update(delivery.fields)
            self.withheld.update(f for f in self._published if f not in delivery.fields)

    def expected(self, choice: Choice) -> Expected:
        return Expected(
            dataset=self.dataset,
            upserts=self.ops[DeliveryOp.UPSERT],
            deletes=self.ops[DeliveryOp.DELETE],
            withdrawals=self.ops[DeliveryOp.WITHDRAW],
            without_right=self.ops[None],
            superseded=self.superseded,
            unknown=len(choice.keys - self.found) if choice.keys is not None else 0,
            fields_sent=dict(self.fields),
            fields_withheld=dict(self.withheld),
        )


async def _read(desk: Desk, tally: _Tally, choice: Choice) -> list[PlannedRange]:
    dataset = tally.dataset
    spans = await desk.logs.spans(dataset)
    if choice.keys is not None:
        for partition in sorted({partition_of(key, len(spans)) for key in choice.keys}):
            await _count_keys(desk, tally, partition, choice.keys)
        return []
    if choice.offsets is not None:
        ranges = ranges_by_offsets(dataset, spans, choice.offsets)
    else:
        begins = await desk.offsets_for(dataset, choice.begins)
        ends = await desk.offsets_for(dataset, choice.ends)
        ranges = ranges_by_time(dataset, spans, begins, ends)
    return [await _count_range(desk, tally, planned) for planned in ranges]


async def _count_keys(desk: Desk, tally: _Tally, partition: int, keys: frozenset[bytes]) -> None:
    chosen = await desk.logs.choose(tally.dataset, partition, lambda r: r.key in keys)
    await _count_states(desk, tally, partition, chosen, lambda _: True)


async def _count_range(desk: Desk, tally: _Tally, planned: PlannedRange) -> PlannedRange:
    if planned.start == planned.end:
        return planned

    def wants(record: LogRecord) -> bool:
        return planned.start <= record.offset < planned.end

    chosen = await desk.logs.choose(planned.dataset, planned.partition, wants)
    await _count_states(desk, tally, planned.partition, chosen, wants)
    return planned.model_copy(
        update={
            "records": chosen.records,
            "keys": chosen.winners.count,
            "gone": planned.end - planned.start - chosen.records,
        }
    )


async def _count_states(
    desk: Desk,
    tally: _Tally,
    partition: int,
    chosen: Chosen,
    is_in_range: Callable[[LogRecord], bool],
) -> None:
    """Counts the last state of each key that was chosen."""
    winners = chosen.winners
    span = Span(winners.first, winners.end)
    async with aclosing(desk.logs.read(tally.dataset, partition, span)) as batches:
        async for batch in batches:
            for record in batch:
                if record.offset in winners:
                    change = await desk.logs.decode(record)
                    if change is not None:
                        tally.count(change, is_in_range(record))


# -- the rest -------------------------------------------------------------------------------------


async def _rate(connection: Connection, unit: str) -> tuple[float, str]:
    """Deliveries a second, and how that is known: by the last job that sent the unit many."""
    last: JobProgress | OrderProgress | None = None
    for found in await read_controls(connection, names.JOBS):
        if isinstance(found, JobProgress | OrderProgress) and found.unit == unit:
            is_telling = found.state == "done" and found.sent + found.withdrawn >= _TELLING
            if is_telling and (last is None or found.updated_at_us > last.updated_at_us):
                last = found
    if last is None:
        return ASSUMED_RATE, f"{ASSUMED_RATE:.0f} a second, assumed: no job has met it yet"
    seconds = max(0.001, (last.updated_at_us - last.started_at_us) / 1e6)
    rate = max(1.0, (last.sent + last.withdrawn) / seconds)
    return rate, f"{rate:.0f} a second, as in its job {last.job}"


async def _record(connection: Connection, plan: Plan, by: audit.Operator) -> None:
    dataset = plan.datasets[0] if len(plan.datasets) == 1 else ""
    subjects = (f"plan {plan.sha256}", f"keys {plan.keys_chosen}", f"to send {plan.sent}")
    async with Sender(connection) as sender:
        for act in audit.acts_of(
            by, audit.REPLAY_PLAN, plan.reason, unit=plan.unit, dataset=dataset, subjects=subjects
        ):
            await audit.record(sender, act)


def known_plans(acts: Iterable[Act]) -> frozenset[str]:
    """Hashes of the plans that were made on this bus."""
    return frozenset(
        subject.removeprefix("plan ")
        for act in acts
        if act.verb == audit.REPLAY_PLAN
        for subject in act.subjects
        if subject.startswith("plan ")
    )

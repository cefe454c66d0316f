"""What people ordered of jobs, as `bus.jobs` tells it: orders, keys, steering, progress. Pure.

1. An order is never changed. It is open until its progress says done, cancelled or refused;
   nothing that is said afterwards opens it again.
2. Of the steering of an order the last word counts; nobody said anything: it is to run.
3. A recipient has one order at work: the one that was ordered first (by time, then by name). The
   next begins when that one is closed; one that is paused keeps its place.
4. An order is to be handed to a job while it is open and its progress does not say yet what was
   wanted: to run it, to stop where it is, or to close it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deptbus.wire.control import JobOrder, JobSteer, OrderedKeys, OrderProgress

ORDER_RECORDS = (JobOrder, OrderedKeys, JobSteer, OrderProgress)
CLOSED = frozenset({"done", "cancelled", "refused"})

RUN, PAUSED, CANCELLED = "run", "paused", "cancelled"


@dataclass(frozen=True, slots=True)
class DueOrder:
    """An order and what is wanted of it now: equal ones are the same work."""

    order: JobOrder
    wanted: str

    @property
    def job(self) -> str:
        return self.order.job

    @property
    def unit(self) -> str:
        return self.order.unit


@dataclass
class Orders:
    """Fed with the records of `bus.jobs` in their order."""

    orders: dict[str, JobOrder] = field(default_factory=dict)
    steers: dict[str, JobSteer] = field(default_factory=dict)
    progress: dict[str, OrderProgress] = field(default_factory=dict)
    # job -> part -> (dataset, keys)
    _keys: dict[str, dict[int, OrderedKeys]] = field(default_factory=dict)

    def take(self, record: JobOrder | OrderedKeys | JobSteer | OrderProgress) -> None:
        if isinstance(record, JobOrder):
            self.orders.setdefault(record.job, record)
        elif isinstance(record, OrderedKeys):
            if not self._is_closed(record.job):
                self._keys.setdefault(record.job, {})[record.part] = record
        elif isinstance(record, JobSteer):
            self.steers[record.job] = record
        elif not self._is_closed(record.job):
            # What a leader that was frozen says of an order that is closed is out of date.
            self.progress[record.job] = record
            if record.state in CLOSED:
                self._keys.pop(record.job, None)

    def is_open(self, job: str) -> bool:
        return job in self.orders and not self._is_closed(job)

    def _is_closed(self, job: str) -> bool:
        progress = self.progress.get(job)
        return progress is not None and progress.state in CLOSED

    def wanted(self, job: str) -> str:
        steer = self.steers.get(job)
        return RUN if steer is None else steer.wanted

    def open_of(self, unit: str) -> list[JobOrder]:
        """The open orders of a recipient, the one at work first."""
        found = [o for o in self.orders.values() if o.unit == unit and self.is_open(o.job)]
        return sorted(found, key=lambda order: (order.ordered_at_us, order.job))

    def due(self) -> dict[str, DueOrder]:
        """Unit -> the order that a job has to be made of now."""
        found = {}
        for unit in {order.unit for order in self.orders.values()}:
            opened = self.open_of(unit)
            # One that is to be closed need not wait for its turn.
            closing = [order for order in opened if self.wanted(order.job) == CANCELLED]
            for order in (closing or opened)[:1]:
                progress, wanted = self.progress.get(order.job), self.wanted(order.job)
                if progress is None or not progress.state == PAUSED == wanted:
                    found[unit] = DueOrder(order, wanted)
        return found

    def keys_of(self, order: JobOrder) -> dict[str, frozenset[bytes]] | None:
        """Dataset -> the keys that an order names; None when a part of them is missing."""
        parts = self._keys.get(order.job, {})
        found: dict[str, set[bytes]] = {}
        for number in range(order.key_parts):
            part = parts.get(number)
            if part is None:
                return None
            found.setdefault(part.dataset, set()).update(part.keys)
        return {dataset: frozenset(keys) for dataset, keys in found.items()}

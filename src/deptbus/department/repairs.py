"""Pure: which rows a repair may touch. An order names what was seen of each; the row must still be
just that.

Rules:

1. A delivery of a repair is applied only where an order of its job names its key, and line and row
   are as that order saw them. Then it is applied whatever version the line claims to have.
2. A row that was edited locally is touched only when the order says so; what it was is kept in a
   file of the unit first. So is a row that goes.
3. `forget`: the row goes, and its line becomes a tombstone of no version, which any delivery
   supersedes. `remove`: a row that no line holds goes.
4. What is left out is counted, never refused: the next proof shows the row as it is by then.
5. The real row is looked at again under its lock, in the transaction that writes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from deptbus.change import Cause, DeliveryOp, Received
from deptbus.department.decide import Remove
from deptbus.department.ledger import Entry, RecordId, Row
from deptbus.department.seen import Line, Values, row_digest, seen_of
from deptbus.wire.control import RepairOrder

DELIVER, FORGET, REMOVE = "deliver", "forget", "remove"
# An order whose deliveries did not come by then is of a job that was cancelled.
ORDER_KEPT_US = 7 * 24 * 3600 * 1_000_000


class OrderId(NamedTuple):
    job: str
    dataset: str
    key: bytes


class Order(NamedTuple):
    """What one job may do to one row."""

    id: OrderId
    seen: bytes
    action: str
    overwrite: bool


def orders_in(records: Iterable[RepairOrder]) -> dict[OrderId, Order]:
    found = {}
    for record in records:
        for key, seen, action in zip(record.keys, record.seen, record.actions, strict=True):
            name = OrderId(record.job, record.dataset, key)
            found[name] = Order(name, seen, action, record.overwrite)
    return found


def order_of(received: Received) -> OrderId:
    return OrderId(received.job or "", received.dataset, received.key)


class Looked(NamedTuple):
    """A row as it is now. `row`: None where there is none to be touched."""

    line: Line | None
    row: bytes | None
    values: Values | None


class Kept(NamedTuple):
    """Values that a repair is about to replace or to remove."""

    order: OrderId
    values: Values


@dataclass
class Repairs:
    """What is allowed in one batch."""

    new: dict[OrderId, Order] = field(default_factory=dict)  # to be kept until their deliveries
    done: set[OrderId] = field(default_factory=set)  # to be forgotten
    allowed: set[OrderId] = field(default_factory=set)  # deliveries
    guards: dict[Row, bytes | None] = field(default_factory=dict)  # digest; None: it is not there
    of_row: dict[Row, OrderId] = field(default_factory=dict)
    forgets: dict[OrderId, RecordId] = field(default_factory=dict)
    removes: dict[OrderId, Remove] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    left: int = 0  # rows that were left out

    def is_allowed(self, received: Received) -> bool:
        return received.cause is not Cause.REPAIR or order_of(received) in self.allowed

    def without(self, rows: Collection[Row]) -> None:
        """These rows changed between the look and the lock."""
        for row in rows:
            name = self.of_row.pop(row, None)
            self.guards.pop(row, None)
            if name is not None:
                self.allowed.discard(name)
                self.forgets.pop(name, None)
                self.removes.pop(name, None)
                self.left += 1

    def tombstones(self, now_us: int) -> list[Entry]:
        return [tombstone(rid, name.job, now_us) for name, rid in self.forgets.items()]


def weigh(orders: Mapping[OrderId, Order], now: Mapping[OrderId, Looked]) -> Repairs:
    """Rules 1 to 3. `orders`: those whose turn it is; `now`: what stands there now."""
    found = Repairs()
    for name, order in orders.items():
        looked = now.get(name, Looked(None, None, None))
        found.done.add(name)
        values = looked.values
        if seen_of(looked.line, values) != order.seen:
            found.left += 1
            continue
        was_written = None if looked.line is None else looked.line.written
        is_edited = values is not None and row_digest(values) != was_written
        goes = order.action != DELIVER
        if is_edited and looked.line is not None and not goes and not order.overwrite:
            found.left += 1
            continue
        if values is not None and (is_edited or goes):
            found.kept.append(Kept(name, values))
        if looked.row is not None:
            row = Row(name.dataset, looked.row)
            found.guards[row] = None if values is None else row_digest(values)
            found.of_row[row] = name
        if not goes:
            found.allowed.add(name)
        elif order.action == FORGET and looked.line is not None:
            found.forgets[name] = RecordId(name.dataset, looked.line.source_unit, name.key)
        elif order.action == REMOVE and looked.line is None and looked.row is not None:
            row = Row(name.dataset, looked.row)
            found.removes[name] = Remove(RecordId(name.dataset, "", name.key), row, 0)
    return found


def tombstone(rid: RecordId, job: str, now_us: int) -> Entry:
    """Rule 3: a line of no version."""
    return Entry(
        *rid,
        version=0,
        policy=0,
        op=DeliveryOp.DELETE.value,
        cause=Cause.REPAIR.value,
        job=job,
        direction="",
        rule="",
        grants="",
        source_time_us=now_us,
        schema_version=0,
        fields="",
        record=None,
        row=None,
        held=False,
        delivered=None,
        written=None,
        parked=None,
        parked_since_us=None,
        attempts=0,
        retry_at_us=None,
        applied_at_us=now_us,
    )

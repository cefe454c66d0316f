"""A source department: its clerks, its database with capture, and the adapter that publishes.

The database stands in for triggers and tables; who gets which change is judged by the product's
`publication`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deptbus.change import Cause, Incarnation
from deptbus.department.capture import Known, OutboxRow, Prepared, RawKey, Variant, Wanted
from deptbus.department.judge import Judge, find_keys
from deptbus.department.publication import KeyOf, Stamp
from deptbus.department.raw import raw_of, raw_text
from deptbus.errors import Fenced
from deptbus.names import out_topic
from deptbus.stream.log import Outgoing
from deptbus.wire.control import Announcement, Incarnated, encode_control

from .county import CODECS, DATASET, FIELDS, MISTYPED, PLACES, PUBLICATIONS, SOURCES
from .proof import View, look, mark
from .resync import Backup, resync
from .simulation import Instance, rest, step

if TYPE_CHECKING:
    from .world import World

Pair = tuple[str, bytes]
NOWHERE = (MISTYPED, "33010")
SPELLINGS = ("K1", " k1", *(f"K{n}" for n in range(2, 10)))  # two rows of one natural key


@dataclass(eq=False)
class Transaction:
    """Rows written and not yet committed: they are locked, and nobody else sees them."""

    rows: dict[RawKey, dict[str, Any] | None] = field(default_factory=dict)
    outbox: list[OutboxRow] = field(default_factory=list)


class SourceDatabase:
    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.publications = PUBLICATIONS[unit]
        self.rows: dict[RawKey, dict[str, Any]] = {}
        self.open: list[Transaction] = []
        self.outbox: dict[int, OutboxRow] = {}
        self.position = 0
        self.incarnation = Incarnation(0, b"")
        self.publication = 0
        self.known: dict[Pair, Known] = {}
        self.parked: dict[tuple[str, str], str] = {}
        self.wanted: list[Wanted] = []
        self.cursor = 0  # of the planted bug that reads by position
        self.missed = False  # a resync was begun and not ended
        self.backup: Backup | None = None

    # -- what the department's own program does ---------------------------------------------------

    def is_locked(self, raw: RawKey) -> bool:
        return any(raw in t.rows for t in self.open)

    def write(self, transaction: Transaction, raw: RawKey, values: dict[str, Any] | None) -> None:
        """What the triggers do for one row: the version is drawn under the row's lock."""
        old = transaction.rows.get(raw, self.rows.get(raw))
        if old is None and values is None:
            return
        was = old["place"] if old and (values is None or old["place"] != values["place"]) else None
        transaction.rows[raw] = values
        op = "d" if values is None else "u"
        transaction.outbox.append(self._row(op, "live", was, None, raw, values or {}))

    def commit(self, transaction: Transaction) -> None:
        self.open.remove(transaction)
        for raw, values in transaction.rows.items():
            if values is None:
                self.rows.pop(raw, None)
            else:
                self.rows[raw] = values
        self.outbox |= {row.position: row for row in transaction.outbox}

    def _row(
        self, op: str, cause: str, was: Any, key: bytes | None, raw: RawKey, values: dict[str, Any]
    ) -> OutboxRow:
        self.position += 1
        return OutboxRow(
            *(self.position, DATASET, op, cause, None, self.position, was, key, raw),
            tuple(values),
            tuple(values.values()),
        )

    # -- what the adapter does --------------------------------------------------------------------

    def take_over(self, bus_number: int, token: bytes) -> Incarnation:
        number = max(self.incarnation.number, bus_number) + 1
        self.incarnation = Incarnation(number, token)
        return self.incarnation

    def check(self, token: bytes) -> None:
        if self.incarnation.token != token:
            raise Fenced("another adapter has taken over")

    def read(self, limit: int, by_cursor: bool) -> list[OutboxRow]:
        positions = sorted(p for p in self.outbox if not by_cursor or p > self.cursor)
        return [self.outbox[p] for p in positions[:limit]]

    def prepare(self, token: bytes, prepared: Prepared, *, sends: bool) -> None:
        self.check(token)
        for position in prepared.drop:
            self.outbox.pop(position, None)
        for pair, places in prepared.places.items():
            self.known[pair] = Known(places, self.known.get(pair, Known()).variants)
        for pair, variants in prepared.variants.items():
            merged = {v.raw: v.state for v in self.known.get(pair, Known()).variants}
            merged |= {v.raw: v.state for v in variants}
            made = tuple(Variant(raw, state) for raw, state in sorted(merged.items()))
            self.known[pair] = Known(self.known.get(pair, Known()).places, made)
        for line in prepared.unpark:
            self.parked.pop(line, None)
        self.parked |= {(p.dataset, p.raw): p.reason for p in prepared.park}
        self.want(*prepared.wanted)
        self.publication += sends

    def delete(self, token: bytes, positions: list[int]) -> None:
        self.check(token)
        self.cursor = max([self.cursor, *positions])
        for position in positions:
            self.outbox.pop(position, None)

    def lift(self, token: bytes, version: int) -> int:
        """Numbers from here on are above those of the bus; `renumber` lifts the rows that wait,
        behind the number that this returns."""
        self.check(token)
        top = max(self.position, version)
        self.position = top + len(self.outbox) + sum(len(t.outbox) for t in self.open)
        return top

    def renumber(self, token: bytes, top: int, publication: int) -> None:
        self.check(token)
        lifted = sorted(p for p in self.outbox if p <= top)
        for number, row in enumerate([self.outbox.pop(p) for p in lifted], top + 1):
            self.outbox[number] = row._replace(position=number)
        self.publication = max(self.publication, publication)
        self.missed = True

    def reserve(self, token: bytes, count: int) -> int:
        self.check(token)
        self.position += count
        return self.position - count + 1

    def want(self, *wanted: Wanted) -> None:
        self.wanted += [w for w in wanted if w not in self.wanted]

    def work_off(self) -> None:
        """Enqueue what is wanted, as it is now, under the lock of its row."""
        if self.open:
            return  # rows may be locked, and of one that is absent nobody knows whether it comes
        for wanted in self.wanted:
            raw = raw_of(wanted.raw) if wanted.raw is not None else self._row_of(wanted.key)
            if raw is not None and raw in self.rows:
                row = self._row("u", wanted.cause, None, None, raw, self.rows[raw])
            elif raw is not None:
                row = self._row("d", wanted.cause, None, None, raw, {})
            elif (DATASET, wanted.key) in self.known:
                row = self._row("d", wanted.cause, None, wanted.key, (), {})
            else:
                continue
            self.outbox[row.position] = row
        self.wanted.clear()

    def finish(self, world: World) -> None:
        """The clerks go home: transactions end, typing errors are mended."""
        for transaction in list(self.open):
            self.commit(transaction)
        transaction = Transaction()
        for raw, values in self.rows.items():
            if values["place"] in NOWHERE:
                place = world.chance.choice(PLACES[self.unit])
                self.write(transaction, raw, values | {"place": place})
        self.open.append(transaction)
        self.commit(transaction)

    def _row_of(self, key: bytes | None) -> RawKey | None:
        found = [raw for raw in self.rows if self.key_of(raw) == key]
        return next((raw for raw in found if self.speaks(raw)), found[0] if found else None)

    def key_of(self, raw: RawKey) -> bytes | None:
        return self.publications[DATASET].key_of_raw(raw).key

    def speaks(self, raw: RawKey) -> bool:
        """Whether this row is the one that the bus has under its key."""
        key = self.key_of(raw)
        variants = self.known.get((DATASET, key or b""), Known()).variants
        if not variants:
            return raw[0] == raw[0].strip().upper()
        return any(v.raw == raw_text(raw) and v.state == "holds" for v in variants)


def clerk(world: World, source: SourceDatabase) -> None:
    """One act of the department's own program, whoever listens."""
    chance = world.chance
    if source.open and chance.random() < 0.6:
        source.commit(chance.choice(source.open))
        return
    transaction = Transaction()
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        raw = (chance.choice(world.spellings),)
        if not source.is_locked(raw):
            present = transaction.rows.get(raw, source.rows.get(raw))
            source.write(transaction, raw, _new_values(world, source, raw, present))
    if transaction.outbox:
        source.open.append(transaction)
        if chance.random() < 0.5:
            source.commit(transaction)


def _new_values(
    world: World, source: SourceDatabase, raw: RawKey, present: dict[str, Any] | None
) -> dict[str, Any] | None:
    chance = world.chance
    if present is not None and chance.random() < 0.2:
        return None
    world.counter += 1
    values = {f: f"{f}{world.counter}" for f in FIELDS} | {"id": raw[0]}
    places = PLACES[source.unit]
    if present is not None and chance.random() < 0.5:
        values["place"] = present["place"]
    elif chance.random() < 0.15:
        others = [p for unit in SOURCES if unit != source.unit for p in PLACES[unit]]
        values["place"] = chance.choice((*NOWHERE, *others))
    else:
        values["place"] = chance.choice(places)
    return values


async def publish(world: World, source: SourceDatabase, me: Instance) -> None:
    """The adapter of one start: take over, announce, then publish for ever."""
    bus, unit, topic = world.bus, source.unit, out_topic(source.unit)
    await step()
    bus_number = max((r.incarnation.number for r in bus.incarnated[unit]), default=0)
    await step()
    mine = source.take_over(bus_number, world.chance.randbytes(8))
    await step()
    if not world.bugs.number_told_late:
        bus.incarnated[unit].append(Incarnated(unit, "main", mine, (), ""))
    await step()
    source.check(mine.token)
    await step()
    announcement = encode_control(Announcement(unit, "main", mine, 0, 0))
    offset = bus.append(Outgoing(topic, 0, None, announcement))
    await step()
    bus.incarnated[unit].append(Incarnated(unit, "main", mine, (offset,), ""))
    if source.missed or bus.published[unit] > source.publication:
        await resync(world, source, mine)  # a person reads what status says
    policy = max(bus.policies)
    is_idle = False
    seen: View | None = None
    while True:
        await (rest() if is_idle else step())
        is_idle = False
        if world.looks_for_policy():
            policy = max(bus.policies)
        source.check(mine.token)  # the heartbeat: an idle adapter notices a younger one too
        if seen is not None:
            mark(world, source, mine, seen)
            seen = None
        elif unit in world.wishes:
            world.wishes.discard(unit)
            view = look(source)
            await step()
            if world.bugs.proof_before_the_cut:
                seen = view  # and the marker goes behind the next turn
            else:
                mark(world, source, mine, view)
        rows = source.read(world.chance.randint(1, 4), world.bugs.cursor_on_outbox)
        if not rows:
            source.work_off()
            is_idle = not source.outbox
            continue
        stamp = Stamp(mine, source.publication + 1, policy)
        judge = _judge(world, source, rows, stamp)
        await step()
        source.prepare(mine.token, judge.prepared, sends=bool(judge.ready))
        for change in judge.ready:
            await step()
            offset = bus.append(Outgoing(topic, 0, change.key, change.value))
            if mine == max(r.incarnation for r in bus.incarnated[unit] if r.offsets):
                # What heartbeats and records tell a successor; of a fenced one nothing counts.
                bus.published[unit] = max(bus.published[unit], stamp.publication)
                bus.highest[unit] = max(bus.highest[unit], change.version)
            if not world.is_finishing and world.chance.random() < world.mixture.mangled:
                bus.mangle(topic, offset)
        await step()
        source.delete(mine.token, [change.version for change in judge.ready])


def _judge(world: World, source: SourceDatabase, rows: list[OutboxRow], stamp: Stamp) -> Judge:
    found = find_keys(source.publications, rows)
    keys = [k.key if isinstance(k, KeyOf) else k[0] for k in found]
    pairs = {(r.dataset, key) for r, key in zip(rows, keys, strict=True) if key is not None}
    borne = {
        (r.dataset, k.key): k.plain in source.rows
        for r, k in zip(rows, found, strict=True)
        if isinstance(k, KeyOf) and k.plain is not None and k.key is not None
    }
    known = {pair: source.known[pair] for pair in pairs if pair in source.known}
    kind = world.bugs.batch
    judge = Judge(kind(source.publications, stamp, known, borne, set(source.parked)), CODECS)
    judge.take(rows, found)
    return judge


def resend(source: SourceDatabase, key: bytes) -> None:
    """What `department resend --key` asks for."""
    source.want(Wanted(DATASET, None, key, Cause.RESEND.value, None))

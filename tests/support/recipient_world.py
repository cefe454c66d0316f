"""A recipient without a database, for tests of the pure core: two datasets, rows in a dict."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from deptbus.change import Cause, DeliveryOp, Direction, Received, RecordFields
from deptbus.department.decide import (
    Action,
    Clear,
    Decision,
    Refused,
    Remove,
    decide,
    prepare,
    tally,
    touched_rows,
)
from deptbus.department.fold import Folded, add_retries, fold
from deptbus.department.ledger import Entry, Prepared, RecordId, Row, Taken, Unfit, entry_of
from deptbus.wire.control import PolicyMarker
from deptbus.wire.digest import encode_values, values_digest

FIELDS = ("number", "name", "phone")  # of every record; `number` is the own row's key
POISON = "poison"  # a name that has no form at the recipient
CLEARED = "-"


def received(
    key: bytes,
    version: int,
    record: dict[str, str] | None,
    *,
    policy: int = 1,
    op: DeliveryOp | None = None,
    dataset: str = "resident",
    unit: str = "police@330106",
    cause: Cause = Cause.LIVE,
) -> Received:
    """An upsert of `record`, or a withdrawal (or `op`) where that is None."""
    return Received(
        dataset=dataset,
        key=key,
        op=op or (DeliveryOp.WITHDRAW if record is None else DeliveryOp.UPSERT),
        source_unit=unit,
        version=version,
        source_time_us=version,
        policy=policy,
        direction=Direction.HORIZONTAL,
        rule="rule",
        grants=(),
        cause=cause,
        job=None,
        fields=() if record is None else tuple(f for f in FIELDS if f in record),
        record=None
        if record is None
        else tuple(json.dumps(record[f]).encode() for f in FIELDS if f in record),
        schema_version=1,
    )


class PlainTarget:
    """Columns are the fields; a closed one gets CLEARED."""

    replaces = True
    on_remove = "delete"
    had_rows = False

    def take(self, received: Received) -> Taken | None:
        fit = self.prepare(entry_of(received, 0))
        return (fit.row, fit.written, fit.values) if isinstance(fit, Prepared) else None

    def prepare(self, entry: Entry, record: RecordFields | None = None) -> Prepared | Unfit:
        assert entry.record is not None
        values: list[Any] = [CLEARED] * len(FIELDS)
        slices = record or _strings(entry.record)
        for field, text in zip(entry.field_names, slices, strict=True):
            values[FIELDS.index(field)] = json.loads(text)
        if POISON in values:
            return Unfit("value: table.name: poison")
        if "number" not in entry.field_names:
            return Unfit("key: table.number would be empty")
        return Prepared(encode_values(values[:1]), tuple(values), values_digest(values))

    def covers_key(self, fields: tuple[str, ...]) -> bool:
        return "number" in fields

    def closed_columns(self, fields: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(at for at, f in enumerate(FIELDS) if f not in fields and f != "number")


def _strings(record: bytes) -> RecordFields:
    decoder, text, found = json.JSONDecoder(), record.decode(), []
    while text:
        _, end = decoder.raw_decode(text)
        found.append(text[:end].encode())
        text = text[end:]
    return tuple(found)


class Recipient:
    """Ledger, rows and floors in memory; `refuse`: what the database refuses."""

    def __init__(self) -> None:
        self.ledger: dict[RecordId, Entry] = {}
        self.rows: dict[Row, list[Any]] = {}
        self.floors: dict[int, dict[str, int]] = {}
        self.refuse: set[tuple[type, Row]] = set()
        self.targets = {"resident": PlainTarget(), "household": PlainTarget()}
        self.tallies: dict[str, int] = {}

    def apply(
        self,
        items: Iterable[Received | PolicyMarker],
        *,
        partition: int = 0,
        now_us: int = 1,
        retry: bool = False,
        **planted: Any,
    ) -> Decision:
        folded = Folded()
        floors = self.floors.setdefault(partition, {})
        fold(items, self.ledger, floors, now_us, replacing={"resident"}, into=folded, **planted)
        if retry:
            add_retries(folded, [e for e in self.ledger.values() if e.parked])
        fits: dict[RecordId, Prepared | Unfit] = {}
        prepare(folded, self.targets, fits)
        rows = touched_rows(folded, self.ledger, fits)
        known = {
            rid: e
            for rid, e in self.ledger.items()
            if rid in folded.candidates or (e.row is not None and Row(e.dataset, e.row) in rows)
        }
        refused: dict[RecordId, Refused] = {}
        while True:
            decision = decide(folded, known, fits, self.targets, now_us, refused)
            wrong = [a for a in decision.actions if (type(a), a.row) in self.refuse]
            if not wrong:
                break
            for action in wrong:
                refused[action.id] = Refused(action.level + 1, "refused by the database")
        self._carry_out(decision)
        tally(folded, decision, frozenset({"resident"}))
        for line, count in folded.tallies.items():
            self.tallies[line.outcome] = self.tallies.get(line.outcome, 0) + count
        return decision

    def _carry_out(self, decision: Decision) -> None:
        carry_out(self.rows, decision.actions)
        self.ledger.update({e.id: e for e in decision.entries})

    def table(self, dataset: str = "resident") -> dict[str, tuple[Any, ...]]:
        return {v[0]: tuple(v[1:]) for row, v in self.rows.items() if row.dataset == dataset}


def row(number: str, dataset: str = "resident") -> Row:
    return Row(dataset, encode_values([number]))


def carry_out(rows: dict[Row, list[Any]], actions: Iterable[Action]) -> None:
    """What a database does with these, to rows in a dict."""
    for action in actions:
        if isinstance(action, Remove):
            rows.pop(action.row, None)
        elif isinstance(action, Clear):
            for at in action.columns:
                if action.row in rows:
                    rows[action.row][at] = CLEARED
        else:
            rows[action.row] = list(action.values)

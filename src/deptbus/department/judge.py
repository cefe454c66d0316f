"""Outbox rows -> what is sent: the quick way for plain rows, rule by rule for the others. Pure.

A row is judged the quick way when its function can (`quick_rows`) and when nothing is remembered of
its key and nothing of its row is parked: then `Batch.take` would remember nothing either, and write
the same bytes. The order of the rows is kept, so what one leaves to be remembered is seen by those
behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from deptbus.change import Cause
from deptbus.department.capture import OutboxRow, Prepared
from deptbus.department.publication import Batch, KeyOf, Publication
from deptbus.department.raw import raw_text
from deptbus.errors import WireRefused
from deptbus.wire.codecs import Codecs
from deptbus.wire.outgoing import UpsertWriter

if TYPE_CHECKING:
    from deptbus.department.removal_guard import Sifted


class Ready(NamedTuple):
    """A change on its way to `out`."""

    version: int
    key: bytes
    value: bytes


Found = tuple[bytes, bytes, bytes] | KeyOf  # (key, place, record) of a plain row


def find_keys(publications: Mapping[str, Publication], rows: Sequence[OutboxRow]) -> list[Found]:
    """Which key each row is about, and all of it that can be made without knowing more."""
    found: list[Found] = []
    columns: tuple[str, ...] | None = None
    dataset, quick = "", None
    for row in rows:
        if row.op == "u" and row.was is None and row.key is None:
            if row.columns is not columns or row.dataset != dataset:
                columns, dataset = row.columns, row.dataset
                quick = publications[dataset].quick(columns)
            plain = None if quick is None else quick(row.raw, row.cells)
            if plain is not None:
                found.append(plain)
                continue
        found.append(publications[row.dataset].key_of(row))
    return found


class Judge:
    """Judges the rows of one batch; `batch` has what is known of them. Call `take` with the rows in
    their order, as many at a time as you like; `ready` are the changes to be sent, in order."""

    def __init__(self, batch: Batch, codecs: Codecs) -> None:
        self._batch = batch
        self._codecs = codecs
        self._writers: dict[tuple[str, str, str | None], UpsertWriter] = {}
        self.ready: list[Ready] = []

    @property
    def prepared(self) -> Prepared:
        """What has to be durable before `ready` is sent."""
        return self._batch.prepared

    def take(self, rows: Sequence[OutboxRow], found: Sequence[Found]) -> None:
        """`found` is what `find_keys` said of `rows`."""
        batch = self._batch
        known, parked, ready = batch.known, batch.parked, self.ready
        last: tuple[str, str, str | None] | None = None
        version = 0
        for row, one in zip(rows, found, strict=True):
            if isinstance(one, KeyOf):
                self._by_rule(row, one)
                continue
            key, place, record = one
            if known and (row.dataset, key) in known:
                self._by_rule(row, batch.publications[row.dataset].key_of(row))
                continue
            if parked and (row.dataset, raw_text(row.raw)) in parked:
                self._by_rule(row, batch.publications[row.dataset].key_of(row))
                continue
            if (row.dataset, row.cause, row.job) != last:
                last = row.dataset, row.cause, row.job
                write = self._writer(last).write
            try:
                value = write(row.position, row.source_time_us, place, record)
            except WireRefused:
                self._by_rule(row, batch.publications[row.dataset].key_of(row))
                continue
            ready.append(Ready(row.position, key, value))
            version = max(version, row.position)
        batch.prepared.version = max(batch.prepared.version, version)

    def take_held(self, sifted: Sifted) -> None:
        """What the guard against mass removals left out of the batch (`removal_guard`)."""
        for dataset, key, place in sifted.remember:
            self._batch.remember(dataset, key, place)
        self.prepared.drop += sifted.drop
        self.prepared.holding = sifted.holding

    def _by_rule(self, row: OutboxRow, found: KeyOf) -> None:
        batch = self._batch
        before = len(batch.changes)
        batch.take(row, found)
        for change in batch.changes[before:]:
            try:
                value = self._codecs.encode_change(change)
            except WireRefused as refused:
                batch.refuse(change, found.raw, refused.reason)
            else:
                self.ready.append(Ready(change.version, change.key, value))

    def _writer(self, kind: tuple[str, str, str | None]) -> UpsertWriter:
        writer = self._writers.get(kind)
        if writer is None:
            dataset, cause, job = kind
            publication, stamp = self._batch.publications[dataset], self._batch.stamp
            writer = self._writers[kind] = self._codecs.upsert_writer(
                dataset,
                publication.schema_version,
                source_unit=publication.unit,
                incarnation=stamp.incarnation,
                publication=stamp.publication,
                cause=Cause(cause),
                job=job,
                policy=stamp.policy,
            )
        return writer

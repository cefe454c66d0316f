"""What a received dataset's table has beside what the bus has for it; nothing is written.

The bus's side is the ledger: until the department has said yes every delivery waits there. Both are
read in one snapshot (`copy_view`), and records are matched with rows as a first load would do it
(`adoption`, rule 2). Of each record some bytes are kept in memory, of rows only those that differ.

Counting, by what a row is known by (its columns of `match`, read by the mapping's rules):

1. One record and one row: the same, or different in some columns. A value that cannot be read is
   different, and counted as refused too. What says the same in other letters is the same.
2. Records without a row are only on the bus, rows without a record only here; so is a row whose
   match is empty or cannot be read.
3. All others are ambiguous, records and rows.
4. Records that could not be written to any row (`Unfit`) are counted by reason, and nowhere else.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from deptbus.change import DeliveryOp
from deptbus.contract.department import Department
from deptbus.contract.model import Contract
from deptbus.department.adoption import match_of
from deptbus.department.applier import mapping_of
from deptbus.department.copy_view import CopyView, open_copy_view
from deptbus.department.ledger import Prepared, Unfit
from deptbus.department.seen import Brief
from deptbus.department.store import missing_column
from deptbus.department.target import ContractShapes, MappedTarget
from deptbus.department.values import Refusal, as_text
from deptbus.errors import DeptbusError
from deptbus.wire.codecs import Codecs
from deptbus.wire.digest import encode_values

SAMPLES = 5  # shown of each column
MOST_REFUSED = 100_000  # told one by one
_KEY, _OP = Brief._fields.index("key"), Brief._fields.index("op")
_CANDIDATES = 25  # remembered of each: some turn out to be ambiguous


class Sample(NamedTuple):
    """One row that differs in a column. All masked, but for `key` where it was asked for."""

    key: str  # the own key of the row
    here: str
    bus: str
    reason: str  # why what stands here cannot be read; empty where it can


class Refused(NamedTuple):
    """One value that cannot be read. `key` as in Sample; `here` is masked."""

    column: str
    key: str
    here: str
    reason: str


@dataclass(slots=True)
class ColumnDifference:
    different: int = 0
    refused: int = 0  # among all rows, whether a record matches or not
    samples: list[Sample] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """One dataset. Counts as in the module's docstring."""

    dataset: str
    table: str
    records: int = 0
    rows: int = 0
    same: int = 0
    spelled_otherwise: int = 0  # of those that are the same
    different: int = 0
    only_here: int = 0
    only_on_bus: int = 0
    ambiguous_records: int = 0
    ambiguous_rows: int = 0
    unreadable_rows: int = 0  # of those only here: their match is empty or cannot be read
    unfit: Counter[str] = field(default_factory=Counter)  # reason -> records
    columns: dict[str, ColumnDifference] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)  # the first MOST_REFUSED of them

    @property
    def is_alike(self) -> bool:
        return self.same == self.records == self.rows and not self.unfit


@dataclass(slots=True)
class _Record:
    """What is remembered of the records of one match."""

    key: bytes
    hashes: array[int]
    count: int = 1


@dataclass(slots=True)
class _Row:
    """What is remembered of the rows of one match."""

    mask: int  # bit by bit: columns in which it differs
    is_spelled_otherwise: bool
    count: int = 1


class _Candidate(NamedTuple):
    match: bytes
    key: str
    here: str
    reason: str


async def compare_dataset(
    department: Department,
    system: str,
    dataset: str,
    contract: Contract,
    *,
    shows_keys: bool = False,
) -> Comparison:
    """Raises DeptbusError where nothing of the dataset has come yet, DatabaseUnavailable."""
    mapping = mapping_of(department, system, [contract])
    if dataset not in mapping:
        raise DeptbusError(
            f"dataset {dataset} is not in the contract in force", mend="Check `receives:`"
        )
    receive, key = mapping[dataset]
    shapes = ContractShapes(contract, Codecs(contract))
    async with open_copy_view(department, system) as view:
        if not await view.has_books():
            raise DeptbusError(
                f"{dataset}: nothing has come from the bus yet",
                mend="Run `deptbus department run`; it writes to no table that has rows before "
                "`deptbus department join`",
            )
        await view.begin()
        catalogue = await view.catalogue(receive.table)
        for name in (*receive.columns.values(), *receive.defaults, *receive.mark):
            if name not in catalogue:
                raise missing_column(system, dataset, receive.table, name)
        target = MappedTarget(dataset, receive, key, catalogue, shapes)
        return await _Comparing(view, target, shows_keys=shows_keys).run()


class _Comparing:
    def __init__(self, view: CopyView, target: MappedTarget, *, shows_keys: bool) -> None:
        self._view, self._target, self._shows_keys = view, target, shows_keys
        self._found = Comparison(target.dataset, target.table)
        self._names = [column.name for column in target.columns]
        # What deptbus itself fills is no difference.
        self._compared = [at for at in range(len(self._names)) if not target.is_bus_key(at)]
        self._reading = [target.own_reading(at) for at in range(len(self._names))]
        self._records: dict[bytes, _Record] = {}
        self._rows: dict[bytes, _Row] = {}
        self._candidates: defaultdict[int, list[_Candidate]] = defaultdict(list)
        self._found.columns = {self._names[at]: ColumnDifference() for at in self._compared}

    async def run(self) -> Comparison:
        await self._read_records()
        async for rows in self._view.rest(self._target):
            for row in rows:
                self._take_row(row)
        self._count()
        await self._show()
        return self._found

    async def _read_records(self) -> None:
        async for lines in self._view.lines(self._target.dataset):
            keys = [line[_KEY] for line in lines if line[_OP] == DeliveryOp.UPSERT]
            for entry in await self._view.entries_of(self._target.dataset, keys):
                fit = self._target.prepare_always(entry)
                match = match_of(self._target, fit.values) if isinstance(fit, Prepared) else fit
                if isinstance(match, Unfit) or isinstance(fit, Unfit):
                    assert isinstance(match, Unfit)
                    self._found.unfit[match.reason] += 1
                    continue
                self._found.records += 1
                name = _digest(match)
                known = self._records.get(name)
                if known is None:
                    hashes = array("q", [_hash(fit.values[at]) for at in self._compared])
                    self._records[name] = _Record(entry.key, hashes)
                else:
                    known.count += 1

    def _take_row(self, row: Sequence[Any]) -> None:
        found = self._found
        found.rows += 1
        own: list[Any] = []
        reasons: dict[int, str] = {}
        for at, value in enumerate(row):
            try:
                own.append(None if value is None else self._reading[at](value))
            except Refusal as refusal:
                own.append(None)
                reasons[at] = str(refusal)
        positions = self._target.match_positions
        name = None
        if not any(own[at] is None for at in positions):
            try:
                name = _digest(tuple(own[at] for at in positions))
            except UnicodeEncodeError:
                reasons |= dict.fromkeys(positions, "no text")
        record = self._records.get(name) if name is not None else None
        for at, reason in reasons.items():
            found.columns[self._names[at]].refused += 1
            if len(found.refused) < MOST_REFUSED:
                told = Refused(self._names[at], self._key(row), _masked(row[at]), reason)
                found.refused.append(told)
            if record is None:
                self._remember(at, _Candidate(b"", self._key(row), _masked(row[at]), reason))
        if name is None or record is None:
            found.only_here += 1
            found.unreadable_rows += name is None
            return
        known = self._rows.get(name)
        if known is not None:
            known.count += 1
            return
        mask = 0
        for n, at in enumerate(self._compared):
            if at in reasons or _hash(own[at]) != record.hashes[n]:
                mask |= 1 << at
                reason = reasons.get(at, "")
                self._remember(at, _Candidate(name, self._key(row), _masked(row[at]), reason))
        self._rows[name] = _Row(mask, any(a != b for a, b in zip(own, row, strict=True)))

    def _remember(self, at: int, candidate: _Candidate) -> None:
        if len(self._candidates[at]) < _CANDIDATES:
            self._candidates[at].append(candidate)

    def _key(self, row: Sequence[Any]) -> str:
        words = [row[at] for at in self._target.key_positions]
        shown = [_text(word) for word in words] if self._shows_keys else map(_masked, words)
        return "/".join(shown)

    def _count(self) -> None:
        found = self._found
        for name, record in self._records.items():
            row = self._rows.get(name)
            if row is None:
                found.only_on_bus += record.count
            elif record.count > 1 or row.count > 1:
                found.ambiguous_records += record.count
                found.ambiguous_rows += row.count
            elif row.mask:
                found.different += 1
                for at in self._compared:
                    found.columns[self._names[at]].different += row.mask >> at & 1
            else:
                found.same += 1
                found.spelled_otherwise += row.is_spelled_otherwise

    async def _show(self) -> None:
        """Samples of what was not ambiguous, with what the bus has there."""
        for at, candidates in self._candidates.items():
            shown = self._found.columns[self._names[at]].samples
            for candidate in candidates:
                if len(shown) >= SAMPLES:
                    break
                record = self._records.get(candidate.match)
                if record is None:
                    shown.append(Sample(candidate.key, candidate.here, "", candidate.reason))
                elif record.count == self._rows[candidate.match].count == 1:
                    bus = await self._bus_value(record.key, at)
                    shown.append(Sample(candidate.key, candidate.here, bus, candidate.reason))

    async def _bus_value(self, key: bytes, at: int) -> str:
        for entry in await self._view.entries_of(self._target.dataset, [key]):
            fit = self._target.prepare_always(entry)
            if isinstance(fit, Prepared):
                return _masked(fit.values[at])
        return ""


def _digest(match: Sequence[Any]) -> bytes:
    return blake2b(encode_values(match), digest_size=16).digest()


def _hash(value: Any) -> int:
    """Alike for equal values, whatever their kinds; Python has one for -1 and -2."""
    found = hash(value)
    return found if found != -2 else hash(("negative", as_text(value)))


def _text(value: Any) -> str:
    found = "" if value is None else as_text(value)
    return found.encode("utf-8", "replace").decode()


def _masked(value: Any) -> str:
    """How long it is, and at the most its first and last letter."""
    text = _text(value)
    return "*" * len(text) if len(text) < 3 else f"{text[0]}{'*' * (len(text) - 2)}{text[-1]}"

"""Pure: how the projections of one dataset become rows of one table of the recipient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deptbus.change import Received, RecordFields
from deptbus.contract.department import KEY_FIELD, Receive, receive_match
from deptbus.contract.model import Contract
from deptbus.contract.own_forms import Form, Misspelled, form_of
from deptbus.department.form import Step, Take, write_form
from deptbus.department.ledger import WAITS_FOR_JOIN, Entry, Prepared, Taken, Unfit
from deptbus.department.own_values import Unfit as Unread
from deptbus.department.own_values import converter as own_reader
from deptbus.department.values import (
    ColumnKind,
    Convert,
    Refusal,
    as_text,
    converter,
    neutral_of,
    same_in,
)
from deptbus.errors import SourceRefused, WireRefused
from deptbus.wire.codecs import Codecs
from deptbus.wire.digest import encode_values, values_digest
from deptbus.wire.types import Type, resolve
from deptbus.wire.values import decoder

# Values of one column: all the days of a hundred and thirty years; time stamps, of which the rows
# of one statement have the same.
_MOST_REMEMBERED, _FEW_REMEMBERED = 50_000, 1_000


class Decoder(Protocol):
    """What is needed of `wire.codec.RecordCodec`."""

    def split(self, body: bytes) -> RecordFields: ...

    def decode(self, fields: RecordFields) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the recipient's table, as its catalogue describes it."""

    name: str
    kind: ColumnKind
    declared: str  # the database's own name of the type
    not_null: bool = False
    has_default: bool = False
    generated: bool = False
    scale: int | None = None  # digits after the point, of a decimal or a time, where fixed


class Shapes(Protocol):
    """The record schemas that projections are read with; follows the contract in force."""

    def decoder(self, dataset: str, schema_version: int, fields: tuple[str, ...]) -> Decoder: ...

    def types(self, dataset: str, schema_version: int) -> Mapping[str, Type]: ...

    def newest_types(self, dataset: str) -> Mapping[str, Type]: ...


class ContractShapes:
    """Shapes under the contract in force; `replace` it when another comes into force. `former`:
    contracts that were, the newest first, for datasets that left."""

    def __init__(self, contract: Contract, codecs: Codecs, former: Sequence[Contract] = ()) -> None:
        self.replace(contract, codecs, former)

    def replace(self, contract: Contract, codecs: Codecs, former: Sequence[Contract] = ()) -> None:
        self._contracts, self._codecs = (contract, *former), codecs
        self._types: dict[tuple[str, int], dict[str, Type]] = {}

    def decoder(self, dataset: str, schema_version: int, fields: tuple[str, ...]) -> Decoder:
        """Raises KeyError for a field that the schema has not, WireRefused for no such schema."""
        return self._codecs.record_codec(dataset, schema_version, fields)

    def types(self, dataset: str, schema_version: int) -> Mapping[str, Type]:
        """Raises KeyError for a schema that no contract has."""
        shape = (dataset, schema_version)
        if shape not in self._types:
            name = f"{dataset}.v{schema_version}"
            holder = next((c for c in self._contracts if name in c.schemas), self._contracts[0])
            tree = resolve(holder.record_schema(dataset, schema_version))
            self._types[shape] = {field.name: field.type for field in tree.fields}
        return self._types[shape]

    def newest_types(self, dataset: str) -> Mapping[str, Type]:
        known = next((c.datasets[dataset] for c in self._contracts if dataset in c.datasets), None)
        if known is None:
            raise KeyError(dataset)
        return self.types(dataset, known.schema_version)


class MappedTarget:
    """One `receives:` entry of department.yml over the table as it is.

    `columns`: the mapped columns, in the mapping's order; a Write's values are in this order.
    `insert_only`: columns that have a default in the mapping but no field: filled on insert, never
    touched again.
    """

    def __init__(
        self,
        dataset: str,
        receive: Receive,
        key: Sequence[str],
        catalogue: Mapping[str, Column],
        shapes: Shapes,
        field: Callable[[ColumnKind], Callable[[Any], bytes]] | None = None,
        *,
        had_rows: bool = False,
        waits: bool = False,
    ) -> None:
        """`field`: how a value is handed over, for a database that takes bytes (see `form`).
        `had_rows`: before the bus came; `waits`: for the department's yes (see `adoption`). Raises
        SourceRefused where the mapping's default does not fit its column.

        Rows that stay when their records go are in this table what rows from before the bus are in
        another: its own `had_rows` says both."""
        self.dataset, self.table = dataset, receive.table
        self.replaces = receive.replaces is not None
        self._receive, self._shapes = receive, shapes
        self._field_of = {column: field for field, column in receive.columns.items()}
        self.columns = tuple(catalogue[column] for column in receive.columns.values())
        names = [column.name for column in self.columns]
        self.key_positions = tuple(names.index(name) for name in key)
        self._key_fields = tuple(self._field_of[name] for name in key)
        self._cleared = tuple(self._default(c) for c in self.columns)
        self.insert_only = tuple(
            (catalogue[name], self._default(catalogue[name]))
            for name, value in receive.defaults.items()
            if name not in self._field_of and value is not None
        )
        self.had_rows, self.waits = had_rows or receive.on_remove == "mark", waits
        self.has_bound_key = False  # foreign keys of other tables refer to the own key
        # Columns that tell a row from all others and that no mapping names: the primary key.
        self.identity: tuple[Column, ...] = ()
        self.adopts = receive.existing
        self.keeps = had_rows if receive.keeps is None else receive.keeps
        self.on_remove: str = receive.on_remove or ("mark" if had_rows else "delete")
        self.marks = tuple(
            (catalogue[name], self._fitted(catalogue[name], value, "mark"))
            for name, value in receive.mark.items()
        )
        self.match_positions = tuple(
            names.index(name) for name in receive_match(receive, tuple(key)) if name in names
        )
        self._own_codes = {
            field: {bus: own for own, bus in codes.items()}
            for field, codes in receive.values.items()
        }
        self._spelled = {column: form_of(rules) for column, rules in receive.forms.items()}
        self._readers: dict[tuple[int, str], _Reader] = {}
        self._fields = None if field is None else [field(c.kind) for c in self.columns]
        self._forms: dict[tuple[int, tuple[str, ...]], Take] = {}

    def identify(self, primary: Sequence[str], catalogue: Mapping[str, Column]) -> None:
        """`primary`: the columns of the table's primary key."""
        if not any(name in self._field_of for name in primary):
            self.identity = tuple(catalogue[name] for name in primary)

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.columns[at] for at in self.key_positions)

    def is_bus_key(self, position: int) -> bool:
        """Whether the column holds the bus's own key, which no hand ever typed."""
        return self._field_of[self.columns[position].name] == KEY_FIELD

    def cleared(self, position: int) -> Any:
        """What stands in a column whose field is closed."""
        return self._cleared[position]

    def covers_key(self, fields: tuple[str, ...]) -> bool:
        return all(field == KEY_FIELD or field in fields for field in self._key_fields)

    def closed_columns(self, fields: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(
            at
            for at, column in enumerate(self.columns)
            if at not in self.key_positions
            and self._field_of[column.name] not in fields
            and self._field_of[column.name] != KEY_FIELD
        )

    def take(self, received: Received) -> Taken | None:
        if received.record is None or self.waits:
            return None
        shape = received.schema_version, received.fields
        form = self._forms.get(shape)
        if form is None:
            try:
                form = self._forms[shape] = self._form(*shape)
            except (KeyError, WireRefused):
                return None  # no contract has this schema yet
        return form(received.record, received.key)

    def prepare(self, entry: Entry, record: RecordFields | None = None) -> Prepared | Unfit:
        if entry.record is None:
            return Unfit("record: the projection is missing")
        if self.waits:
            return Unfit(WAITS_FOR_JOIN)
        return self.prepare_always(entry, record)

    def prepare_always(self, entry: Entry, record: RecordFields | None = None) -> Prepared | Unfit:
        """As `prepare`, also while the dataset waits; `entry` has a record."""
        shape = (entry.schema_version, entry.fields)
        reader = self._readers.get(shape)
        try:
            if reader is None:
                reader = self._readers[shape] = self._reader(entry)
            decoded = reader.decode(record or reader.split(entry.record or b""))
        except (WireRefused, KeyError):
            return Unfit(f"record: cannot be read under schema version {entry.schema_version}")
        values = list(self._cleared)
        try:
            for at, field, convert in reader.steps:
                value = decoded[field] if field is not None else entry.key.hex()
                if value is None:
                    # A null from the bus is a value; only where the column cannot keep it, the
                    # default is.
                    values[at] = self._cleared[at] if self.columns[at].not_null else None
                else:
                    values[at] = value if convert is None else convert(value)
        except Refusal as refusal:
            return Unfit(f"value: {self.table}.{self.columns[at].name}: {refusal}")
        key = tuple(values[at] for at in self.key_positions)
        if any(value is None for value in key):
            name = self.key_columns[key.index(None)].name
            return Unfit(f"key: {self.table}.{name} would be empty")
        return Prepared(encode_values(key), tuple(values), values_digest(values))

    def own_reading(self, at: int) -> Convert:
        """Own value of a column (not None), as its table has it -> what the bus would write for
        what it says. The function raises Refusal where it cannot be read, or in more ways than one.
        """
        column = self.columns[at]
        field, cleared = self._field_of[column.name], self._cleared[at]
        kind = None if field == KEY_FIELD else self._shapes.newest_types(self.dataset).get(field)
        if kind is None:
            return lambda value: value
        codes, form = self._receive.values.get(field), self._spelled.get(column.name)
        write = self._chain(kind, field, column)
        if codes is not None:
            read = _by_code({**self._receive.also.get(field, {}), **codes})
        else:
            read = own_reader(kind)

        def canonical(value: Any) -> Any:
            if value == cleared:
                return value
            try:
                if form is not None:
                    value = form.read(value)
                found = read(value if isinstance(value, _OWN_KINDS) else as_text(value))
            except Misspelled as misspelled:
                raise Refusal(str(misspelled)) from None
            except Unread:
                raise Refusal("cannot be read as what the bus has there") from None
            if found is None:
                return cleared if column.not_null else None
            return found if write is None else write(found)

        return canonical

    def _form(self, schema_version: int, fields: tuple[str, ...]) -> Take:
        """The short cut for projections of one shape; it takes nothing where a column has no simple
        form."""
        types = self._shapes.types(self.dataset, schema_version)
        steps = [self._step(at, c, types, fields) for at, c in enumerate(self.columns)]
        simple = [step for step in steps if step is not None]
        if len(simple) < len(steps):
            return lambda record, key: None
        return write_form(simple, self.key_positions, self._fields)

    def _step(
        self, at: int, column: Column, types: Mapping[str, Type], names: tuple[str, ...]
    ) -> Step | None:
        field, cleared = self._field_of[column.name], self._cleared[at]
        if field == KEY_FIELD:
            return None
        if field not in names:
            return Step(at, None, cell=cleared)
        kind, place = types[field], names.index(field)
        base = kind.optional[2] if kind.optional is not None else kind
        null = cleared if column.not_null else None
        convert = self._chain(kind, field, column)
        if convert is None and base.kind == "string":
            return Step(at, place, kind, null=null)
        decode = decoder(kind)
        if decode is None:
            return None

        def read(part: bytes) -> Any:
            value = decode(part)
            return value if value is None or convert is None else convert(value)

        remember = 0
        if base.kind in ("enum", "boolean", "int") or field in self._own_codes:
            remember = _MOST_REMEMBERED
        elif base.logical is not None and "timestamp" in base.logical:
            remember = _FEW_REMEMBERED
        return Step(at, place, kind, read, null, remember=remember)

    def _default(self, column: Column) -> Any:
        return self._fitted(column, self._receive.defaults.get(column.name), "default")

    def _fitted(self, column: Column, value: Any, what: str) -> Any:
        try:
            return None if value is None else converter(column.kind, column.scale)(value)
        except Refusal as refusal:
            why = str(refusal)
        raise SourceRefused(
            f"{self.table}.{column.name}: its {what} does not fit the column: {why}",
            mend=f"Change the {what}s of `receives: {self.dataset}` in department.yml",
        )

    def _reader(self, entry: Entry) -> _Reader:
        fields = entry.field_names
        types = self._shapes.types(self.dataset, entry.schema_version)
        steps: list[tuple[int, str | None, Convert | None]] = []
        for at, column in enumerate(self.columns):
            field = self._field_of[column.name]
            if field == KEY_FIELD:
                steps.append((at, None, converter(column.kind)))
            elif field in fields:
                steps.append((at, field, self._chain(types[field], field, column)))
        decoder = self._shapes.decoder(self.dataset, entry.schema_version, fields)
        return _Reader(decoder.split, decoder.decode, tuple(steps))

    def _chain(self, kind: Type, field: str, column: Column) -> Convert | None:
        """Avro value -> neutral -> own code where there is a map -> column; None: as it is."""
        neutral, codes = neutral_of(kind), self._own_codes.get(field)
        convert = converter(column.kind, column.scale)
        form = self._spelled.get(column.name)
        if form is not None:
            return _spelling(neutral, form, convert, is_number=column.kind in _NUMBERS)
        if codes is None:
            if same_in(kind, column.kind):
                return None
            return lambda value: convert(neutral(value))

        def coded(value: Any) -> Any:
            own = codes.get(as_text(neutral(value)))
            if own is None:
                raise Refusal("no own code for this value of the bus")
            return convert(own)

        return coded


# What own values are read from as they are; all else as its one text.
_OWN_KINDS = (str, int, float, bytes)


_NUMBERS = (
    ColumnKind.INTEGER, ColumnKind.REAL, ColumnKind.NUMERIC, ColumnKind.LOOSE_NUMERIC,
)  # fmt: skip


def _spelling(neutral: Convert, form: Form, convert: Convert, *, is_number: bool) -> Convert:
    """Avro value -> as the form spells it -> column. Numbers have no leading zeros."""

    def spelled(value: Any) -> Any:
        try:
            found = form.write(neutral(value))
        except Misspelled as misspelled:
            raise Refusal(str(misspelled)) from None
        if is_number and isinstance(found, str):
            found = found.lstrip("0") or "0"
        return convert(found)

    return spelled


def _by_code(codes: Mapping[str, str]) -> Convert:
    """Own code -> value of the bus."""

    def read(value: Any) -> str:
        found = codes.get(as_text(value).strip())
        if found is None:
            raise Refusal("an own code that the mapping has not")
        return found

    return read


@dataclass(frozen=True, slots=True)
class _Reader:
    """What is to be done with projections of one shape."""

    split: Callable[[bytes], RecordFields]
    decode: Callable[[RecordFields], dict[str, Any]]
    # column, field (None: the key), conversion (None: as it is)
    steps: tuple[tuple[int, str | None, Convert | None], ...]

"""Does a department.yml fit the contract: datasets, fields, codes, keys, and what it may have?

Errors stop the adapter. What only the contract in force can make idle (a dataset that the unit is
not entitled to today) is advice, because the contract changes while the file stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deptbus.contract.advice import may_receive, receivable_fields
from deptbus.contract.department import (
    KEY_FIELD,
    Department,
    Publish,
    Receive,
    receive_key,
    settings_of_rows,
)
from deptbus.contract.draft import Draft
from deptbus.contract.model import Contract, Sharing
from deptbus.contract.own_forms import BadForm, form_of
from deptbus.contract.record_schema import avro_type, column_type, is_nullable
from deptbus.contract.yaml_tree import Place
from deptbus.errors import Problem


def check_department(department: Department, contract: Contract) -> list[Problem]:
    """Everything that keeps this file from being acted on under this contract."""
    unit = contract.unit_by_name.get(department.unit)
    if unit is None:
        return [
            department.problem(
                ("unit",),
                f"unit `{department.unit}` is not in the contract",
                "Write the unit as departments.yml has it",
            )
        ]
    if not department.systems:
        return [department.problem(("systems",), "no system is named", "Name one, such as main")]
    problems: list[Problem] = []
    publisher: dict[str, str] = {}
    for name, system in department.systems.items():
        place: Place = ("systems", name)
        if name not in unit.systems:
            problems.append(
                department.problem(
                    place,
                    f"system `{name}` is not one of the unit in departments.yml",
                    f"Use one of: {', '.join(unit.systems)}",
                )
            )
        for dataset, publish in system.publishes.items():
            here = (*place, "publishes", dataset)
            if dataset in publisher:
                problems.append(
                    department.problem(
                        here,
                        f"`{dataset}` is published by system `{publisher[dataset]}` already",
                        "Publish a dataset from one system only",
                    )
                )
            publisher[dataset] = name
            problems += _publish(department, contract, dataset, publish, here)
        for dataset, receive in system.receives.items():
            here = (*place, "receives", dataset)
            problems += _receive(department, contract, dataset, receive, here)
        problems += _tables(department, name)
    return sorted(problems, key=lambda p: p.line)


def advise_department(department: Department, contract: Contract) -> list[Problem]:
    """Hints: what the file maps and the contract does not give, or gives and the file leaves."""
    unit = contract.unit_by_name.get(department.unit)
    if unit is None:
        return []
    draft = Draft(contract)
    hints: list[Problem] = []
    for name, system in department.systems.items():
        for dataset, receive in system.receives.items():
            if dataset not in contract.datasets:
                continue
            here: Place = ("systems", name, "receives", dataset)
            if not may_receive(draft, unit, dataset):
                hints.append(
                    department.problem(
                        here,
                        f"no rule and no grant brings `{dataset}` to this unit",
                        "Its table stays empty; ask the data office, or remove it",
                    )
                )
                continue
            given = receivable_fields(draft, unit, dataset)
            hints += [
                department.problem(
                    (*here, "columns", field),
                    f"no rule and no grant gives `{field}` of `{dataset}` to this unit",
                    "Its column stays empty; ask the data office, or remove it",
                )
                for field in receive.columns
                if field != KEY_FIELD and field not in given
            ]
            hints += [
                department.problem(
                    (*here, "match", n),
                    f"no rule and no grant gives the field of `{column}` to this unit",
                    "No row can be known by it; ask the data office, or name another column",
                )
                for n, column in enumerate(receive.match)
                if any(c == column and f not in given for f, c in receive.columns.items())
            ]
            hints += _codes_left(department, contract, dataset, receive, here)
    return sorted(hints, key=lambda p: p.line)


def _publish(
    department: Department, contract: Contract, name: str, publish: Publish, place: Place
) -> Iterator[Problem]:
    if name not in contract.datasets:
        yield _unknown_dataset(department, contract, name, place)
        return
    dataset = contract.datasets[name]
    if not contract.may_publish(department.unit, name):
        levels = ", ".join(dataset.levels)
        yield department.problem(
            place,
            f"`{department.unit}` may not publish `{name}`",
            f"Only line {dataset.line} at level {levels} may; receive it instead",
        )
        return
    fields = _fields(contract, name)
    yield from _mapped_fields(department, contract, name, publish.columns, place)
    yield from _values(department, fields, publish.columns, publish.values, place)
    for field, value in publish.constants.items():
        where = (*place, "constants", field)
        if field not in fields:
            yield _unknown_field(department, contract, name, field, where)
        elif field in publish.columns:
            yield department.problem(
                where, f"`{field}` is a column and a constant", "Keep one of the two"
            )
        elif not _is_value(fields[field]["type"], value):
            yield department.problem(
                where, f"the constant is no value of `{field}`", _expected(fields[field]["type"])
            )
    given = publish.columns.keys() | publish.constants.keys()
    for field in dict.fromkeys((*dataset.key, dataset.division)):
        if field not in given:
            yield department.problem(
                (*place, "columns"),
                f"`{field}` is not mapped: it is of the key or the division of `{name}`",
                "Map it to a column (the division may be a constant)",
            )
    for field in dataset.key:
        if field in publish.constants:
            yield department.problem(
                (*place, "constants", field),
                f"`{field}` is of the key and cannot be the same in every row",
                "Map it to a column",
            )
    yield from _behind(department, contract, name, publish, place)
    for field, schema in fields.items():
        needed = not is_nullable(schema["type"]) and "default" not in schema
        if needed and field not in given and field not in (*dataset.key, dataset.division):
            yield department.problem(
                (*place, "columns"),
                f"`{field}` of `{name}` may not be null and is not mapped",
                "Map it to a column, or give it a constant",
            )


def _behind(
    department: Department, contract: Contract, name: str, publish: Publish, place: Place
) -> Iterator[Problem]:
    """Each of the tables behind a view has to lead to the natural key."""
    if publish.encoding is not None and not _is_encoding(publish.encoding):
        yield department.problem(
            (*place, "encoding"),
            f"`{publish.encoding}` is no encoding of text that is known",
            "Write gb18030, which has GBK and GB 2312 in it, or big5",
        )
    keys = {publish.columns[f] for f in contract.datasets[name].key if f in publish.columns}
    for table, behind in publish.tables.items():
        where = (*place, "tables", table)
        if bool(behind.key) == bool(behind.through):
            yield department.problem(
                where,
                f"table `{table}` has neither or both of `key` and `through`",
                "Say which of its columns are the key, or through which table it leads there",
            )
        elif behind.key and behind.key.keys() != keys:
            yield department.problem(
                (*where, "key"),
                f"`key` of table `{table}` does not name the columns of the natural key",
                f"Give a column for each of: {', '.join(sorted(keys))}",
            )
        elif behind.through and not (behind.on and behind.through in publish.tables):
            yield department.problem(
                where,
                f"table `{table}` leads to no other table of this view",
                "Name one of `tables:` in `through`, and in `on` the columns that are equal",
            )
        elif behind.through and not _has_way(publish, table):
            yield department.problem(
                where, f"table `{table}` leads in a circle", "Let one of the tables have the key"
            )


def _is_encoding(name: str) -> bool:
    try:
        return "a".encode(name) == b"a"
    except LookupError:
        return False


def _has_way(publish: Publish, table: str) -> bool:
    seen: set[str] = set()
    while table in publish.tables and table not in seen:
        seen.add(table)
        if publish.tables[table].key:
            return True
        table = publish.tables[table].through
    return False


def _receive(
    department: Department, contract: Contract, name: str, receive: Receive, place: Place
) -> Iterator[Problem]:
    if name not in contract.datasets:
        yield _unknown_dataset(department, contract, name, place)
        return
    yield from _mapped_fields(department, contract, name, receive.columns, place, {KEY_FIELD})
    fields = _fields(contract, name)
    yield from _values(department, fields, receive.columns, receive.values, place)
    for field, codes in receive.values.items():
        for code in _twice(codes):
            yield department.problem(
                (*place, "values", field),
                f"two own codes of `{field}` mean `{code}`: which one is to be written?",
                "Keep one own code for each value of the bus",
            )
    for column in _twice(receive.columns):
        yield department.problem(
            (*place, "columns"), f"column `{column}` holds two fields", "Give each its own column"
        )
    yield from _beside(department, contract, name, receive, place)
    columns = set(receive.columns.values())
    for n, column in enumerate(receive.key):
        if column not in columns:
            yield department.problem(
                (*place, "key", n),
                f"column `{column}` of the key is none of the mapped ones",
                "Name columns that stand in `columns`",
            )
    yield from _existing(department, receive, place)
    if not receive_key(receive, contract.datasets[name].key):
        yield department.problem(
            place,
            f"rows of `{name}` have no key here",
            f"Map {', '.join(contract.datasets[name].key)}, or `{KEY_FIELD}`, or name `key`",
        )


def _beside(
    department: Department, contract: Contract, name: str, receive: Receive, place: Place
) -> Iterator[Problem]:
    """Further tables of a received dataset."""
    for setting in settings_of_rows(receive):
        if receive.tables:
            yield department.problem(
                (*place, setting),
                f"`{setting}` cannot be had with `tables`: rows of several tables are not kept",
                "Take it away, or receive the dataset into one table",
            )
    mapped = set(receive.columns.values())
    seen = set(receive.columns)
    for table, beside in receive.tables.items():
        where = (*place, "tables", table)
        yield from _mapped_fields(department, contract, name, beside.columns, where)
        for field in beside.columns:
            if field in seen:
                yield department.problem(
                    (*where, "columns", field),
                    f"`{field}` goes into two tables",
                    "Give each field one column",
                )
            seen.add(field)
        if not set(beside.on.values()) <= mapped:
            yield department.problem(
                (*where, "on"),
                f"`on` of table `{table}` names columns of `{receive.table}` that are not mapped",
                f"Use one of: {', '.join(sorted(mapped))}",
            )
        if set(beside.on) & set(beside.columns.values()):
            yield department.problem(
                (*where, "columns"), "a column of `on` holds a field", "Give it another column"
            )


def _existing(department: Department, receive: Receive, place: Place) -> Iterator[Problem]:
    """How own values are spelled, how rows that were here before are known, and what becomes of
    those whose record goes."""
    field_of = {column: field for field, column in receive.columns.items()}
    for column, rules in receive.forms.items():
        where = (*place, "forms", column)
        try:
            form_of(rules)
        except BadForm as bad:
            yield department.problem(where, f"`{rules}` is no rule", f"Write {bad}")
        if field_of.get(column, KEY_FIELD) == KEY_FIELD or field_of[column] in receive.values:
            yield department.problem(
                where,
                f"column `{column}` holds no field of the record, or one with codes",
                "Give a form to columns that stand in `columns` and have no `values`",
            )
    for field, codes in receive.also.items():
        for own, bus in codes.items():
            if bus not in receive.values.get(field, {}).values():
                yield department.problem(
                    (*place, "also", field, own),
                    f"`values` of `{field}` has no own code for what `{own}` means",
                    "Add the one that is to be written to `values`",
                )
    for n, column in enumerate(receive.match):
        if field_of.get(column, KEY_FIELD) == KEY_FIELD:
            yield department.problem(
                (*place, "match", n),
                f"column `{column}` of `match` holds no field of the record",
                "Name columns that stand in `columns`, for fields that the unit is given",
            )
    for column in receive.mark:
        if column in field_of:
            yield department.problem(
                (*place, "mark", column),
                f"column `{column}` is filled by the bus and cannot be a mark",
                "Name a column of your own",
            )
    if receive.mark and receive.on_remove not in (None, "mark"):
        yield department.problem(
            (*place, "mark"),
            f"`mark` says nothing beside `on_remove: {receive.on_remove}`",
            "Write `on_remove: mark`, or take `mark` away",
        )


def _tables(department: Department, system_name: str) -> Iterator[Problem]:
    """One table is one thing: what is received into it is neither published nor received twice."""
    system = department.systems[system_name]
    users: dict[str, str] = {}
    for kind, mappings in (("receives", system.receives), ("publishes", system.publishes)):
        for dataset, mapping in mappings.items():
            beside = mapping.tables if kind == "receives" else ()
            for name in (mapping.table, *beside):
                table = name.strip('"').casefold()
                if table in users and (kind == "receives" or users[table] == dataset):
                    yield department.problem(
                        ("systems", system_name, kind, dataset, "table"),
                        f"table `{name}` is used for `{users[table]}` already",
                        "Give each received dataset a table of its own",
                    )
                users.setdefault(table, dataset)


def _mapped_fields(
    department: Department,
    contract: Contract,
    name: str,
    columns: dict[str, str],
    place: Place,
    beside: set[str] = frozenset(),  # type: ignore[assignment]
) -> Iterator[Problem]:
    fields = _fields(contract, name)
    if not columns:
        yield department.problem(
            (*place, "columns"), "no column is mapped", "Write `field: column` lines"
        )
    for field, column in columns.items():
        where = (*place, "columns", field)
        if field not in fields and field not in beside:
            yield _unknown_field(department, contract, name, field, where)
        if not column.strip():
            yield department.problem(where, f"`{field}` has no column", "Name the own column")


def _values(
    department: Department,
    fields: dict[str, dict[str, Any]],
    columns: dict[str, str],
    values: Any,
    place: Place,
) -> Iterator[Problem]:
    for field, codes in values.items():
        where = (*place, "values", field)
        if field not in columns or field not in fields:
            yield department.problem(
                where, f"`{field}` has codes and no column", "Map it in `columns`, or remove it"
            )
            continue
        for own, bus in codes.items():
            if not _is_value(fields[field]["type"], bus):
                yield department.problem(
                    (*where, own),
                    f"what own code `{own}` means is no value of `{field}`",
                    _expected(fields[field]["type"]),
                )


def _codes_left(
    department: Department, contract: Contract, name: str, receive: Receive, place: Place
) -> Iterator[Problem]:
    """Symbols for which no own code is given are written as the bus has them."""
    fields = _fields(contract, name)
    for field, codes in receive.values.items():
        kind = column_type(fields[field]["type"]) if field in fields else None
        if isinstance(kind, dict) and kind["type"] == "enum":
            left = [symbol for symbol in kind["symbols"] if symbol not in codes.values()]
            if left:
                yield department.problem(
                    (*place, "values", field),
                    f"`{field}` has no own code for {', '.join(left)}",
                    "Add own codes; rows with such a value are parked",
                )


def _unknown_dataset(
    department: Department, contract: Contract, name: str, place: Place
) -> Problem:
    return department.problem(
        place, f"dataset `{name}` is not in the contract", f"One of: {', '.join(contract.datasets)}"
    )


def _unknown_field(
    department: Department, contract: Contract, name: str, field: str, place: Place
) -> Problem:
    if contract.datasets[name].sharing.get(field) is Sharing.NOT_SHARED:
        return department.problem(
            place,
            f"field `{field}` of `{name}` is not_shared: it never leaves its department",
            "Remove it",
        )
    return department.problem(
        place,
        f"field `{field}` is not in the schema of `{name}`",
        f"One of: {', '.join(contract.field_names(name))}",
    )


def _fields(contract: Contract, name: str) -> dict[str, dict[str, Any]]:
    return {field["name"]: field for field in contract.record_schema(name)["fields"]}


def _twice(mapping: dict[str, str]) -> list[str]:
    values = list(mapping.values())
    return sorted({value for value in values if values.count(value) > 1})


def _is_value(field_type: Any, value: Any) -> bool:
    """Could this be a value of the field? Text is judged for null, enums and booleans only: the
    adapter reads numbers, dates and decimals from text as it does with a column's."""
    if value is None:
        return is_nullable(field_type)
    kind = column_type(field_type)
    if isinstance(kind, dict) and kind["type"] == "enum":
        return value in kind["symbols"]
    name = avro_type(kind)
    if isinstance(value, bool):
        return name == "boolean"
    if name == "boolean":
        return value in ("true", "false")
    return True


def _expected(field_type: Any) -> str:
    kind = column_type(field_type)
    if isinstance(kind, dict) and kind["type"] == "enum":
        return f"Use one of: {', '.join(kind['symbols'])}"
    if avro_type(kind) == "boolean":
        return "Use true or false"
    return "Write a value of its type; null only where the field may be null"

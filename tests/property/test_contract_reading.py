"""A contract survives the bus unchanged, and no file, however broken, breaks its reader."""

from __future__ import annotations

import copy
import json
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from deptbus.contract.bundled import bundled
from deptbus.contract.load import load, read
from deptbus.contract.model import Contract, Grant, Rule, Unit
from deptbus.contract.schema_lint import lint_schema
from deptbus.contract.yaml_tree import parse_tree

BUNDLED = load(bundled())
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
DAYS = st.integers(0, 20_000).map(lambda n: date(2000, 1, 1) + timedelta(days=n))

GRANTS = st.builds(
    Grant,
    grant=NAMES,
    unit=st.sampled_from([u.unit for u in BUNDLED.units]),
    dataset=st.sampled_from(sorted(BUNDLED.datasets)),
    fields=st.lists(NAMES, max_size=4).map(tuple),
    purpose=WORDS,
    territory=st.sampled_from(sorted(BUNDLED.territories)),
    starts=DAYS,
    until=DAYS,
)
UNITS = st.builds(
    Unit, unit=NAMES, title=WORDS, title_zh=WORDS, owner=WORDS, systems=st.tuples(NAMES)
)
RULES = st.builds(
    Rule,
    rule=NAMES,
    direction=st.sampled_from(["horizontal", "upward", "downward", "return"]),
    lines=st.lists(NAMES, max_size=3).map(tuple),
    fields=st.lists(NAMES, max_size=3).map(tuple),
)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    datasets = {
        name: dataset.model_copy(
            update={
                "title": draw(WORDS),
                "receivers": tuple(draw(st.lists(RULES, max_size=2))),
                "freshness_hours": draw(st.floats(0.01, 1000)),
                "retention_hours": draw(st.integers(1, 1000)),
            }
        )
        for name, dataset in BUNDLED.datasets.items()
    }
    return BUNDLED.model_copy(
        update={
            "datasets": datasets,
            "grants": tuple(draw(st.lists(GRANTS, max_size=4))),
            "units": tuple(draw(st.lists(UNITS, max_size=3))),
            "territories": draw(st.dictionaries(st.from_regex(r"[0-9]{2}", fullmatch=True), WORDS)),
            "partitions": draw(st.integers(1, 256)),
        }
    )


@settings(max_examples=examples(25), deadline=None)
@given(contract=contracts())
def test_a_contract_survives_the_bus(contract: Contract) -> None:
    text = contract.to_json()
    again = Contract.from_json(text)
    assert again == contract
    assert again.to_json() == text
    assert Contract.from_json(text.encode()).digest == contract.digest


def _shuffled(value: Any) -> Any:
    """The same JSON value with the members of every object in the opposite order."""
    if isinstance(value, dict):
        return {key: _shuffled(value[key]) for key in reversed(value)}
    return [_shuffled(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=examples(25), deadline=None)
@given(one=contracts(), two=contracts())
def test_digests_are_equal_exactly_when_contracts_are(one: Contract, two: Contract) -> None:
    assert (one.digest == two.digest) == (one == two)
    reordered = Contract.from_json(json.dumps(_shuffled(json.loads(one.to_json()))))
    assert reordered.digest == one.digest


def test_the_digest_does_not_depend_on_the_spelling_of_the_files(tmp_path: Path) -> None:
    """Comments, quotes and the order of settings are not content."""
    for name in ("topics.yml", "departments.yml", "grants.yml"):
        tree, _ = parse_tree(name, (bundled() / name).read_text(encoding="utf-8"))
        plain = json.loads(json.dumps(tree.value))
        (tmp_path / name).write_text(
            yaml.safe_dump(
                _shuffled(plain), allow_unicode=True, sort_keys=False, default_style='"'
            ),
            encoding="utf-8",
        )
    (tmp_path / "schemas").symlink_to(bundled() / "schemas")
    assert load(tmp_path).digest == BUNDLED.digest


FILES = {
    path.relative_to(bundled()).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        *(bundled() / name for name in ("topics.yml", "departments.yml", "grants.yml")),
        *sorted((bundled() / "schemas").glob("*.avsc"))[:2],
    ]
}
JUNK = st.one_of(
    st.sampled_from(
        ["", "null", "[]", "{}", "- x", ": ", "&a", "*a", "33", "a: [", "'", '"', "\t"]
    ),
    st.text(max_size=6),
)


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_no_broken_file_breaks_the_reader(data: st.DataObject) -> None:
    files = dict(FILES)
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(files)))
        lines = files[name].split("\n")
        at = data.draw(st.integers(0, len(lines) - 1))
        line, junk = lines[at], data.draw(JUNK)
        cut = data.draw(st.integers(0, len(line)))
        lines[at] = data.draw(
            st.sampled_from([junk, line[:cut] + junk + line[cut:], line[:cut] + junk, line * 2])
        )
        files[name] = "\n".join(lines)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
        draft, problems = read(Path(folder))
    for problem in problems:
        assert problem.what
        assert problem.mend
        assert problem.line <= files.get(Path(problem.file).name, "\n" * 9999).count("\n") + 1
    if not problems:
        assert Contract.from_json(draft.contract.to_json()) == draft.contract


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 70_000),
        st.floats(allow_nan=False),
        st.sampled_from(
            ["null", "int", "record", "enum", "array", "fixed", "R", "", "a.b", "decimal"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "name",
                    "namespace",
                    "fields",
                    "symbols",
                    "items",
                    "values",
                    "size",
                    "logicalType",
                    "precision",
                    "scale",
                    "default",
                ]
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=30,
)


@settings(max_examples=examples(200), deadline=None)
@given(schema=JSON)
def test_any_json_is_linted_without_breaking(schema: Any) -> None:
    before = copy.deepcopy(schema)
    assert isinstance(lint_schema(schema), list)
    assert schema == before

"""docs/contract.md against the models: every setting is described, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from contract_small import write
from pydantic import BaseModel

from deptbus.connection import Connection
from deptbus.contract.department import Department, Publish, Receive, System, load_department
from deptbus.contract.department_check import advise_department, check_department
from deptbus.contract.load import load, read
from deptbus.contract.model import (
    Calendar,
    Contract,
    Dataset,
    Duty,
    Grant,
    Line,
    Proofs,
    Rule,
    TwoPeople,
    Unit,
)
from deptbus.department import folder_files, folder_import, folder_tables, publication
from deptbus.wire.guard import TOO_LARGE

DOCS = Path(__file__).parents[3] / "docs" / "contract.md"
TEXT = DOCS.read_text(encoding="utf-8")

# heading -> the settings that its table has to describe
MODELS: dict[str, type[BaseModel]] = {
    "Proofs": Proofs,
    "A dataset": Dataset,
    "A rule": Rule,
    "A line": Line,
    "A unit": Unit,
    "A duty contact": Duty,
    "The calendar": Calendar,
    "Two people": TwoPeople,
    "A grant": Grant,
    "department.yml": Department,
    "A system": System,
    "A published dataset": Publish,
    "A received dataset": Receive,
    "Reaching the bus": Connection,
}
TOPS = {
    "topics.yml": {"partitions", "proofs", "datasets"},
    "departments.yml": {"territories", "lines", "units", "calendar", "office"},
    "grants.yml": {"grants", "two_people"},
}
WANTED = {heading: set(model.model_fields) for heading, model in MODELS.items()} | TOPS


def section(heading: str) -> str:
    found = re.search(rf"^##+ {re.escape(heading)}$(.*?)(?=^##|\Z)", TEXT, re.M | re.S)
    assert found, f"no section `{heading}`"
    return found[1]


def table(heading: str) -> dict[str, list[str]]:
    """setting -> the other cells of its line in the first table that begins with `setting`."""
    body = section(heading).partition("| setting |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", body, re.M)
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in rows}


@pytest.mark.parametrize(
    ("heading", "setting"),
    [(heading, setting) for heading, settings in WANTED.items() for setting in sorted(settings)],
)
def test_every_setting_is_described(heading: str, setting: str) -> None:
    described = table(heading)
    assert setting in described
    assert len(described[setting][-1]) > 10


@pytest.mark.parametrize("heading", WANTED)
def test_every_described_setting_exists(heading: str) -> None:
    assert set(table(heading)) == WANTED[heading]


def test_the_file_level_settings_are_those_of_the_contract() -> None:
    assert set().union(*TOPS.values()) | {"schemas"} == set(Contract.model_fields)


@pytest.mark.parametrize("heading", [h for h in MODELS if h not in ("A line", "A grant")])
def test_defaults_are_the_real_ones(heading: str) -> None:
    """A setting is documented without a default exactly when it is required."""
    for name, field in MODELS[heading].model_fields.items():
        told = table(heading)[name][0]
        if name == "secret_file":
            assert told == "`key.secret`"
        elif field.is_required():
            assert told == "", name
        elif field.default in (None, (), {}):
            assert told in ("none", "see right", "the system's") or told.startswith("all"), name
        else:
            plain = str(field.default).lower() if field.annotation is bool else field.default
            if isinstance(plain, tuple):
                plain = "[" + ", ".join(plain) + "]"
            if isinstance(plain, BaseModel):
                plain = "{" + ", ".join(f"{k}: {v}" for k, v in plain) + "}"
            assert told == f"`{plain}`", name


def test_every_reason_of_parking_is_told() -> None:
    told = set(re.findall(r"^\| `([a-z_]+)` \|", section("Parked rows"), re.M))
    constants = {
        value
        for name, value in vars(publication).items()
        if name in ("NO_KEY", "NOT_TEXT", "UNKNOWN_CODE", "BAD_VALUE", "MISSING", "DUPLICATE")
    }
    assert len(constants) == 6
    assert told == constants | set(publication.CHECK_REASONS.values()) | {TOO_LARGE}


def test_every_ending_word_and_folder_of_a_drop_folder_is_told() -> None:
    text = section("A folder")
    words = {*folder_import._DELETES, *folder_import._UPSERTS} - {""}
    marks = {*folder_files.ENDINGS, ".changes", ".tmp", ".part", ".crdownload", folder_import.OP}
    for word in {*words, *marks, *folder_import.GIVEN_BACK}:
        assert f"`{word}`" in text, word
    for name in folder_tables.FOLDERS:
        assert f"{name}/" in text


def example() -> dict[str, str]:
    """The files of the worked example: a path in backticks, then its block."""
    body = section("Worked example")
    return dict(re.findall(r"^`([^`\n]+)`\n\n```(?:yaml|json)\n(.*?)```$", body, re.M | re.S))


def test_the_worked_example_is_right_as_it_stands(tmp_path: Path) -> None:
    files = example()
    assert len(files) == 6
    write(tmp_path, files)
    contract = load(tmp_path / "contract")
    assert [u.unit for u in contract.units] == [
        "city_management@330106",
        "town@330106109",
    ]
    for name in ("city_management", "town"):
        department = load_department(tmp_path / "data" / name / "department.yml", {})
        assert check_department(department, contract) == []
        assert advise_department(department, contract) == []
    assert read(tmp_path / "contract")[1] == []


def script() -> str:
    found = re.search(r"```python\n(.*?)```", section("Reading a topic without deptbus"), re.S)
    assert found
    return found[1]


def test_the_reader_has_ten_lines_and_needs_nothing_of_ours() -> None:
    lines = script().splitlines()
    assert len(lines) == 10
    imported = {
        name.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(script()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {"io", "json", "sys", "uuid", "confluent_kafka", "fastavro"}

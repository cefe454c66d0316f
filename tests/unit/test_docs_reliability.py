"""docs/reliability.md names tests, commands and words of the log that there are, fault by fault."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from deptbus.cli.main import NOUNS, load_noun

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"
HEADS = ["fault", "what people see", "what happens by itself", "what the operator does", "test"]
SECTION = re.compile(r"^## (\d+)\. .*?\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"\[(test_\w+)\]\(\.\./(tests/[\w./]+\.py)\)")
COMMAND = re.compile(r"`deptbus ([a-z][a-z ]*[a-z])")
TARGET = re.compile(r"`make ([a-z]+)")
EVENT = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")


def rows() -> list[tuple[str, list[str]]]:
    """(number of the scenario, the cells of one fault), head and rule of each table left out."""
    found = []
    for number, text in SECTION.findall(DOCUMENT.read_text(encoding="utf-8")):
        lines = [line for line in text.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        assert cells[0] == HEADS, number
        found += [(number, row) for row in cells[2:]]
    return found


ROWS = rows()


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def is_command(words: str) -> bool:
    noun, *more = words.split()
    if noun not in NOUNS or not NOUNS[noun].is_group:
        return noun in NOUNS
    group = load_noun(noun, NOUNS[noun])
    return more[0] in group.commands if more else group.invoke_without_command


def test_every_scenario_has_its_faults() -> None:
    assert sorted({number for number, _ in ROWS}) == list("12345678")
    assert len(ROWS) > 40


@pytest.mark.parametrize(("number", "row"), ROWS, ids=lambda x: x if isinstance(x, str) else x[0])
def test_a_fault_says_everything_and_names_a_test_that_there_is(
    number: str, row: list[str]
) -> None:
    assert len(row) == len(HEADS)
    assert all(row)
    tests = TEST.findall(row[-1])
    assert tests, "it has no test"
    for test, file in tests:
        assert (ROOT / file).is_file(), file
        assert test in functions_of(file), f"{file}::{test}"


def test_every_scenario_of_the_torture_has_its_row() -> None:
    """Each but `calm`, in which nothing is broken."""
    modules = _assigned(ROOT / "tests" / "torture" / "scenario.py", "MODULES")
    assert "kills" in modules
    named = {
        name
        for _, row in ROWS
        for name in re.findall(r"\(\.\./tests/torture/test_torture\.py\) with `(\w+)`", row[-1])
    }
    assert named == set(modules) - {"calm"}


def _assigned(file: Path, name: str) -> tuple[str, ...]:
    """The value of a constant, read without importing what needs a bus."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            found: tuple[str, ...] = ast.literal_eval(node.value)
            return found
    raise AssertionError(name)


def test_every_command_and_target_is_one_that_there_is() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    commands = COMMAND.findall(text)
    assert len(commands) > 10
    assert [words for words in commands if not is_command(words)] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in TARGET.findall(text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_word_of_the_log_is_one_that_is_logged() -> None:
    sources = (ROOT / "src" / "deptbus").rglob("*.py")
    said = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    events = {event for _, row in ROWS for cell in row[:-1] for event in EVENT.findall(cell)}
    assert len(events) > 10
    assert {event for event in events if f'"{event}"' not in said} == set()


def test_a_row_that_names_no_test_or_no_command_is_seen() -> None:
    assert not is_command("department mend")
    assert not is_command("wonder")
    assert "test_that_there_is_not" not in functions_of("tests/unit/test_docs_reliability.py")
    assert TEST.findall("[test_x](../tests/unit/test_y.py)") == [("test_x", "tests/unit/test_y.py")]

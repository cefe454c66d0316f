"""What a message tells a person to type, exists: commands, options, sections of the documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deptbus.cli.main import NOUNS, load_noun

ROOT = Path(__file__).parents[3]
QUOTED = re.compile(r"`deptbus ((?!\.\.\.)[^`]*)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
SECTION = re.compile(r"(docs/\w+\.md), section '([^']+)'")
GAP = "GAP"  # stands for what a format string fills in


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every string literal, format strings with `GAP` where a value goes."""
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else GAP for p in node.values]
            inner |= {id(p) for p in node.values}
            yield node.lineno, "".join(map(str, parts))
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner
        ):
            yield node.lineno, node.value


def sources() -> dict[str, ast.Module]:
    folder = ROOT / "src" / "deptbus"
    return {
        str(path.relative_to(folder)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.py"))
    }


SOURCES = sources()
COMMANDS = sorted(
    {
        (f"{name}:{line}", " ".join(command.split()))
        for name, tree in SOURCES.items()
        for line, text in texts(tree)
        for command in QUOTED.findall(text)
    }
)
MENDS = [
    (f"{name}:{node.value.lineno}", text)
    for name, tree in SOURCES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.keyword) and node.arg == "mend"
    for _, text in texts(node.value)
]


def options_of(command) -> set[str]:
    named = {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
    return named | {"--help", "-h"}


def parsers() -> dict[str, object]:
    found: dict[str, object] = {}
    for name, noun in NOUNS.items():
        found |= parsers_of(name, load_noun(name, noun))
    return found


def parsers_of(name: str, command) -> dict[str, object]:
    found = {name: command}
    for verb, one in getattr(command, "commands", {}).items():
        found |= parsers_of(f"{name} {verb}", one)
    return found


PARSERS = parsers()


def wrong(said: str) -> str | None:
    """Why nobody could type `deptbus SAID`; None when somebody could. Values may be left out."""
    noun, *words = said.split() or [""]
    if noun == "--version":
        return None
    if noun not in NOUNS:
        return f"there is no `deptbus {noun}`"
    command, name = PARSERS[noun], noun
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = f"{name} {words.pop(0)}"
        if name not in PARSERS:
            return f"there is no `deptbus {name}`"
        command = PARSERS[name]
    unknown = [w for w in words if w.startswith("-") and w not in options_of(command)]
    return f"it has no {unknown[0]}" if unknown else None


def test_there_is_something_to_look_at() -> None:
    assert len(COMMANDS) > 20
    assert len(MENDS) > 80


@pytest.mark.parametrize(("place", "said"), COMMANDS)
def test_a_command_that_is_quoted_can_be_typed(place: str, said: str) -> None:
    assert wrong(said) is None, place


@pytest.mark.parametrize(("place", "mend"), MENDS)
def test_an_option_that_a_mend_names_is_one_of_some_command(place: str, mend: str) -> None:
    every = set().union(*map(options_of, PARSERS.values()))
    assert set(OPTION.findall(mend)) <= every, place


@pytest.mark.parametrize(("place", "mend"), [m for m in MENDS if SECTION.search(m[1])])
def test_a_section_that_a_mend_names_is_there(place: str, mend: str) -> None:
    for document, heading in SECTION.findall(mend):
        text = (ROOT / document).read_text(encoding="utf-8")
        assert re.search(rf"^#+ {re.escape(heading)}$", text, re.M), place


@pytest.mark.parametrize(
    "said", ["", "departments", "department instal", "up --embeded", "topics apply --yes"]
)
def test_what_cannot_be_typed_is_found(said: str) -> None:
    assert wrong(said)

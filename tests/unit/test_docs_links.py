"""The documents: relative links lead somewhere, and both READMEs tell people to type the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from deptbus.cli.main import NOUNS, load_noun

ROOT = Path(__file__).parents[2]
LEFT_OUT = {"node_modules", "build", "dist"}
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(p.startswith(".") or p in LEFT_OUT for p in path.relative_to(ROOT).parts)
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)
READMES = ("README.md", "README.zh.md")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))


def anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    plain = [h.lower().replace("`", "") for h in re.findall(r"^#+ (.+)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", h).strip().replace(" ", "-") for h in plain}


def links(path: Path) -> list[str]:
    found = LINK.findall(without_code(path.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def test_the_documents_are_found() -> None:
    assert {*READMES, "DESIGN.md", "docs/contract.md", "docs/cli.md"} <= set(
        map(name_of, DOCUMENTS)
    )
    assert sum(len(links(path)) for path in DOCUMENTS) > 15


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for link in links(path):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def blocks(readme: str) -> list[list[str]]:
    """Lines of each block, those that go on behind a backslash as one."""
    text = (ROOT / readme).read_text(encoding="utf-8").replace("\\\n", " ")
    return [block.splitlines() for block in BLOCK.findall(text)]


def commands(readme: str) -> list[list[str]]:
    """Of each block the lines that are typed, without what follows `#`."""
    return [
        [shlex.join(shlex.split(line[2:], comments=True)) for line in block if line[:2] == "$ "]
        for block in blocks(readme)
    ]


def test_both_readmes_have_the_same_commands_in_the_same_blocks() -> None:
    english, chinese = map(commands, READMES)
    assert english == chinese
    assert sum(map(len, english)) > 8


def test_both_readmes_show_the_same_output() -> None:
    english, chinese = (
        [[line for line in block if line[:2] != "$ "] for block in blocks(readme)]
        for readme in READMES
    )
    assert english == chinese


@pytest.mark.parametrize("readme", READMES)
def test_every_command_of_a_readme_is_one_that_the_command_line_takes(readme: str) -> None:
    ours = [line for block in commands(readme) for line in block if line.startswith("deptbus ")]
    assert ours
    for line in ours:
        _, noun, *words = shlex.split(line)
        command = load_noun(noun, NOUNS[noun])
        if NOUNS[noun].is_group and not words[0].startswith("-"):
            command = command.commands[words.pop(0)]
        command.make_context(noun, words)

"""docs/cli.md names every command and every option, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deptbus.cli.main import NOUNS, load_noun

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"
SECTION = re.compile(r"^## (deptbus [a-z ]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"`(--?[a-z][a-z-]*)")


def commands() -> dict[str, object]:
    """`deptbus noun verb` -> the parser's command."""
    found = {}
    for name, noun in NOUNS.items():
        command = load_noun(name, noun)
        found |= commands_of(f"deptbus {name}", command)
    return found


def commands_of(name: str, command) -> dict[str, object]:
    """The command itself where it does something, and all below it."""
    below = getattr(command, "commands", {})
    does = not below or command.invoke_without_command
    found = {name: command} if does else {}
    for verb, one in below.items():
        found |= commands_of(f"{name} {verb}", one)
    return found


COMMANDS = commands()


def sections() -> dict[str, str]:
    return dict(SECTION.findall(DOCUMENT.read_text(encoding="utf-8")))


def options_of(command) -> set[str]:
    return {
        option
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False)
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option not in ("--help", "-h")
    }


def documented_options(text: str) -> set[str]:
    """Of the first column of the table."""
    cells = (line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `"))
    return {option for cell in cells for option in OPTION.findall(cell)}


def test_every_command_has_its_section_and_no_section_is_left_over():
    assert set(sections()) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_table_and_none_that_there_is_not(name):
    assert documented_options(sections().get(name, "")) == options_of(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_names_it_and_only_options_that_there_are(name):
    examples = re.findall(r"```sh\n(.*?)```", sections().get(name, ""), re.DOTALL)
    assert examples
    for line in "".join(examples).splitlines():
        assert line.startswith(name)
        used = set(re.findall(r"(?<= )--?[a-z][a-z-]*", line))
        assert used <= options_of(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_every_command_explains_itself(name):
    command = COMMANDS[name]
    assert command.help
    assert all(getattr(p, "help", None) for p in command.params)


@pytest.mark.parametrize("name", NOUNS)
def test_the_line_of_a_noun_is_that_of_its_module(name):
    from importlib import import_module

    assert import_module(f"deptbus.cli.{NOUNS[name].module}").app.info.help == NOUNS[name].help

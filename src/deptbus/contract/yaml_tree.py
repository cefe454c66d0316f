"""Reads a YAML file that a person wrote into plain values, and remembers the line of every one.

Every scalar stays the text that was typed (`Text`); what type it has to be is the model's affair.
So `330106` is a code and not a number, `no` is a department's own code and not False, and
`2027-12-31` is a date only where a date is asked for: none of YAML 1.1's guesses gets in the way.
A plain empty value, `~` and `null` are None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deptbus.errors import Problem

MAX_BYTES = 4 * 1024 * 1024
# Aliases may repeat a part; a file that grows beyond this through them is a bomb, not a contract.
MAX_NODES = 300_000
MAX_DEPTH = 20

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Step = str | int
Place = tuple[Step, ...]


class Text(str):
    """A scalar as typed; `plain` is False when it stood in quotes or in a block."""

    __slots__ = ("plain",)
    plain: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """The values of one file and their lines. `lines[()]` is the first line of the document."""

    file: str
    value: Any = None
    lines: Mapping[Place, int] = field(default_factory=dict)

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest place around it that is in the file."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 0)

    def problem(self, place: Place, what: str, mend: str) -> Problem:
        return Problem(self.file, self.line(place), what, mend)


def read_text(path: Path) -> tuple[str, list[Problem]]:
    """The text of a file, or why there is none: missing, no rights, too large, not UTF-8."""
    file = str(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return "", [Problem(file, 0, "the file is missing", "Create it; see docs/contract.md")]
    except OSError as error:
        return "", [Problem(file, 0, f"cannot be read: {error.strerror}", "Mend its rights")]
    if len(raw) > MAX_BYTES:
        return "", [Problem(file, 0, f"the file is larger than {MAX_BYTES} bytes", "Shorten it")]
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return "", [Problem(file, line, "not UTF-8 text", "Save the file in the encoding UTF-8")]


def read_tree(path: Path) -> tuple[Tree, list[Problem]]:
    """Values and lines of a YAML file; on any problem the value is None or lacks the bad parts."""
    text, problems = read_text(path)
    if problems:
        return Tree(str(path)), problems
    return parse_tree(str(path), text)


def parse_tree(file: str, text: str) -> tuple[Tree, list[Problem]]:
    try:
        _refuse_deep(text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 0
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        return Tree(file), [
            Problem(file, line, f"not valid YAML: {reason}", "Mend indentation, colons and quotes")
        ]
    except yaml.YAMLError:  # a ReaderError: its position is in bytes or characters, by the loader
        bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
        line = text.count("\n", 0, bad.start()) + 1 if bad is not None else 0
        return Tree(file), [
            Problem(file, line, "not valid YAML: a control character", "Remove that character")
        ]
    except _TooLargeError as error:
        return Tree(file), [Problem(file, error.line, str(error), "Flatten the file")]
    if root is None:
        return Tree(file), [_empty(file)]
    builder = _Builder(file)
    try:
        value = builder.build(root, ())
    except _TooLargeError as error:
        return Tree(file), [Problem(file, 0, str(error), "Write it without anchors and aliases")]
    if value is None and not builder.problems:
        return Tree(file), [_empty(file)]
    return Tree(file, value, builder.lines), builder.problems


def _empty(file: str) -> Problem:
    return Problem(file, 1, "the file is empty", "Fill it in; see docs/contract.md")


class _TooLargeError(Exception):
    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.line = line


def _refuse_deep(text: str) -> None:
    """Composing recurses in C and would overrun the stack; the event stream does not recurse."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise _TooLargeError("nested far too deep", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Builder:
    """Walks PyYAML's nodes once: values, lines, and keys that stand twice."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Place, int] = {}
        self.problems: list[Problem] = []
        self._nodes = 0

    def build(self, node: yaml.Node, place: Place) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooLargeError("the file grows too large by its aliases")
        if len(place) > MAX_DEPTH:
            raise _TooLargeError("nested far too deep")
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*place, i)) for i, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(
                    Problem(self.file, line, "a key that is not a word", "Use a plain word as key")
                )
                continue
            key = str(key_node.value)
            here = (*place, key)
            if key in made:
                first = self.lines[here]
                self.problems.append(
                    Problem(
                        self.file,
                        line,
                        f"`{key}` stands twice (first on line {first})",
                        "Remove one of the two",
                    )
                )
                continue
            self.lines[here] = line
            made[key] = self.build(value_node, here)
        return made

    def _scalar(self, node: yaml.ScalarNode) -> Text | None:
        # libyaml marks a plain scalar with an empty style, PyYAML's own parser with None.
        plain = not node.style
        if plain and node.value in ("", "~", "null"):
            return None
        if any(0xD800 <= ord(character) <= 0xDFFF for character in node.value):
            line = node.start_mark.line + 1
            self.problems.append(
                Problem(self.file, line, "half of a surrogate pair", "Write the character itself")
            )
            return None
        text = Text(node.value)
        text.plain = plain
        return text

"""Lines, texts, and files that try to harm the reader."""

from __future__ import annotations

import time

import pytest

from deptbus.contract.department import _resolved
from deptbus.contract.yaml_tree import MAX_DEPTH, Text, parse_tree


def test_every_value_keeps_its_line() -> None:
    tree, problems = parse_tree("f", "a: 1\nb:\n  - x\n  - y: [p,\n      q]\n")
    assert problems == []
    assert tree.value == {"a": "1", "b": ["x", {"y": ["p", "q"]}]}
    assert tree.lines[("a",)] == 1
    assert tree.lines[("b", 0)] == 3
    assert tree.lines[("b", 1, "y")] == 4
    assert tree.lines[("b", 1, "y", 1)] == 5
    assert tree.line(("b", 1, "nothing", "here")) == 4


@pytest.mark.parametrize(
    "word", ["no", "330106", "012", "1.50", "2027-12-31", "1:30", "0x1F", "on"]
)
def test_nothing_is_guessed_from_how_a_word_looks(word: str) -> None:
    tree, _ = parse_tree("f", f"{word}: {word}\n")
    assert tree.value == {word: word}


@pytest.mark.parametrize(("text", "value"), [("a:", None), ("a: ~", None), ("a: null", None)])
def test_only_plain_nothing_is_nothing(text: str, value: None) -> None:
    assert parse_tree("f", text)[0].value == {"a": value}
    assert parse_tree("f", "a: ''\nb: 'null'\n")[0].value == {"a": "", "b": "null"}


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, "- " * 20_000, "a: &a [*a]\n", "{a: " * 500, "? " * 5_000],
    ids=["flow", "block", "circle", "maps", "keys"],
)
def test_depth_is_bounded_and_does_not_overrun_the_stack(text: str) -> None:
    tree, problems = parse_tree("f", text)
    assert tree.value is None
    assert problems


def test_aliases_may_not_blow_a_file_up() -> None:
    rows = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    begun = time.process_time()
    tree, problems = parse_tree("f", "a0: &a0 [x]\n" + "\n".join(rows))
    assert tree.value is None
    assert [p.what for p in problems] == ["the file grows too large by its aliases"]
    assert time.process_time() - begun < 10


def test_an_alias_may_repeat_a_part() -> None:
    tree, problems = parse_tree("f", "a: &x [p, q]\nb: *x\n")
    assert problems == []
    assert tree.value == {"a": ["p", "q"], "b": ["p", "q"]}


def test_a_tag_runs_nothing() -> None:
    tree, _ = parse_tree("f", "a: !!python/object/apply:os.system [echo]\n")
    assert tree.value == {"a": ["echo"]}


def test_the_depth_that_is_allowed_is_read() -> None:
    depth = MAX_DEPTH - 1
    tree, problems = parse_tree("f", "[" * depth + "]" * depth)
    assert problems == []
    assert tree.value is not None


@pytest.mark.parametrize(
    ("typed", "plain", "value"),
    [
        ("1", True, 1),
        ("-7", True, -7),
        ("0", True, 0),
        ("01", True, "01"),
        ("330106109051", True, 330106109051),
        ("1.50", True, 1.5),
        ("1e3", True, 1000.0),
        ("true", True, True),
        ("yes", True, "yes"),
        ("1", False, "1"),
        ("true", False, "true"),
        ("x", True, "x"),
    ],
)
def test_constants_have_the_type_that_was_typed(typed: str, plain: bool, value: object) -> None:
    text = Text(typed)
    text.plain = plain
    found = _resolved(text)
    assert (found, type(found)) == (value, type(value))

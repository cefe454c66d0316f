"""Layouts are kept as JSON in the department's database, and their number is made of that."""

from __future__ import annotations

import pytest

from deptbus.department.layout import Layout, Part

PLAIN = Layout("d", "people", ("id",), ("id", "名"), "area")
VIEW = Layout(
    "d", "v", ("id",), ("id",), None,
    parts=(Part("a", ("id",), "", ()), Part("b", (), "a", (("x", "y"), ("z", "w")))),
)  # fmt: skip
VOUCHED = Layout("d", "people", ("id",), ("id",), None, is_vouched=True)


@pytest.mark.parametrize("layout", [PLAIN, VIEW, VOUCHED])
def test_a_layout_is_read_back(layout: Layout) -> None:
    assert Layout.from_json(layout.to_json()) == layout


def test_what_was_installed_before_keeps_its_number() -> None:
    """Rows that wait in an outbox name their layout by it."""
    text = (
        '{"columns": ["id", "名"], "dataset": "d", "keys": ["id"], "place": "area", '
        '"table": "people"}'
    )
    assert PLAIN.to_json() == text
    assert Layout.from_json(text).number == PLAIN.number


def test_triggers_of_other_tables_serve_no_view() -> None:
    assert VIEW.serves(VIEW)
    assert not Layout("d", "v", ("id",), ("id",), None, parts=VIEW.parts[:1]).serves(VIEW)

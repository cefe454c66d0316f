"""A folder's file, cell by cell, beside the rows that it was made from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deptbus.department.exported import read_rows
from deptbus.errors import DatabaseUnavailable

TARGET: Any = SimpleNamespace(
    columns=[SimpleNamespace(name=name) for name in ("no", "called", "floor")], key_positions=(0,)
)


def file_with(folder: Path, text: str) -> Path:
    file = folder / "person.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_each_cell_is_compared_and_an_empty_one_is_null(tmp_path: Path) -> None:
    rows = read_rows(file_with(tmp_path, "no,called,floor\n1,a,3\n2,,\n3,c,4\n"), TARGET)
    assert rows.differs(("1", "a", 3)) == []
    assert rows.differs(("2", None, "")) == []
    assert rows.differs(("3", "b", 4.5)) == ["called", "floor"]
    assert rows.differs(("4", "d", None)) is None
    assert rows.strangers == []


def test_what_nobody_asked_for_and_what_stands_twice_is_left(tmp_path: Path) -> None:
    rows = read_rows(file_with(tmp_path, "no,called,floor\n1,a,3\n9,x,\n1,b,3\n"), TARGET)
    assert rows.differs(("1", "a", 3)) == []
    assert rows.strangers == [("9",), ("1",)]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "person.csv", TARGET).differs(("1", "a", 3)) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no,floor\n1,3\n", "it has no column called"),
        ("", "the file is empty"),
        ("no,called,floor\n1,a\n", "line 2 has 2 cells, the header 3"),
    ],
)
def test_what_is_no_list_of_these_columns_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=why) as refused:
        read_rows(file_with(tmp_path, text), TARGET)
    assert "writes the whole file again" in str(refused.value.mend)

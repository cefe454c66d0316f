"""A workbook that we write is what a foreign reader reads."""

from __future__ import annotations

from io import BytesIO

from python_calamine import CalamineWorkbook

from deptbus.cli.spreadsheet import workbook


def test_a_foreign_reader_reads_the_cells() -> None:
    rows = [["名", "count"], ["=1+1", 7], ['<&">', 0], [" 007", -3], ["a\x01b", 1]]
    made = workbook({"one": rows, "二": [["x"]]})
    book = CalamineWorkbook.from_filelike(BytesIO(made))
    assert book.sheet_names == ["one", "二"]
    wanted = [[c if isinstance(c, str) else float(c) for c in row] for row in rows]
    wanted[-1][0] = "a\ufffdb"
    assert book.get_sheet_by_name("one").to_python() == wanted
    assert made == workbook({"one": rows, "二": [["x"]]})

"""Reads a dropped file as a table of text: CSV in the encodings that offices use, xlsx and xls.

Encodings are tried by a fixed ladder: byte order mark, strict UTF-8, strict GB18030, else the file
is refused. Detectors are not asked: they take short GBK for Korean.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import python_calamine

SPREADSHEETS = (".xlsx", ".xls")
ENDINGS = (".csv", *SPREADSHEETS)

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class FileRefused(Exception):
    """The whole file cannot be taken. The text is for the person who dropped it."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A header and its rows; each row with the line it stands on (from 1) and one cell per column
    of the header, None where it is empty. `broken`: (line, cells, why) of rows that are no rows."""

    header: tuple[str, ...]
    rows: list[tuple[int, tuple[str | None, ...]]]
    broken: list[tuple[int, tuple[str, ...], str]]


def read_sheet(path: Path) -> Sheet:
    """Raises FileRefused (with the reason) and OSError."""
    if path.suffix.lower() in SPREADSHEETS:
        return _sheet(enumerate(_spreadsheet(path), 1))
    text = decoded(path.read_bytes())
    return _sheet(_csv(text))


def decoded(data: bytes) -> str:
    """The text of a file by the ladder. Raises FileRefused."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError:
                raise FileRefused("the file is not in the encoding that its mark names") from None
    for encoding in ("utf-8", "gb18030"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            raise FileRefused("the file holds zero bytes: it is no text")
        return text
    raise FileRefused("the file is neither UTF-8 nor GB18030: save it as CSV UTF-8")


def _csv(text: str) -> Iterable[tuple[int, list[str]]]:
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise FileRefused(f"line {reader.line_num} is no CSV ({error})") from None


def _spreadsheet(path: Path) -> Iterable[list[str]]:
    try:
        with python_calamine.CalamineWorkbook.from_path(str(path)) as book:
            if not book.sheet_names:
                raise FileRefused("the workbook has no sheet")
            rows = book.get_sheet_by_index(0).to_python(skip_empty_area=False)
    except python_calamine.CalamineError as error:
        raise FileRefused(f"the workbook cannot be read ({type(error).__name__})") from None
    return ([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # Spreadsheets have no whole numbers; beyond 2**53 digits are lost already.
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, datetime):
        whole_day = (value.hour, value.minute, value.second, value.microsecond) == (0, 0, 0, 0)
        return value.date().isoformat() if whole_day else value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def _sheet(lines: Iterable[tuple[int, list[str]]]) -> Sheet:
    header: tuple[str, ...] | None = None
    rows: list[tuple[int, tuple[str | None, ...]]] = []
    broken: list[tuple[int, tuple[str, ...], str]] = []
    for line, cells in lines:
        if not any(cells):
            continue
        if header is None:
            header = _header(cells)
            continue
        width = len(header)
        if len(cells) < width or any(cells[width:]):
            broken.append((line, tuple(cells), f"has {len(cells)} cells, the header {width}"))
            continue
        rows.append((line, tuple(cell or None for cell in cells[:width])))
    if header is None:
        raise FileRefused("the file is empty: it has no header")
    return Sheet(header, rows, broken)


def _header(cells: list[str]) -> tuple[str, ...]:
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    twice = sorted({n for n in names if n and names.count(n) > 1})
    if twice:
        raise FileRefused(f"the header names a column twice: {twice[0]}")
    return tuple(names)

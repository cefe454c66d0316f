"""Writes a workbook (Office Open XML, ECMA-376) of plain cells: text and whole numbers."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from xml.sax.saxutils import escape, quoteattr

Cell = str | int
Sheet = Sequence[Sequence[Cell]]

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'


def workbook(sheets: Mapping[str, Sheet]) -> bytes:
    """`sheets`: name (at most 31 letters, none of `[]:*?/\\`) -> rows. Text stays text, so that no
    program takes a cell that begins with `=` for a formula or rounds a long number."""
    names = list(sheets)
    parts = {
        "[Content_Types].xml": _types(len(names)),
        "_rels/.rels": _relations({"rId1": ("officeDocument", "xl/workbook.xml")}),
        "xl/workbook.xml": _book(names),
        "xl/_rels/workbook.xml.rels": _relations(
            {f"rId{n}": ("worksheet", f"worksheets/sheet{n}.xml") for n in range(1, len(names) + 1)}
        ),
    }
    for n, name in enumerate(names, 1):
        parts[f"xl/worksheets/sheet{n}.xml"] = _sheet(sheets[name])
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in parts.items():
            # Of a fixed day, so that the same cells make the same file.
            archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), _HEAD + text)
    return made.getvalue()


def _types(count: int) -> str:
    sheets = "".join(
        f'<Override PartName="/xl/worksheets/sheet{n}.xml" ContentType="{_KIND}.worksheet+xml"/>'
        for n in range(1, count + 1)
    )
    return (
        f'<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_KIND}.sheet.main+xml"/>'
        f"{sheets}</Types>"
    )


def _relations(known: Mapping[str, tuple[str, str]]) -> str:
    inner = "".join(
        f'<Relationship Id="{name}" Type="{_RELATIONS}/{kind}" Target="{target}"/>'
        for name, (kind, target) in known.items()
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{inner}</Relationships>'


def _book(names: Sequence[str]) -> str:
    sheets = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{n}" r:id="rId{n}"/>'
        for n, name in enumerate(names, 1)
    )
    return f'<workbook xmlns="{_MAIN}" xmlns:r="{_RELATIONS}"><sheets>{sheets}</sheets></workbook>'


def _sheet(rows: Sheet) -> str:
    inner = "".join(f"<row>{''.join(map(_cell, row))}</row>" for row in rows)
    return f'<worksheet xmlns="{_MAIN}"><sheetData>{inner}</sheetData></worksheet>'


def _cell(value: Cell) -> str:
    if isinstance(value, int):
        return f"<c><v>{value}</v></c>"
    # Letters that XML 1.0 has not are told apart from nothing by a mark.
    text = "".join(c if c >= " " or c in "\t\n\r" else "\ufffd" for c in value)
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'

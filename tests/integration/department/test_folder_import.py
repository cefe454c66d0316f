"""Dropped files on a real folder and its real SQLite state."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.folder_files import FileRefused, Sheet, decoded, read_sheet
from deptbus.department.folder_import import FolderImport, named, plan_changes, plan_full
from deptbus.department.folder_tables import make_folder_tables
from deptbus.department.layout import Layout

PEOPLE = Layout("person", "人员", ("证件号",), ("证件号", "姓名", "区划"), "区划")
HEADER = "证件号,姓名,区划,宗教\n"


def judge(dataset: str, values: Mapping[str, str | None]) -> str | None:
    return "bad_division: 区划" if values["区划"] == "错" else None


class Drop:
    def __init__(self, folder: Path, database: SqliteDatabase, importer: FolderImport) -> None:
        self.folder, self.database, self.importer = folder, database, importer
        self.capture = SqliteCapture(database)

    def put(self, name: str, text: str | bytes) -> Path:
        path = self.folder / "in" / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    async def take(self, name: str, text: str | bytes) -> None:
        await self.importer.take(self.put(name, text))

    def rows(self) -> list[tuple[str | None, ...]]:
        with sqlite3.connect(self.folder / ".deptbus" / "state.db") as c:
            found = c.execute('SELECT 证件号, 姓名, 区划 FROM "人员" ORDER BY 1').fetchall()
        c.close()
        return found

    async def captured(self) -> list[tuple[str, str]]:
        return [(r.op, r.raw[0]) for r in await self.capture.read(1000)]

    def names(self, folder: str) -> list[str]:
        return sorted(p.name for p in (self.folder / folder).iterdir())

    def refused(self, name: str) -> list[list[str]]:
        text = (self.folder / "bad" / name).read_text(encoding="utf-8-sig")
        return list(csv.reader(text.splitlines()))


@pytest.fixture
async def drop(tmp_path: Path) -> AsyncIterator[Drop]:
    folder = tmp_path / "out tray"
    database = await SqliteDatabase.open(target_of(f"folder:{folder}"), create=True)
    await make_folder_tables(database, [PEOPLE], folder)
    made = Drop(folder, database, FolderImport(folder, database, [PEOPLE], judge))
    await made.capture.install([PEOPLE], 10_000)
    yield made
    await made.capture.close()


async def test_a_full_list_brings_its_differences(drop: Drop) -> None:
    await drop.take("人员.csv", HEADER + "1,甲,p1,x\n2,乙,p1,x\n3,丙,p1,x\n")
    await drop.take("人员-2026-11.csv", HEADER + "1,甲,p1,y\n2,乙,p2,x\n4,丁,p1,x\n")
    assert drop.rows() == [("1", "甲", "p1"), ("2", "乙", "p2"), ("4", "丁", "p1")]
    assert await drop.captured() == [
        *[("u", "1"), ("u", "2"), ("u", "3")],
        *[("d", "3"), ("u", "2"), ("u", "4")],
    ]
    assert drop.names("done") == ["人员-2026-11.csv", "人员.csv"]
    assert drop.names("in") == drop.names("bad") == []


async def test_the_same_list_again_changes_nothing(drop: Drop) -> None:
    for _ in range(3):
        await drop.take("人员.full.csv", HEADER + "1,甲,p1,x\n")
    assert await drop.captured() == [("u", "1")]
    assert len(drop.names("done")) == 3


async def test_a_list_of_changes(drop: Drop) -> None:
    await drop.take("人员.csv", HEADER + "1,甲,p1,\n2,乙,p1,\n")
    await drop.take(
        "人员.changes.csv",
        "op,证件号,姓名,区划\n删除,1,,\n,2,乙乙,p2\nupsert,3,丙,p1\ndelete,3,,\nfly,4,丁,p1\n",
    )
    assert drop.rows() == [("2", "乙乙", "p2")]
    assert await drop.captured() == [
        *[("u", "1"), ("u", "2")],
        *[("d", "1"), ("u", "2"), ("u", "3"), ("d", "3")],
    ]
    assert drop.refused("人员.changes.csv")[1] == ["op is unknown", "6", "fly", "4", "丁", "p1"]


async def test_refused_rows_come_back_with_their_reason_and_remove_nothing(drop: Drop) -> None:
    await drop.take("人员.csv", HEADER + "1,甲,p1,x\n2,乙,p1,x\n")
    await drop.take("人员.csv", HEADER + "1,甲,错,x\n2,乙,p2,x\n2,又,p1,x\n,无,p1,x\n5,戊,p1,x\n")
    assert drop.rows() == [("1", "甲", "p1"), ("2", "乙", "p2"), ("5", "戊", "p1")]
    assert drop.refused("人员.csv") == [
        ["reason", "line", "证件号", "姓名", "区划", "宗教"],
        ["bad_division: 区划", "2", "1", "甲", "错", "x"],
        ["another row of this file has the same key", "4", "2", "又", "p1", "x"],
        ["the key is empty", "5", "", "无", "p1", "x"],
    ]


async def test_a_list_with_an_unreadable_row_removes_nobody(drop: Drop) -> None:
    await drop.take("人员.csv", HEADER + "1,甲,p1,x\n2,乙,p1,x\n")
    await drop.take("人员.csv", HEADER + "1,甲,p1\n3,丙,p1,x\n")
    assert [r[0] for r in drop.rows()] == ["1", "2", "3"]
    assert drop.refused("人员.csv")[1][0] == "has 3 cells, the header 4"


async def test_a_list_with_a_row_that_has_no_key_removes_nobody(drop: Drop) -> None:
    await drop.take("人员.csv", HEADER + "1,甲,p1,x\n2,乙,p1,x\n")
    await drop.take("人员.csv", HEADER + "1,甲,p1,x\n,乙,p1,x\n")
    assert [r[0] for r in drop.rows()] == ["1", "2"]


async def test_rows_that_were_given_back_come_again_as_changes_and_never_as_a_full_list(
    drop: Drop,
) -> None:
    await drop.take("人员.csv", HEADER + "1,甲,p1,x\n2,乙,错,x\n")
    mended = (drop.folder / "bad" / "人员.csv").read_text(encoding="utf-8-sig").replace("错", "p2")
    await drop.take("人员-again.csv", mended)
    assert "name the file .changes" in (drop.folder / "bad" / "人员-again.csv.reason").read_text(
        encoding="utf-8"
    )
    assert drop.rows() == [("1", "甲", "p1")]
    await drop.take("人员.changes.csv", mended + "r,9,3,丙,错,x\n")
    assert drop.rows() == [("1", "甲", "p1"), ("2", "乙", "p2")]
    assert drop.refused("人员.changes.csv") == [
        ["reason", "line", "证件号", "姓名", "区划", "宗教"],
        ["bad_division: 区划", "3", "3", "丙", "错", "x"],
    ]


async def test_a_full_list_without_rows_is_given_back_once_there_are_some(drop: Drop) -> None:
    await drop.take("人员.csv", HEADER)
    assert drop.names("done") == ["人员.csv"]
    await drop.take("人员-1.csv", HEADER + "1,甲,p1,x\n")
    await drop.take("人员-2.csv", HEADER)
    assert [r[0] for r in drop.rows()] == ["1"]
    assert "no rows" in (drop.folder / "bad" / "人员-2.csv.reason").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("人员.csv", b"\xff\xfe\x00", "not in the encoding"),
        ("人员.csv", b"\x81\xff\x81", "neither UTF-8 nor GB18030"),
        ("人员.csv", "证件号,姓名\n1,甲\n".encode(), "column 区划 is missing"),
        ("人员.csv", "证件号,姓名,区划,姓名\n".encode(), "names a column twice"),
        ("人员.csv", b"", "empty"),
        ("人员.csv", (HEADER + '1,"甲"x,p1,\n').encode(), "no CSV"),
        ("人员.changes.csv", (HEADER + "1,甲,p1,\n").encode(), "needs a column op"),
        ("别的.csv", HEADER.encode(), "must begin with one of: 人员"),
        ("人员群.csv", HEADER.encode(), "must begin with one of"),
        ("人员.doc", b"x", "files end with"),
        ("人员.xlsx", b"PK no workbook", "cannot be read"),
    ],
)
async def test_a_file_that_cannot_be_taken_is_given_back_whole(
    drop: Drop, name: str, content: bytes, reason: str
) -> None:
    await drop.take("人员.csv", HEADER + "1,甲,p1,x\n")
    await drop.take(name, content)
    assert drop.names("in") == []
    assert drop.names("bad") == [name, f"{name}.reason"]
    assert reason in (drop.folder / "bad" / f"{name}.reason").read_text(encoding="utf-8")
    assert len(drop.rows()) == 1


async def test_a_file_that_is_still_written_is_not_touched(drop: Drop) -> None:
    path = drop.put("人员.csv", HEADER)
    drop.put(".人员.csv", "x")
    drop.put("人员.csv.part", "x")
    assert drop.importer.settled() == []
    with path.open("ab") as file:
        file.write("1,甲,p1,x\n".encode())
    assert drop.importer.settled() == []
    assert drop.importer.settled() == [path]


async def test_a_kill_in_the_middle_of_a_file_is_made_good(
    drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deptbus.department.folder_import._CHUNK_ROWS", 10)
    written = 0
    real = drop.database.transaction

    async def dies(work: object) -> None:
        nonlocal written
        written += 1
        if written == 4:
            raise KeyboardInterrupt
        await real(work)  # type: ignore[arg-type]

    text = HEADER + "".join(f"{n},名{n},p1,x\n" for n in range(100))
    path = drop.put("人员.csv", text)
    monkeypatch.setattr(drop.database, "transaction", dies)
    with pytest.raises(KeyboardInterrupt):
        await drop.importer.take(path)
    monkeypatch.setattr(drop.database, "transaction", real)
    assert len(drop.rows()) == 30
    assert path.exists()
    await drop.importer.take(path)
    assert len(drop.rows()) == 100
    assert len(await drop.captured()) == 100


async def test_a_column_that_is_not_mapped_is_not_even_stored(drop: Drop) -> None:
    await drop.take("人员.csv", HEADER + "1,甲,p1,canary-of-religion\n")
    for file in (drop.folder / ".deptbus").iterdir():
        assert b"canary-of-religion" not in file.read_bytes()


# --- reading files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16", "utf-16-le-mark", "utf-16-be"]
)
@pytest.mark.parametrize("text", ["姓名,区划\n李明,西湖区\n", "名\n王\n", "姓名\n㐀𠀀\n"])
def test_the_ladder(encoding: str, text: str) -> None:
    if encoding == "gbk":
        text = text.replace("㐀𠀀", "镕")  # GBK has no more than that
    if encoding == "utf-16-le-mark":
        data = b"\xff\xfe" + text.encode("utf-16-le")
    elif encoding == "utf-16-be":
        data = b"\xfe\xff" + text.encode("utf-16-be")
    else:
        data = text.encode(encoding)
    assert decoded(data) == text


def test_semicolons_tabs_and_quoted_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a;b\r\n"1;1\n2";"say ""x"""\r\n\r\n;\r\n', encoding="utf-8")
    assert read_sheet(path) == Sheet(("a", "b"), [(3, ("1;1\n2", 'say "x"'))], [])
    path.write_text("a\tb\n1\t\n", encoding="utf-8")
    assert read_sheet(path).rows == [(2, ("1", None))]


def test_whole_numbers_of_a_workbook_come_as_digits(tmp_path: Path) -> None:
    path = tmp_path / "人员.xlsx"
    path.write_bytes(_workbook())
    sheet = read_sheet(path)
    assert sheet.header == ("证件号", "姓名", "区划")
    assert sheet.rows == [(2, ("330106199001010008", "甲", "330106")), (3, ("7", None, "1.5"))]


def _workbook() -> bytes:
    """A workbook with text, a whole number and a fraction, as small as the format allows."""
    import io
    import zipfile

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages = "http://schemas.openxmlformats.org/package/2006"

    def text(place: str, value: str) -> str:
        return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'

    sheet = (
        f'<worksheet xmlns="{main}"><sheetData>'
        f'<row r="1">{text("A1", "证件号")}{text("B1", "姓名")}{text("C1", "区划")}</row>'
        f'<row r="2">{text("A2", "330106199001010008")}{text("B2", "甲")}'
        '<c r="C2"><v>330106</v></c></row>'
        '<row r="3"><c r="A3"><v>7</v></c><c r="C3"><v>1.5</v></c></row></sheetData></worksheet>'
    )
    files = {
        "[Content_Types].xml": f'<Types xmlns="{packages}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
        'relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        '<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-'
        'officedocument.spreadsheetml.sheet.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{packages}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
        '<sheet name="s" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{packages}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": sheet,
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


# --- plans ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("a", ("a", False)),
        ("a.full", ("a", False)),
        ("a.changes", ("a", True)),
        ("a_b", ("a_b", False)),
        ("a_b 2026", ("a_b", False)),
        ("a-2026.changes", ("a", True)),
        ("ab", None),
        ("", None),
    ],
)
def test_names(stem: str, expected: tuple[str, bool] | None) -> None:
    assert named(stem, ["a", "a_b"]) == expected


def test_a_plan_is_empty_when_nothing_differs() -> None:
    sheet = Sheet(("区划", "证件号", "姓名"), [(2, ("p1", "1", "甲"))], [])
    plan = plan_full(sheet, PEOPLE, judge, {("1",): ("1", "甲", "p1")})
    assert (plan.deletes, plan.upserts, plan.refused) == ([], [], [])


def test_a_list_of_changes_without_op_is_refused() -> None:
    with pytest.raises(FileRefused):
        plan_changes(Sheet(("证件号", "姓名", "区划"), [], []), PEOPLE, judge)

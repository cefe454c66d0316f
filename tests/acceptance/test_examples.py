"""Examples are run as they are written: commands out of the documents, in a clean environment,
with nothing added but what a document leaves to the reader.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from installed import Room, Up, script, sql, wait_until

pytestmark = pytest.mark.service

PROJECT = Path(__file__).resolve().parents[2]
SOON = 60.0


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Of a document: (language, content) of each fenced block, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    return [line.strip() for line in block.splitlines() if line.strip()]


def shell(room: Room, folder: Path, line: str) -> str:
    """One line of a document, other than `up`: deptbus, or the sqlite3 shell."""
    redirected = re.fullmatch(r"sqlite3 (\S+) < (\S+)", line)
    if redirected:
        script(folder / redirected[1], (folder / redirected[2]).read_text(encoding="utf-8"))
        return ""
    statement = re.fullmatch(r'sqlite3 (\S+) "(.*)"', line)
    if statement:
        rows = sql(folder / statement[1], statement[2])
        return "\n".join("|".join("" if v is None else str(v) for v in row) for row in rows)
    assert line.startswith("deptbus "), line
    said = room.run(*line.split()[1:], folder=folder)
    assert said.code == 0, str(said)
    return said.out


def up_words(line: str, folder: Path) -> tuple[Path, list[str]]:
    """Of `deptbus up --embedded --contract X --data Y`: the data folder and the other options."""
    words = line.split()
    assert words[:3] == ["deptbus", "up", "--embedded"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    data = folder / options.pop("--data")
    return data, [w for name, value in options.items() for w in (name, str(folder / value))]


def test_two_units_to_the_letter_of_its_readme(room: Room) -> None:
    example = room.folder / "examples" / "two-units"
    shutil.copytree(PROJECT / "examples" / "two-units", example)
    blocks = [c for _, c in code_blocks((example / "README.md").read_text(encoding="utf-8"))]
    change_of_folder, *before = commands(blocks[0])
    assert change_of_folder == "cd examples/two-units"
    *before, last = before
    for line in before:
        shell(room, example, line)
    data, words = up_words(last, example)
    with Up(room, data, *words):
        elder = data / "health" / "own.db"

        def held() -> dict[str, dict[str, object]]:
            with closing(sqlite3.connect(elder, timeout=30)) as connection:
                connection.row_factory = sqlite3.Row
                rows = [dict(row) for row in connection.execute("SELECT * FROM elder")]
            return {row["person_id"]: row for row in rows}

        join, *steps = map(commands, blocks[1:])
        elder_waits = "SELECT count(*) FROM deptbus_ledger WHERE parked LIKE '%department join%'"
        wait_until(
            lambda: (
                sql(elder, "SELECT 1 FROM sqlite_master WHERE name = 'deptbus_ledger'")
                and sql(elder, elder_waits) == [(4,)]
            ),
            SOON,
        )
        assert len(held()) == 1, "nothing is written before the yes"
        shell(room, example, *join)
        wait_until(lambda: len(held()) == 4, SOON, held)
        first = "330106193805120012"
        assert held()[first] == {
            "person_id": first, "full_name": "沈测试甲", "gender": "F", "birthday": "1938-05-12",
            "area": "330106109001", "alone": 1, "mobile": "19900000101", "doctor": "王医生",
            "last_visit": "2026-10-09",
        }  # fmt: skip
        update, look = steps[0]
        shell(room, example, update)
        wait_until(lambda: held()[first]["area"] == "330106109030", SOON, held)
        lines = shell(room, example, look).splitlines()
        # What the README says one should look at.
        assert len(lines) == 4
        rows = held()
        assert {row["birthday"] for row in rows.values()} == {
            "1938-05-12", "1941-09-23", "1935-01-01", "1944-06-30",
        }  # fmt: skip
        assert {row["gender"] for row in rows.values()} == {"F", "M"}
        phones = {row["area"]: row["mobile"] for row in rows.values()}
        assert phones["330106005055"] == phones["330106007001"] == "not given"
        assert phones["330106109030"] != "not given"
        assert rows[first]["doctor"] == "王医生"
    for file in room.folder.rglob("*"):
        own = file.is_relative_to(data / "civil_affairs") or file.suffix == ".sql"
        if file.is_file() and not own:
            assert b"6222-DEMO" not in file.read_bytes(), f"the bank account is in {file}"


def test_worked_example_of_the_contract_document(room: Room) -> None:
    """docs/contract.md: six files and a table, written down there whole."""
    text = (PROJECT / "docs" / "contract.md").read_text(encoding="utf-8")
    text = text[text.index("\n## Worked example") :].partition("\n## Reaching the bus")[0]
    files = re.findall(r"^`(\S+)`\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(files) == 6
    for name, content in files:
        path = room.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (table,) = re.findall(r"has a table `(.+?)` in an\s+SQLite file", text)
    dogs = room.folder / "data" / "city_management" / "dogs.db"
    script(dogs, f"CREATE TABLE {table}")
    row = "INSERT INTO qz VALUES (?, ?, ?, ?, ?, ?, ?)"
    sql(dogs, row, ("A1", "330106109", "柴犬", "小", "2026-05-04", "19900000001", 9999))
    sql(dogs, row, ("A2", "330106", "狼犬", "大", "", None, 8888))
    check, last = commands(code_blocks(text)[-1][1])
    shell(room, room.folder, check)
    data, words = up_words(last, room.folder)
    with Up(room, data, *words):
        town = data / "town" / "town.db"

        def held() -> list[tuple[object, ...]]:
            known = sql(town, "SELECT 1 FROM sqlite_master WHERE name = '犬只'")
            return sql(town, 'SELECT * FROM "犬只" ORDER BY 1') if known else []

        wanted = ("A1", "330106109", "柴犬", "否", "2026-05-04", "19900000001")
        wait_until(lambda: held() == [wanted], SOON, held)
        sql(dogs, "UPDATE qz SET dx = '大', dh = NULL, ymrq = NULL WHERE zh = 'A1'")
        wanted = ("A1", "330106109", "柴犬", "是", None, None)  # type: ignore[assignment]
        wait_until(lambda: held() == [wanted], SOON, held)

"""A recipient without a database: its file is proved beside its bookkeeping, and written anew."""

from __future__ import annotations

import asyncio
import csv
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from copy_town import Copies, copies_of, found_in, key, prove
from office_bus import HOUSING, until
from office_orders import closed

from deptbus.department.export import FolderExport
from deptbus.department.exported import FileRows
from deptbus.operations.audit import Operator
from deptbus.operations.rebuild_order import order_rebuild
from deptbus.operations.reconcile import Scope, reconcile
from deptbus.operations.reconcile_repair import Wishes, repair
from deptbus.operations.replay_desk import read_orders
from deptbus.operations.replay_planner import open_desk

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

WANG = Operator("wang")
SCOPE = Scope(HOUSING, "person", legs="copy", deep=True, deadline_seconds=40)


@asynccontextmanager
async def folder_of(new_bus, tmp_path: Path, live=()):
    async with copies_of(new_bus, tmp_path, "folder:exchange", 60, live) as (copies, office):
        file = tmp_path / "exchange" / "person.csv"
        await until(lambda: file.exists() and len(read(file)) == 61, "the file is written")
        yield copies, office, file


def read(file: Path) -> list[list[str]]:
    """The header and the rows."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.reader(opened))


def write(file: Path, rows: list[list[str]], encoding: str = "utf-8-sig", by: str = ",") -> None:
    with file.open("w", encoding=encoding, newline="") as opened:
        csv.writer(opened, delimiter=by).writerows(rows)


async def test_a_folder_is_equal_under_traffic(new_bus, tmp_path):
    async with folder_of(new_bus, tmp_path, range(30, 60)) as (copies, office, _):
        for deep in (False, True, True, True):
            (one,) = await prove(copies, office, deep=deep)
            assert found_in([one]) == {}
            assert one.result.rows == 60


async def spoilt(copies: Copies, file: Path) -> None:
    """Typed over, taken out, typed in, and typed twice."""
    rows = [row for row in read(file) if row[0] != "2"]
    called = rows[0].index("called")
    (typed,) = [row for row in rows if row[0] == "1"]
    typed[called] = "改"
    write(file, [*rows, ["stranger", "330106", "x"], ["3", "330106", "again"]])


async def test_what_was_typed_into_the_file_is_named_and_written_anew(new_bus, tmp_path):
    async with folder_of(new_bus, tmp_path) as (copies, office, file):
        whole = read(file)
        await spoilt(copies, file)
        assert found_in(await prove(copies, office)) == {}  # the bookkeeping knows nothing of it
        found = await reconcile(office, copies.bus.connection, SCOPE)
        assert dict(found.results[0].by_class) == {"edited_locally": 1, "missing": 1, "extra": 2}
        reasons = {f.key: f.reason for f in found.results[0].findings}
        assert reasons[key(1)] == "columns in person.csv: called"
        assert reasons[key(2)] == "its row is not in person.csv"

        # What may not be overwritten stays; but a file is written as a whole.
        wishes = Wishes("a test", max_delete=2, overwrite_local=True)
        mended = await repair(office, copies.bus.connection, found, wishes, WANG)
        assert mended.ordered.total() == 4
        await until(lambda: read(file) == whole, "the file is whole again")
        assert found_in(await prove(copies, office, deep=True)) == {}


async def rebuilt(copies: Copies, file: Path, seconds: float = 30) -> None:
    """The copy and its file are spoilt, and the copy is made anew."""
    whole = read(file)
    await copies.sql("UPDATE people SET called = 'typed' WHERE no = '4'")
    await copies.sql("DELETE FROM people WHERE no = '5'")
    await copies.sql("DELETE FROM ledger WHERE key = ?", key(6))
    await spoilt(copies, file)
    async with open_desk(copies.bus.connection) as desk:
        job, _ = await order_rebuild(desk, HOUSING, "person", WANG, "their disk")
    await closed(copies.bus, job)
    progress = (await read_orders(copies.bus.connection)).progress[job]
    assert (progress.state, progress.problem) == ("done", "")
    assert list((await copies.rows())["5"]) in whole
    await until(lambda: read(file) == whole, "the file is whole again", seconds)


async def test_a_copy_in_a_folder_is_made_anew_with_its_file(new_bus, tmp_path):
    async with folder_of(new_bus, tmp_path) as (copies, office, file):
        await rebuilt(copies, file)
        assert found_in(await prove(copies, office, deep=True)) == {}


async def test_planted_bug_a_swap_leaves_the_file(new_bus, tmp_path, monkeypatch):
    async with folder_of(new_bus, tmp_path) as (copies, _, file):
        monkeypatch.setattr(FolderExport, "mark", lambda self, datasets: None)
        with pytest.raises(AssertionError, match="the file is whole again"):
            await rebuilt(copies, file, 3)


async def test_a_file_that_was_saved_in_another_way_is_the_same(new_bus, tmp_path):
    async with folder_of(new_bus, tmp_path) as (copies, office, file):
        turned = [[row[2], row[0], row[1]] for row in read(file)]
        write(file, [turned[0], *reversed(turned[1:])], "gb18030", ";")
        assert found_in(await prove(copies, office, deep=True)) == {}


async def test_a_file_that_is_gone_has_no_rows(new_bus, tmp_path):
    async with folder_of(new_bus, tmp_path) as (copies, office, file):
        file.unlink()
        found = await reconcile(office, copies.bus.connection, SCOPE)
        assert dict(found.results[0].by_class) == {"missing": 60}
        await repair(office, copies.bus.connection, found, Wishes("a test"), WANG)
        await until(lambda: file.exists() and len(read(file)) == 61, "the file is back")
        assert found_in(await prove(copies, office, deep=True)) == {}


async def test_what_is_no_list_any_more_is_not_guessed_at(new_bus, tmp_path):
    async with folder_of(new_bus, tmp_path) as (copies, office, file):
        write(file, [row[:2] for row in read(file)])
        (one,) = await prove(copies, office, deep=True)
        assert "person.csv cannot be compared" in one.result.could_not_tell
        assert "it has no column called" in one.result.could_not_tell
        assert found_in(await prove(copies, office)) == {}


async def test_planted_bug_the_file_is_not_looked_at(new_bus, tmp_path, monkeypatch):
    monkeypatch.setattr(FileRows, "differs", lambda self, values: [])
    with pytest.raises(AssertionError):
        await test_what_was_typed_into_the_file_is_named_and_written_anew(new_bus, tmp_path)


async def test_planted_bug_a_file_of_another_moment_is_compared(new_bus, tmp_path, monkeypatch):
    @asynccontextmanager
    async def as_it_lies(self: FolderExport, dataset: str):
        await asyncio.sleep(0.2)
        yield self._folder / f"{dataset}.csv"

    monkeypatch.setattr(FolderExport, "still", as_it_lies)
    with pytest.raises(AssertionError):
        await test_a_folder_is_equal_under_traffic(new_bus, tmp_path)

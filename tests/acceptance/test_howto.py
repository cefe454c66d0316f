"""The step-by-step documents are run to the letter, on a county that has the very trouble."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from installed import Room, Said, Up, sql, wait_until
from test_examples import PROJECT, code_blocks, commands

pytestmark = pytest.mark.service

HOWTO = PROJECT / "docs" / "howto"
SOON = 60.0
CHINA = timezone(timedelta(hours=8))


class County:
    """A county that runs; its police write, its housing office reads."""

    def __init__(self, room: Room, up: Up) -> None:
        self.room, self.up = room, up
        departments = up.data / "departments"
        self.police = departments / "public_security-330106" / "own.db"
        self.housing = departments / "housing-330106" / "own.db"
        # Those that both have: some rows of the police are mistyped, and stay parked with them.
        there = {str(n) for (n,) in sql(self.housing, "SELECT PersonId FROM Person")}
        rows = sql(self.police, "SELECT sfzh FROM rkjbxx ORDER BY sfzh")
        self.residents = [str(number) for (number,) in rows if str(number) in there]

    def move_within(self, residents: list[str], street: str) -> None:
        """The police write another address for these, and the housing office has it too."""
        for number in residents:
            sql(
                self.police,
                "UPDATE rkjbxx SET dz = ? WHERE sfzh = ?",
                (f"{street} {number}", number),
            )
        self.await_addresses({n: f"{street} {n}" for n in residents})

    def await_addresses(self, wanted: dict[str, str]) -> None:
        """What the housing office's copy is to show."""
        wait_until(
            lambda: all(self.address(n) == a for n, a in wanted.items()),
            SOON,
            lambda: [
                n for n, (number, a) in enumerate(wanted.items()) if self.address(number) != a
            ],
        )

    def address(self, number: str) -> str | None:
        rows = sql(self.housing, "SELECT street_address FROM Person WHERE PersonId = ?", (number,))
        return str(rows[0][0]) if rows else None

    def run(self, document: str, times: dict[str, str]) -> Iterator[tuple[str, Said]]:
        """Every command of a document, one after the other; `times`: what it leaves to the reader.
        `lag` may find somebody behind on a busy machine; everything else is done."""
        text = (HOWTO / document).read_text(encoding="utf-8")
        assert all(time in text for time in times)
        for language, block in code_blocks(text):
            assert language == "sh"
            for line in commands(block):
                words = [times.get(word, word) for word in shlex.split(line)]
                assert words[0] == "deptbus", line
                said = self.room.run(*words[1:], folder=self.up.data.parent)
                assert said.code == 0 or words[1] == "lag", f"{line}\n{said}"
                yield words[1], said


def moment() -> str:
    return datetime.now(CHINA).isoformat()


@pytest.fixture(scope="module")
def county(kept_county: tuple[Room, Path, Said]) -> Iterator[County]:
    """One of its own, for another department joins it."""
    room, folder, _ = kept_county
    own = room.folder / "howto" / folder.name
    shutil.copytree(folder, own)
    with Up(room, own) as up:
        yield County(room, up)
    room.check_logs()


def test_a_recipient_lost_a_week(county: County) -> None:
    lost, kept = county.residents[:25], county.residents[25:30]
    county.move_within(kept, "before")
    began = moment()
    county.move_within(lost, "within")
    for number in lost[:10]:
        sql(county.housing, "DELETE FROM Person WHERE PersonId = ?", (number,))
    for number in lost[10:]:
        sql(county.housing, "UPDATE Person SET street_address = '' WHERE PersonId = ?", (number,))
    times = {"2027-03-01T00:00:00+08:00": began}
    run = list(county.run("a-recipient-lost-a-week.md", times))
    said = dict(run)
    assert "rows of the recipient that would change: 25\n" in run[0][1].out
    county.await_addresses({n: f"within {n}" for n in lost})
    plan = json.loads((county.up.data.parent / "week.json").read_text(encoding="utf-8"))["plan"]
    assert sum(e["upserts"] for e in plan["expected"]) == 25
    for verb in ("replay_plan", "replay_apply", "job_ended"):
        assert verb in said["audit"].out


def test_a_column_was_wrong_for_a_month(county: County) -> None:
    before, within, behind = (county.residents[n : n + 8] for n in (40, 50, 60))
    county.move_within(before, "before")
    began = moment()
    county.move_within(within, "within")
    ended = moment()
    county.move_within([*behind, within[0]], "behind")
    wrong = [*before, *within, *behind]
    for number in wrong:
        sql(county.housing, "UPDATE Person SET street_address = '?' WHERE PersonId = ?", (number,))
    times = {"2027-03-01T00:00:00+08:00": began, "2027-04-01T00:00:00+08:00": ended}
    for noun, said in county.run("a-column-was-wrong-for-a-month.md", times):
        if noun == "replay" and " of 8 keys" in said.out:
            assert re.search(r"done, 8 of 8 keys", said.out)
            mended = {n: f"within {n}" for n in within} | {within[0]: f"behind {within[0]}"}
            county.await_addresses(mended)
            assert {county.address(n) for n in (*before, *behind)} == {"?"}
    # What the source was asked for is all of the dataset; so in the end every column is right.
    should = {n: f"before {n}" for n in before} | {n: f"within {n}" for n in within}
    should |= {n: f"behind {n}" for n in [*behind, within[0]]}
    county.await_addresses(should)


class NewDepartment:
    """Whoever follows the document about a new department: what it shows goes into files, and the
    adapter that it starts runs on."""

    def __init__(self, county: County) -> None:
        self._county = county
        self.folder = county.up.data.parent
        self._adapter: subprocess.Popen[bytes] | None = None

    def follow(self, document: str) -> Iterator[tuple[str, Said]]:
        blocks = code_blocks((HOWTO / document).read_text(encoding="utf-8"))
        files = iter(
            [
                self._county.up.data / "contract" / "departments.yml",
                self.folder / "gongshu-housing" / "department.yml",
            ]
        )
        for language, block in blocks:
            if language == "yaml":
                file = next(files)
                file.parent.mkdir(exist_ok=True)
                before = file.read_text(encoding="utf-8") if file.exists() else ""
                file.write_text(before + block, encoding="utf-8")
                continue
            for line in commands(block):
                yield from self._types(shlex.split(line))

    def _types(self, words: list[str]) -> Iterator[tuple[str, Said]]:
        assert words[0] == "deptbus"
        if words[1:3] == ["department", "run"]:
            self._adapter, _ = self._county.room.start(*words[1:], folder=self.folder)
            return
        said = self._county.room.run(*words[1:], folder=self.folder)
        until = time.monotonic() + SOON
        while said.code == 2 and words[1] == "reconcile" and time.monotonic() < until:
            said = self._county.room.run(*words[1:], folder=self.folder)  # as the document says
        assert said.code == 0 or words[1] == "lag", f"{words}\n{said}"
        yield words[1], said

    def rows(self) -> dict[str, str]:
        found = sql(
            self.folder / "gongshu-housing" / "own.db", "SELECT PersonId, Street FROM Person"
        )
        return {str(number): str(street) for number, street in found}

    def spoil(self) -> None:
        """What a rebuild is for: rows and bookkeeping are wrong, and one row is their own."""
        file = self.folder / "gongshu-housing" / "own.db"
        sql(file, "UPDATE Person SET Street = '?' WHERE rowid % 3 = 0")
        sql(file, "DELETE FROM Person WHERE rowid % 3 = 1")
        sql(file, "DELETE FROM deptbus_ledger WHERE rowid % 2 = 0")
        sql(file, "INSERT INTO Person (PersonId, Street) VALUES ('their own', 'x')")

    def stop(self) -> None:
        if self._adapter is not None:
            self._adapter.send_signal(signal.SIGTERM)
            assert self._adapter.wait(30) == 0


def test_a_new_department_joins(county: County) -> None:
    police = county.up.data / "departments" / "public_security-330105" / "own.db"
    theirs = {
        str(number): str(street) for number, street in sql(police, "SELECT sfzh, dz FROM rkjbxx")
    }
    assert theirs
    joining = NewDepartment(county)
    try:
        said: dict[str, Said] = {}
        for noun, one in joining.follow("a-new-department-joins.md"):
            said[noun] = one
            if noun == "reconcile":
                assert joining.rows() == theirs
                joining.spoil()
        assert "swapped" in said["rebuild"].out
        assert "rebuild_order" in said["audit"].out
        assert joining.rows() == theirs | {"their own": "x"}
        # It is a department like any other: what the police change arrives.
        number = next(iter(theirs))
        sql(police, "UPDATE rkjbxx SET dz = ? WHERE sfzh = ?", ("moved within", number))
        wait_until(lambda: joining.rows()[number] == "moved within", SOON)
    finally:
        joining.stop()

"""docs/department.md, run to the letter: the whole life of one department."""

from __future__ import annotations

import re
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from installed import Room, Said, Up, script, sql, wait_until
from python_calamine import CalamineWorkbook
from service_manager import Manager
from test_examples import PROJECT, code_blocks, commands

pytestmark = [pytest.mark.service, pytest.mark.timeout(300)]

DOCUMENT = PROJECT / "docs" / "department.md"
EXAMPLE = PROJECT / "examples" / "two-units"
SOON = 60.0
PERSON = "330106193805120012"
OWN = ("doctor", "last_visit")  # columns that no mapping names


class Bureau:
    """The health bureau's folder, its service, and civil affairs beside it."""

    def __init__(self, room: Room, up: Up) -> None:
        self.room, self.up = room, up
        for unit in ("civil_affairs", "health"):
            shutil.copytree(EXAMPLE / "data" / unit, room.folder / unit)
            folder = room.folder / unit
            script(folder / "own.db", (folder / "existing.sql").read_text(encoding="utf-8"))
        self.folder = room.folder / "health"
        client = self.folder / "bus.client"
        client.write_text(f"bootstrap={up.bootstrap}\n", encoding="ascii")
        client.chmod(0o600)
        self.database = self.folder / "own.db"
        self.source = room.folder / "civil_affairs" / "own.db"
        self.manager: Manager | None = None
        self._civil: subprocess.Popen[bytes] | None = None

    def civil_affairs_joins(self) -> None:
        config = self.source.with_name("department.yml")
        for verb in ("install", "snapshot"):
            words = ["department", verb, "--config", config]
            words += ["--data", self.up.data] if verb == "install" else []
            said = self.room.run(*words)
            assert said.code == 0, str(said)
        self.civil_affairs_runs()

    def civil_affairs_runs(self) -> None:
        if self._civil is not None:
            assert self._civil.wait(30) == 2, "a resync fences the adapter that runs"
        config = self.source.with_name("department.yml")
        words = ("--config", config, "--data", self.up.data)
        self._civil, _ = self.room.start("department", "run", *words)

    def types(self, allowance: int) -> None:
        """Somebody at civil affairs moves a person to and fro, which the bureau is told."""
        place = f"33010610900{allowance}"
        sql(self.source, "UPDATE gljt SET sq = ? WHERE sfzh = ?", (place, PERSON))

    def place(self) -> str:
        ((found,),) = sql(self.database, "SELECT area FROM elder WHERE person_id = ?", (PERSON,))
        return str(found)

    def elders(self) -> int:
        return int(sql(self.database, "SELECT count(*) FROM elder")[0][0])

    def waits(self) -> int:
        """Records that wait for the bureau's yes."""
        if not sql(self.database, "SELECT 1 FROM sqlite_master WHERE name = 'deptbus_ledger'"):
            return 0
        waiting = "SELECT count(*) FROM deptbus_ledger WHERE parked LIKE '%department join%'"
        return int(sql(self.database, waiting)[0][0])

    def until(self, condition: object) -> None:
        wait_until(condition, SOON, self.journal)  # type: ignore[arg-type]

    def journal(self) -> str:
        return self.manager.journal() if self.manager is not None else ""

    def systemctl(self, verb: str) -> None:
        assert self.manager is not None
        if verb in ("stop", "restart", "disable"):
            self.manager.stop()
        if verb in ("start", "restart"):
            self.manager.start()

    def follow(self) -> Iterator[tuple[str, str]]:
        """Runs the document's commands; yields (command, what it said) behind each."""
        for language, block in code_blocks(DOCUMENT.read_text(encoding="utf-8")):
            if language == "yaml":
                self._edit(block)
                continue
            for line in commands(block) if language == "sh" else []:
                if line.startswith("deptbus fetch"):
                    continue  # tests/acceptance/test_no_network.py
                yield line, self._run(line)

    def _edit(self, block: str) -> None:
        """The line of a mapping's field, as the document writes it."""
        (line,) = block.rstrip().splitlines()
        file = self.folder / "department.yml"
        field = line.partition(":")[0]
        text, count = re.subn(rf"^{field}: .*$", line, file.read_text("utf-8"), flags=re.MULTILINE)
        assert count == 1, line
        file.write_text(text, encoding="utf-8")

    def _run(self, line: str) -> str:
        words = shlex.split(line)
        match words:
            case ["deptbus", *rest]:
                said: Said = self.room.run(*rest, folder=self.folder)
                wanted = 1 if "compare" in rest else 0  # the answer is no: something differs
                assert said.code == wanted, f"{line}\n{said}"
                return said.out
            case ["sqlite3", file, statement]:
                here = statement.replace("INTO '", f"INTO '{self.folder}/")
                with closing(sqlite3.connect(self.folder / file, isolation_level=None)) as c:
                    c.execute(here)
            case ["systemctl", verb, *_, unit]:
                assert unit == "deptbus-health-330106.service"
                self.systemctl(verb)
            case ["cp", source, target]:
                assert not Path(f"{self.folder / target}-wal").exists(), "it was closed in order"
                shutil.copy(self.folder / source, self.folder / target)
            case _:
                pytest.fail(f"nobody knows how to run {line}")
        return ""

    def close(self) -> None:
        if self._civil is not None and self._civil.poll() is None:
            self._civil.terminate()
            self._civil.wait(30)


@pytest.fixture
def bureau(room: Room) -> Iterator[Bureau]:
    with Up(room, room.folder / "bus", "--contract", EXAMPLE) as up:
        made = Bureau(room, up)
        made.civil_affairs_joins()
        try:
            yield made
        finally:
            made.close()


def own_columns(bureau: Bureau) -> list[tuple[object, ...]]:
    return sql(bureau.database, f"SELECT person_id, {', '.join(OWN)} FROM elder ORDER BY 1")


def test_to_the_letter(bureau: Bureau, tmp_path: Path) -> None:
    before = own_columns(bureau)
    ran: list[str] = []
    with_service = None
    try:
        for line, said in bureau.follow():
            ran.append(line)
            if line.startswith("deptbus department service"):
                unit = bureau.folder / "deptbus-health-330106.service"
                bureau.manager = Manager(unit.read_text("utf-8"), tmp_path)
                with_service = bureau.manager.__enter__()
                bureau.until(lambda: bureau.waits() == 4)
            elif "compare" in line:
                sheets = CalamineWorkbook.from_path(bureau.folder / "compared.xlsx")
                counts = dict(zip(*sheets.get_sheet_by_name("counts").to_python(), strict=True))
                assert (counts["rows"], counts["different"], counts["only_on_bus"]) == (1, 1, 3)
                assert bureau.elders() == 1, "nothing is written before the yes"
            elif line.startswith("deptbus department join"):
                bureau.until(lambda: bureau.elders() == 4 and bureau.waits() == 0)
            elif line.startswith("deptbus department kept"):
                assert "adoption" in said
            elif "RENAME COLUMN" in line:
                bureau.types(3)
                bureau.until(lambda: "applying_stopped" in bureau.journal())
                assert "alone" in bureau.journal()
            elif line.startswith("systemctl restart"):
                bureau.until(lambda: bureau.place().endswith("3"))
            elif "VACUUM INTO" in line:
                bureau.types(4)
                bureau.until(lambda: bureau.place().endswith("4"))
            elif line.startswith("cp "):
                assert bureau.place().endswith("3")
            elif line.startswith("systemctl start"):
                bureau.until(lambda: bureau.place().endswith("4"))
                assert "recipient_was_restored" in bureau.journal()
            elif "resync" in line:
                assert "0 rows published anew, 0 deleted" in said
                bureau.civil_affairs_runs()
                bureau.types(5)
                bureau.until(lambda: bureau.place().endswith("5"))
    finally:
        if with_service is not None:
            with_service.__exit__()
    assert ran[-1].startswith("deptbus department uninstall")
    assert {line.split()[2] for line in ran if line.startswith("deptbus department")} >= {
        "install", "service", "compare", "join", "kept", "status", "resync", "uninstall",
    }  # fmt: skip
    tables = sql(bureau.database, "SELECT name FROM sqlite_master WHERE name LIKE '%deptbus%'")
    assert tables == []
    assert bureau.elders() == 4
    assert [row for row in own_columns(bureau) if row in before] == before

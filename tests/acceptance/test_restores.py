"""Databases, clusters, topics and files that come back older than they were: 1,000 changes lie
between backup and restore and 1,000 behind it. Each is noticed and named, one command mends it, and
in the end every copy is equal to its source: nothing lost, nothing stale.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from installed import Room, Said, Up, wait_until
from small_world import OTHER_TOWN, TOWN, District, Row, accounts, write_contract

pytestmark = [pytest.mark.service, pytest.mark.timeout(300)]

SOURCE, AUDIT, BELOW = "registry@330106", "audit@330106", f"registry@{TOWN}"
UNITS = (SOURCE, AUDIT, BELOW)
CHANGES = 1_000
DELETED = 20
SOON = 90.0


class Bureaus:
    """A bus that runs, and the bureaus of the district, whose adapters are started and stopped."""

    def __init__(self, room: Room, up: Up, district: District) -> None:
        self.room, self.up, self.district = room, up, district
        self.random = random.Random(20)
        self._log = Path()

    @contextmanager
    def running(
        self, district: District | None = None, units: Sequence[str] = UNITS
    ) -> Iterator[Path]:
        """All adapters, as one process; it may have ended by itself when they all had to stop."""
        words: list[str | Path] = []
        for unit in units:
            words += ["--config", (district or self.district).config(unit)]
        process, self._log = self.room.start("department", "run", *words, "--data", self.up.data)
        try:
            log = self._log
            self.until(lambda: "adapter_begun" in log.read_text() or process.poll() is not None)
            yield self._log
        finally:
            if process.poll() is None:
                process.terminate()
            assert process.wait(30) in (0, 2), self._log.read_text()

    def said(self, unit: str, event: str) -> list[dict[str, str]]:
        lines = [w for w in self._log.read_text().splitlines() if w.startswith("{")]
        found = [json.loads(line) for line in lines]
        return [one for one in found if one.get("unit") == unit and one["event"] == event]

    def stopped(self, unit: str) -> str:
        """Why this unit's adapter stopped, once it has."""
        self.until(lambda: self.said(unit, "system_stopped"))
        return self.said(unit, "system_stopped")[0]["reason"]

    def until(self, condition: Callable[[], object]) -> None:
        wait_until(condition, SOON, lambda: self._log.read_text()[-3000:])

    def carried(self) -> None:
        self.until(self.district.is_carried)

    def do(self, verb: str, unit: str) -> str:
        config = self.district.config(unit)
        words = ("--config", config, *(("--data", self.up.data) if verb == "resync" else ()))
        said = self.room.run("department", verb, *words)
        assert said.code == 0, str(said)
        return said.out

    def reconcile(self, unit: str, *words: str) -> Said:
        return self.room.run(
            *("reconcile", "--unit", unit, "--leg", "copy", "--data", self.up.data, *words)
        )

    def delete_unheard(self, count: int) -> None:
        """Accounts are closed and published, and no recipient runs."""
        waiting = "SELECT count(*) FROM deptbus_outbox"
        with self.running(units=(SOURCE,)), closing(sqlite3.connect(self.district.source)) as own:
            own.execute(
                "DELETE FROM zh WHERE bh IN (SELECT bh FROM zh WHERE dz LIKE ? LIMIT ?)",
                (f"{TOWN}%", count),
            )
            own.commit()
            self.until(lambda: own.execute(waiting).fetchone() == (0,))

    def type(self, count: int = CHANGES) -> None:
        """As clerks do: other amounts, moves there and back, new accounts, closed ones, and numbers
        that were closed and are given again; 20 rows a commit."""
        with closing(sqlite3.connect(self.district.source, timeout=30)) as connection:
            for at in range(count):
                ((number,),) = connection.execute(
                    "SELECT bh FROM zh ORDER BY random() LIMIT 1"
                ).fetchall()
                kind = self.random.random()
                if kind < 0.5:
                    connection.execute("UPDATE zh SET je = je + 1 WHERE bh = ?", (number,))
                elif kind < 0.7:
                    place = self.random.choice((TOWN, OTHER_TOWN))
                    connection.execute("UPDATE zh SET dz = ? WHERE bh = ?", (place, number))
                elif kind < 0.85:
                    connection.execute("DELETE FROM zh WHERE bh = ?", (number,))
                else:
                    row = (self.random.randrange(3_000), TOWN, f"新{at}", at, "13800000000", "")
                    connection.execute("INSERT OR REPLACE INTO zh VALUES (?, ?, ?, ?, ?, ?)", row)
                if at % 20 == 19:
                    connection.commit()
            connection.commit()


def back_up(file: Path) -> Path:
    backup = file.with_suffix(".backup")
    backup.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as have, closing(sqlite3.connect(backup)) as made:
        have.backup(made)
    return backup


def restore(backup: Path, file: Path) -> None:
    """Whole, and at once: whoever has the old one open goes on with a file that has no name."""
    for end in ("-wal", "-shm"):
        Path(f"{file}{end}").unlink(missing_ok=True)
    backup.replace(file)


@pytest.fixture(scope="module")
def bureaus(new_room: Callable[[], Room]) -> Iterator[Bureaus]:
    room = new_room()
    district = District(room.folder / "bureaus")
    district.build(accounts(600))
    contract = write_contract(room.folder / "contract")
    with Up(room, room.folder / "bus", "--contract", contract) as up:
        made = Bureaus(room, up, district)
        for unit in UNITS:
            words = ("--config", district.config(unit), "--data", up.data)
            said = room.run("department", "install", *words)
            assert said.code == 0, str(said)
        assert room.run("department", "snapshot", "--config", district.config(SOURCE)).code == 0
        with made.running():
            made.carried()
        yield made
    room.check_logs()


def test_a_source_that_was_restored(bureaus: Bureaus) -> None:
    backup = back_up(bureaus.district.source)
    with bureaus.running():
        bureaus.type()
        bureaus.carried()
    restore(backup, bureaus.district.source)
    bureaus.type()
    with bureaus.running():
        reason = bureaus.stopped(SOURCE)
        assert "restored from a backup" in reason
        assert "deptbus department resync" in reason
        assert not bureaus.district.is_carried()
        bureaus.do("resync", SOURCE)
    with bureaus.running():
        bureaus.carried()
        bureaus.type(50)
        bureaus.carried()


def test_a_recipient_that_was_restored(bureaus: Bureaus) -> None:
    files = [bureaus.district.file(unit) for unit in (AUDIT, BELOW)]
    backups = [back_up(file) for file in files]
    with bureaus.running():
        bureaus.type()
        bureaus.carried()
    for backup, file in zip(backups, files, strict=True):
        restore(backup, file)
    bureaus.type()
    with bureaus.running():
        bureaus.carried()
        for unit in (AUDIT, BELOW):
            (line,) = bureaus.said(unit, "recipient_was_restored")
            assert int(line["deliveries"]) > 100
            assert bureaus.said(unit, "system_stopped") == []
    with bureaus.running():
        bureaus.carried()
        assert bureaus.said(AUDIT, "recipient_was_restored") == []


def test_files_that_are_replaced_while_the_adapter_runs(bureaus: Bureaus) -> None:
    district = bureaus.district
    backups = {unit: back_up(district.file(unit)) for unit in UNITS}
    with bureaus.running():
        bureaus.type()
        bureaus.carried()
        for unit, backup in backups.items():
            restore(backup, district.file(unit))
        bureaus.type()
        assert "deptbus department resync" in bureaus.stopped(SOURCE)
        for unit in (AUDIT, BELOW):
            bureaus.until(lambda u=unit: bureaus.said(u, "database_was_replaced"))
        bureaus.do("resync", SOURCE)
        bureaus.carried()
    with bureaus.running():
        bureaus.carried()


def test_a_cluster_that_was_rebuilt(bureaus: Bureaus) -> None:
    with bureaus.running():
        bureaus.type()
        bureaus.carried()
    bureaus.delete_unheard(DELETED)
    bureaus.up.stop()
    shutil.rmtree(bureaus.up.data / "broker")
    bureaus.type()
    bureaus.up.start()
    with bureaus.running():
        for unit in UNITS:
            reason = bureaus.stopped(unit)
            assert "rebuilt" in reason
            if unit == SOURCE:
                bureaus.do("resync", unit)
            else:
                assert f"reconcile --unit {unit} --leg copy --repair" in bureaus.do("rejoin", unit)
    with bureaus.running():
        for unit in (AUDIT, BELOW):
            found = bureaus.reconcile(unit)
            assert (found.code, "extra" in found.out) == (1, True), str(found)
            mend = (
                "--repair",
                "--delete-extra",
                "--max-delete",
                str(DELETED),
                "--reason",
                "rebuilt",
            )
            mended = bureaus.reconcile(unit, *mend)
            assert mended.code == 0, str(mended)
        bureaus.carried()
        bureaus.type(50)
        bureaus.carried()


def test_topics_that_were_made_again(bureaus: Bureaus) -> None:
    """All at once that bear this source's changes and its recipients' deliveries."""
    own = SOURCE.replace("@", "-")
    topics = [f"out.{own}", f"control.{own}", f"in.{own}", "data.account"]
    topics += [f"in.{unit.replace('@', '-')}" for unit in (AUDIT, BELOW)]
    with bureaus.running():
        bureaus.type()
        bureaus.carried()
    admin = AdminClient({"bootstrap.servers": bureaus.up.bootstrap, "log_level": 0})
    for gone in admin.delete_topics(topics, operation_timeout=30).values():
        gone.result(30)
    contract = bureaus.room.folder / "contract"

    def made() -> bool:  # a topic that is being deleted cannot be made yet
        words = ("topics", "apply", "--contract", contract, "--data", bureaus.up.data)
        return bureaus.room.run(*words).code == 0

    bureaus.until(made)
    bureaus.type()
    with bureaus.running():
        assert "deptbus department resync" in bureaus.stopped(SOURCE)
        for unit in (AUDIT, BELOW):
            assert "deptbus department rejoin" in bureaus.stopped(unit)
            bureaus.do("rejoin", unit)
        bureaus.do("resync", SOURCE)
    with bureaus.running():
        bureaus.carried()
        bureaus.type(50)
        bureaus.carried()


def test_nobody_was_looked_at_who_has_nothing(bureaus: Bureaus) -> None:
    """The clerks leave enough of everything for the copies to differ."""
    rows: list[Row] = bureaus.district.accounts()
    assert len(rows) > 100
    assert len({row[1] for row in rows}) == 2

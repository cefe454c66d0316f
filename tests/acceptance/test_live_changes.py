"""A running bus stays whole: contracts change, adapters are doubled, databases go away."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from installed import Room, Up, sql, wait_until
from small_world import KEPT, OTHER_TOWN, TOWN, District, accounts, write_contract

from deptbus.cluster.postgres import PostgresServer

pytestmark = pytest.mark.service

SOON = 40.0
AWAY_SECONDS = 4.0
FENCED = "a younger adapter of this system has taken over"


class World:
    """The bus, its district, and the contract that was activated last."""

    def __init__(self, room: Room, up: Up, district: District) -> None:
        self.room, self.up, self.district = room, up, district

    def activate(self, contract: Path, *words: str) -> str:
        said = self.room.run(
            "contract", "activate", contract, "--yes", "--data", self.up.data, *words
        )
        assert said.code == 0, str(said)
        return said.out + said.err

    def await_carried(self, seconds: float = SOON) -> None:
        """The copies of the audit and of the town are equal to the registry."""
        wait_until(self.district.is_carried, seconds, lambda: self.up.said)

    def adapter_of(self, unit: str) -> tuple[str, int]:
        """Name and process id of the adapter process that runs this unit."""
        config = str(self.district.config(unit))
        found: list[tuple[str, int]] = []

        def look() -> bool:
            for process in self.up.run_file()["processes"]:
                # One that was killed is named until its successor is ready.
                with suppress(FileNotFoundError, ProcessLookupError):
                    line = Path(f"/proc/{process['pid']}/cmdline").read_bytes().decode()
                    if config in line.split("\0"):
                        found.append((process["name"], process["pid"]))
            return bool(found)

        wait_until(look, SOON)
        return found[0]


@pytest.fixture(scope="module")
def world(new_room: Callable[[], Room], postgres: PostgresServer) -> Iterator[World]:
    room = new_room()
    contract = write_contract(room.folder / "contract-1")
    district = District(room.folder / "data", postgres.create_database("archive"))
    district.build(accounts(60))
    with Up(room, district.data, "--contract", contract) as up:
        made = World(room, up, district)
        made.await_carried()
        yield made
    room.check_logs()


@pytest.fixture(autouse=True)
def first_contract(world: World) -> Iterator[None]:
    """Each test begins and ends under the first contract, with all copies equal."""
    yield
    world.activate(write_contract(world.room.folder / "contract-1"))
    world.await_carried()


def test_a_field_is_opened_without_a_restart(world: World) -> None:
    before = {p["name"]: p["pid"] for p in world.up.run_file()["processes"]}
    assert {row[5] for row in world.district.held("audit@330106")} == {None}
    said = world.activate(write_contract(world.room.folder / "contract-2", note_is_open=True))
    assert "audit@330106" in said
    assert "note" in said
    wait_until(lambda: world.district.held("audit@330106") == world.district.accounts(), SOON)
    sql(world.district.source, "UPDATE zh SET bz = '新备注' WHERE bh = 1")
    wait_until(lambda: world.district.held("audit@330106") == world.district.accounts(), SOON)
    assert before == {p["name"]: p["pid"] for p in world.up.run_file()["processes"]}
    # Closed again, it leaves the copies.
    world.activate(write_contract(world.room.folder / "contract-3"))
    wait_until(lambda: {r[5] for r in world.district.held("audit@330106")} == {None}, SOON)


def test_an_ended_grant_takes_back_what_it_gave(world: World) -> None:
    assert None not in {row[4] for row in world.district.held("audit@330106")}
    contract = write_contract(world.room.folder / "contract-4", phone_is_granted=False)
    said = world.activate(contract)
    assert "phone" in said
    wait_until(lambda: {r[4] for r in world.district.held("audit@330106")} == {None}, SOON)
    sql(world.district.source, "UPDATE zh SET dh = '没有人知道', je = 5 WHERE bh = 2")
    wait_until(
        lambda: ("2", 5) in {(r[0], r[3]) for r in world.district.held("audit@330106")}, SOON
    )
    assert {row[4] for row in world.district.held("audit@330106")} == {None}


def test_a_unit_joins_a_running_bus(world: World) -> None:
    contract = write_contract(world.room.folder / "contract-5", units=("bank@330106",))
    # Its adapter comes later: with more rows than a job sends to nobody, this would wait for it.
    assert "bank@330106" in world.activate(contract, "--no-wait")
    config = world.district.write_department(
        "bank@330106", columns=KEPT[:4], folder=world.room.folder / "elsewhere"
    )
    words = ("--config", config, "--bootstrap", world.up.bootstrap)
    said = world.room.run("department", "install", *words)
    assert said.code == 0, str(said)
    process, log = world.room.start("department", "run", *words)
    own = config.with_name("own.db")
    wait_until(
        lambda: world.district.held("bank", 4, own) == world.district.accounts(4),
        SOON,
        log.read_text,
    )
    sql(world.district.source, "UPDATE zh SET je = 77 WHERE bh = 3")
    wait_until(lambda: world.district.held("bank", 4, own) == world.district.accounts(4), SOON)
    # Out of the contract again, it has to give back what it got.
    world.activate(write_contract(world.room.folder / "contract-1"))
    wait_until(lambda: world.district.held("bank", 4, own) == [], SOON)
    process.terminate()
    assert process.wait(20) == 0


def test_the_older_of_two_adapters_is_fenced(world: World) -> None:
    unit = "registry@330106"
    name, pid = world.adapter_of(unit)
    log = world.up.data / "logs" / f"{name}.log"
    told = log.read_text().count(FENCED)
    process, said = world.room.start(
        "department", "run", "--config", world.district.config(unit), "--data", world.up.data
    )
    wait_until(lambda: log.read_text().count(FENCED) == told + 1, SOON, said.read_text)
    sql(world.district.source, "UPDATE zh SET je = je + 1")
    world.await_carried()
    assert log.read_text().count(FENCED) == told + 1, "one line, once"
    process.terminate()
    assert process.wait(20) == 0
    # Whoever keeps `up` may end that adapter: it starts again and takes the system back.
    os.kill(pid, signal.SIGKILL)
    sql(world.district.source, "UPDATE zh SET je = je + 1")
    world.await_carried()
    wait_until(lambda: world.adapter_of(unit)[1] != pid, SOON)
    assert f"{name:<12} died (SIGKILL), starts anew" in world.up.said


def test_a_recipients_postgres_goes_away_and_comes_back(
    world: World, postgres: PostgresServer
) -> None:
    wait_until(lambda: world.district.archived() == world.district.accounts(4), SOON)
    name, pid = world.adapter_of("archive@330106")
    postgres.stop()
    began = time.monotonic()
    number = 100
    while time.monotonic() - began < AWAY_SECONDS:
        # Nobody else notices: each change is at the others' while the archive is away.
        sql(world.district.source, "INSERT INTO zh VALUES (?, ?, '新', 1, NULL, NULL)",
            (number, TOWN if number % 2 else OTHER_TOWN))  # fmt: skip
        number += 1
        world.await_carried()
    sql(world.district.source, "DELETE FROM zh WHERE bh >= 101")
    postgres.start()
    wait_until(lambda: world.district.archived() == world.district.accounts(4), SOON)
    assert world.adapter_of("archive@330106") == (name, pid), "it waited, it did not die"
    sql(world.district.source, "DELETE FROM zh WHERE bh >= 100")
    wait_until(lambda: world.district.archived() == world.district.accounts(4), SOON)


def test_a_recipients_own_program_holds_its_database(world: World) -> None:
    file = world.district.file("audit@330106")
    with closing(sqlite3.connect(file, isolation_level=None)) as program:
        program.execute("BEGIN EXCLUSIVE")
        sql(world.district.source, "UPDATE zh SET je = je + 10")
        wait_until(world.district.town_is_carried, SOON)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > AWAY_SECONDS, 2 * AWAY_SECONDS)
        program.execute("ROLLBACK")
    world.await_carried()


def test_a_recipients_folder_is_moved_away_and_back(world: World) -> None:
    folder = world.district.file("audit@330106").parent
    aside = folder.with_name("aside")
    folder.rename(aside)
    sql(world.district.source, "UPDATE zh SET je = je + 100")
    wait_until(world.district.town_is_carried, SOON)
    aside.rename(folder)
    world.await_carried()
    assert sql(folder / "own.db", "PRAGMA integrity_check") == [("ok",)]

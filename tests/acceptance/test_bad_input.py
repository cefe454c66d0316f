"""What people get wrong before there is a bus: one line says what, and how to mend it.

`Room.run` itself holds that no command ends by a traceback or as our own bug.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import asyncpg
import pytest
from installed import Room, Said, script, wait_until
from small_world import OWN, District, accounts, write_contract

from deptbus.cluster.postgres import PostgresServer

pytestmark = pytest.mark.service

NOBODY = "127.0.0.1:9"  # the discard port: nothing answers


def told(said: Said, code: int, *words: str) -> None:
    """It ended with this code and one line on stderr that has these words."""
    assert said.code == code, str(said)
    lines = [line for line in said.err.splitlines() if line.strip()]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("deptbus: ")
    for word in words:
        assert word in lines[0], (word, lines[0])


@pytest.fixture
def contract(room: Room) -> Path:
    return write_contract(room.folder / "contract")


@pytest.fixture
def district(room: Room) -> District:
    made = District(room.folder / "data")
    made.build(accounts(3))
    return made


# -- usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("up", "--nonsense"),
        ("demo", "--residents", "many"),
        ("demo", "--seconds", "0"),
        ("department",),
        ("department", "resend", "--config", "x", "--dataset", "d"),
        ("contract", "activate"),
    ],
    ids=" ".join,
)
def test_wrong_usage(room: Room, words: tuple[str, ...]) -> None:
    told(room.run(*words), 2)


def test_no_bus_named(room: Room, contract: Path) -> None:
    said = room.run("contract", "activate", contract, "--yes")
    told(said, 2, "no bus named", "deptbus up --embedded --data DIR")


def test_no_bus_in_that_folder(room: Room, contract: Path) -> None:
    said = room.run("contract", "activate", contract, "--yes", "--data", room.folder / "nothing")
    told(said, 2, "no bus runs in", "deptbus up --embedded --data")


def test_up_without_embedded(room: Room) -> None:
    told(room.run("up"), 2, "deptbus up --embedded")


# -- broker unreachable ---------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["activate", "show", "plan", "apply", "install"])
def test_broker_unreachable(room: Room, contract: Path, district: District, verb: str) -> None:
    words: dict[str, tuple[str | Path, ...]] = {
        "activate": ("contract", "activate", contract, "--yes"),
        "show": ("contract", "show"),
        "plan": ("topics", "plan", "--contract", contract),
        "apply": ("topics", "apply", "--contract", contract),
        "install": ("department", "install", "--config", district.config("registry@330106")),
    }
    said = room.run(*words[verb], "--bootstrap", NOBODY, timeout=60)
    told(said, 2, NOBODY)
    assert said.seconds < 45


@pytest.mark.parametrize("noun", ["department", "worker", "operations"])
def test_who_stays_waits_for_the_bus_or_says_why_not(
    room: Room, district: District, noun: str
) -> None:
    """A bus that is not there yet is awaited, said once; the wait can be ended."""
    words: dict[str, tuple[str | Path, ...]] = {
        "department": ("department", "run", "--config", district.config("registry@330106")),
        "worker": ("worker",),
        "operations": ("operations", "run"),
    }
    process, log = room.start(*words[noun], "--bootstrap", NOBODY)
    wait_until(lambda: NOBODY in log.read_text() or process.poll() is not None, 60, log.read_text)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, 2, -signal.SIGTERM), log.read_text()
    said = log.read_text()
    assert "Traceback" not in said
    assert NOBODY in said
    assert said.count("\n") < 12, "said once, not at every try"


# -- contract and department.yml ------------------------------------------------------------------


def test_wrong_contract_is_told_whole_and_starts_nothing(
    room: Room, contract: Path, district: District
) -> None:
    topics = contract / "topics.yml"
    text = topics.read_text(encoding="utf-8")
    text = text.replace("schema_version: 1", "schema_version: 7").replace("- county", "- galaxy")
    topics.write_text(text, encoding="utf-8")
    (contract / "grants.yml").write_text("grants: [{grant: g, unit: nobody@1}]\n", encoding="utf-8")
    for words in (("contract", "check", contract), ("up", "--embedded", "--data", district.data,
                                                    "--contract", contract)):  # fmt: skip
        said = room.run(*words)
        assert said.code == 1, str(said)
        lines = said.err.splitlines()
        assert lines[-1].startswith("deptbus: ")
        assert lines[-1].endswith("problems found")
        for line, what in ((8, "'county'"), (9, "account.v7.avsc")):
            assert any(w.startswith(f"{topics}:{line}: ") and what in w for w in lines), said.err
        assert any(line.startswith(f"{contract / 'grants.yml'}:1:") for line in lines)
    assert not (district.data / "broker").exists()


def test_contract_that_is_no_yaml(room: Room, contract: Path) -> None:
    (contract / "topics.yml").write_bytes(b"\xff\xfe\x00: [")
    said = room.run("contract", "check", contract)
    assert said.code == 1
    assert str(contract / "topics.yml") in said.err


def test_contract_that_is_not_there(room: Room) -> None:
    said = room.run("contract", "check", room.folder / "nowhere")
    assert said.code in (1, 2)
    assert "nowhere" in said.err


def test_unknown_unit(room: Room, contract: Path, district: District) -> None:
    config = district.write_department("registry@330199", publishes={"table": "zh", "columns": OWN})
    shutil.copyfile(district.source, config.with_name("own.db"))
    said = room.run("department", "install", "--config", config, "--contract", contract)
    assert said.code == 1, str(said)
    assert any(
        line.startswith(f"{config}:1: ") and "registry@330199" in line
        for line in said.err.splitlines()
    ), said.err


def test_unknown_unit_of_contract_show(room: Room, contract: Path) -> None:
    told(room.run("contract", "show", contract, "--unit", "police@330199"), 2, "police@330199")


def test_two_files_for_one_unit(room: Room, contract: Path, district: District) -> None:
    copy = district.data / "copy"
    shutil.copytree(district.source.parent, copy)
    words = ("up", "--embedded", "--data", district.data, "--contract", contract)
    said = room.run(*words)
    assert said.code == 1
    assert "registry@330106 has another file already" in said.err


# -- databases ------------------------------------------------------------------------------------


def test_database_is_not_there(room: Room, contract: Path, district: District) -> None:
    district.source.unlink()
    words = ("--config", district.config("registry@330106"))
    said = room.run("department", "install", *words, "--contract", contract)
    told(said, 2, "own.db: there is no such file", "Check `database:`")
    told(room.run("department", "status", *words), 2, "own.db: there is no such file")


def test_database_is_no_database(room: Room, contract: Path, district: District) -> None:
    district.source.write_bytes(b"this is a letter and no database\n" * 100)
    config = district.config("registry@330106")
    said = room.run("department", "install", "--config", config, "--contract", contract)
    told(said, 2, "own.db", "Check that it is a sound database")


def test_table_is_not_there(room: Room, contract: Path, district: District) -> None:
    script(district.source, "ALTER TABLE zh RENAME TO former")
    config = district.config("registry@330106")
    said = room.run("department", "install", "--config", config, "--contract", contract)
    told(said, 2, "zh")


def test_server_is_not_there(room: Room, contract: Path, district: District) -> None:
    config = district.write_department(
        "registry@330106", f"postgresql://clerk@{NOBODY}/x", publishes={"table": "zh",
                                                                        "columns": OWN}
    )  # fmt: skip
    said = room.run("department", "install", "--config", config, "--contract", contract)
    told(said, 2, NOBODY)


def test_no_rights_in_the_database(
    room: Room, contract: Path, district: District, postgres: PostgresServer
) -> None:
    url = postgres.create_database("without_rights")
    columns = "bh int PRIMARY KEY, dz text, hm text, je int, dh text, bz text"

    async def prepare() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE TABLE zh ({columns})")
        await connection.execute("CREATE ROLE guest LOGIN PASSWORD 'hidden-word'")
        await connection.close()

    asyncio.run(prepare())
    theirs = url.replace("://", "://guest:hidden-word@").replace("postgres@", "", 1)
    config = district.write_department(
        "registry@330106", theirs, publishes={"table": "zh", "columns": OWN}
    )
    said = room.run("department", "install", "--config", config, "--contract", contract)
    told(said, 2, "permission denied")
    assert "hidden-word" not in said.err + said.out


# -- the machine ----------------------------------------------------------------------------------


def test_port_is_taken(room: Room, contract: Path, district: District) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        words = ("--data", district.data, "--contract", contract, "--port", port)
        said = room.run("up", "--embedded", *map(str, words))
    told(said, 2, f"port {port} is taken by another program", "choose another port")


def test_folder_that_cannot_be_used(room: Room) -> None:
    (room.folder / "file").write_text("I am no folder")
    said = room.run("up", "--embedded", "--data", room.folder / "file")
    told(said, 2, "file", "folder")
    said = room.run("up", "--embedded", "--data", "/proc/nothing")
    told(said, 2, "/proc/nothing", "Give a folder that you may write")


def test_demo_into_a_folder_that_is_not_empty(room: Room) -> None:
    (room.folder / "full").mkdir()
    (room.folder / "full" / "letter.txt").write_text("mine")
    told(room.run("demo", "--keep", room.folder / "full"), 2, "is not empty")
    assert (room.folder / "full" / "letter.txt").read_text() == "mine"


def test_no_room_on_the_disk(room: Room) -> None:
    """`up` on a file system of 64 MB: said before anything is started."""
    small = room.folder / "small"
    small.mkdir()
    up = f"{room.deptbus} up --embedded --data {small}/data"
    inner = f"mount -t tmpfs -o size=64m tmpfs {small} && exec {up}"
    # A mount of its own name space, so that nothing is left mounted; with one's own user where
    # the machine allows that to everybody.
    argv = ["unshare", "--mount", "sh", "-c", inner]
    if os.getuid() != 0:
        argv[1:1] = ["--user", "--map-root-user"]
    done = subprocess.run(
        argv, env=room.environment(), cwd=room.folder, capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no small file system can be made here: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "no space left on the disk of" in line
    assert "Free 268 MB or give another folder" in line


def test_client_file_with_an_unknown_setting(room: Room) -> None:
    file = room.folder / "client.conf"
    file.write_text("# ours\nbootstrap=127.0.0.1:9\npasword=x\n")
    said = room.run("contract", "show", "--client-file", file, "--bootstrap", NOBODY)
    told(said, 2, f"{file}:3: not a setting of a client file")

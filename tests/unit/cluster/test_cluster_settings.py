"""Small pieces: properties files, ports, run.json."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deptbus.cluster import ports
from deptbus.cluster.runfile import remove_run_file, write_run_file
from deptbus.cluster.settings import SHARED, as_properties, single_node
from deptbus.cluster.up import find_departments
from deptbus.connection import find_connection
from deptbus.contract.department import Department, System
from deptbus.errors import DeptbusError, FileProblems


def test_the_embedded_broker_listens_on_the_loopback_only() -> None:
    settings = single_node(Path("/data"), 20000, 20001)
    for name in ("listeners", "advertised.listeners", "controller.quorum.voters"):
        for address in settings[name].split(","):
            assert "127.0.0.1:" in address
    assert SHARED.items() <= settings.items()


def test_backslashes_are_doubled_in_a_properties_file() -> None:
    assert as_properties({"log.dirs": "C:\\data"}) == "log.dirs=C:\\\\data\n"


def test_a_port_with_a_listener_is_not_free_and_answers() -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        assert ports.answers(port)
        assert not ports.becomes_free(port)  # at once: it is taken, not being let go
    assert ports.becomes_free(port)
    assert not ports.answers(port)


def test_a_free_port_is_free_and_out_of_the_way_of_outgoing_connections() -> None:
    port = ports.free_port()
    assert ports.is_free(port)
    assert port < 32_768


def write(data: Path, pid: int, database: str = "sqlite:///x") -> None:
    department = Department(
        unit="housing@330106",
        secret_file=Path("key.secret"),
        systems={"main": System(database=database)},
    )
    write_run_file(
        data,
        bootstrap="127.0.0.1:20000",
        contract="/contract",
        processes=[("broker", pid), ("worker-0", 4)],
        departments=[department],
    )


def test_run_json_has_the_agreed_form_and_no_password(tmp_path: Path) -> None:
    write(tmp_path, os.getpid(), "postgresql://clerk:secret@127.0.0.1:5432/own")
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "bootstrap": "127.0.0.1:20000",
        "contract": "/contract",
        "processes": [{"name": "broker", "pid": os.getpid()}, {"name": "worker-0", "pid": 4}],
        "units": {
            "housing@330106": {
                "config": "department.yml",
                "systems": {"main": "postgresql://clerk@127.0.0.1:5432/own"},
            }
        },
    }
    assert find_connection(data=tmp_path).bootstrap == "127.0.0.1:20000"
    remove_run_file(tmp_path)
    remove_run_file(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_json_left_by_an_up_that_was_killed_names_no_bus(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write(tmp_path, ended.pid)
    with pytest.raises(DeptbusError, match=r"no bus runs in .* any more"):
        find_connection(data=tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"processes": 3}', '{"processes": [{}]}'])
def test_a_run_json_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DeptbusError, match="cannot be read"):
        find_connection(data=tmp_path)


DEPARTMENT = "unit: {unit}\nsystems:\n  main:\n    database: sqlite:///own.db\n"


def put(folder: Path, unit: str) -> None:
    folder.mkdir(parents=True)
    (folder / "department.yml").write_text(DEPARTMENT.format(unit=unit))


def test_departments_are_found_below_the_data_folder_but_not_in_the_buss_own(
    tmp_path: Path,
) -> None:
    put(tmp_path / "departments" / "b", "police@330106")
    put(tmp_path / "a", "housing@330106")
    put(tmp_path / "broker" / "x", "hidden@330106")
    assert [d.unit for d in find_departments(tmp_path)] == ["housing@330106", "police@330106"]


def test_two_files_of_one_unit_and_a_broken_one_are_told_together(tmp_path: Path) -> None:
    put(tmp_path / "a", "housing@330106")
    put(tmp_path / "b", "housing@330106")
    put(tmp_path / "c", "[broken")
    with pytest.raises(FileProblems) as caught:
        find_departments(tmp_path)
    text = str(caught.value)
    assert "has another file already" in text
    assert str(tmp_path / "c") in text

"""Departments whose people were typed by hand join a running bus: nothing doubled, nothing of their
own touched, and what compare counts is what a referee counts in SQL. `make adoption` has it large.
"""

from __future__ import annotations

import json

import pytest
from installed import Room, wait_until
from joining import Joining, Lite

from deptbus.cluster.postgres import PostgresServer

pytestmark = pytest.mark.service

PEOPLE = 600


def test_two_departments_join(room: Room, postgres: PostgresServer) -> None:
    joining = Joining(room, postgres.create_database("typed_people"), PEOPLE)
    joining.make()
    with joining.up:
        for one in joining.departments:
            joining.wait_for_all(one)
            found, wanted = joining.compare(one)
            assert found == wanted
            assert wanted["different"] >= PEOPLE * 3 // 100
            assert wanted["ambiguous_records"] == PEOPLE // 100
            joining.join(one)
            assert joining.check(one, wanted) == {}
        lite = joining.departments[0]
        assert isinstance(lite, Lite)
        _put_back(joining, lite)


def _put_back(joining: Joining, lite: Lite) -> None:
    """What was overwritten is listed, and one command puts it into its row again."""
    words = ("department", "kept", "--config", lite.config)
    said = joining.room.run(*words, "-o", "json", "--values")
    line = next(one for one in json.loads(said.out) if one["own"]["电话"] == "变了")
    number = line["own"]["证号"]
    phone = f"SELECT 电话 FROM 人员 WHERE 证号 = '{number}'"
    assert lite.ask(phone) != [("变了",)]
    again = (*words, "--restore", str(line["number"]), "--data", joining.up.data)
    assert joining.room.run(*again).code == 0
    wait_until(lambda: lite.ask(phone) == [("变了",)], 10)

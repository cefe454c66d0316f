"""What `deptbus department status` says to a person: of parked rows, and where nothing has run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from routing_county import COUNTY, NOW, policy

from deptbus.cli.department_view import holds_of, is_well, print_holds, print_status
from deptbus.contract.department import Department, load_department
from deptbus.contract.model import Policy
from deptbus.errors import BusUnreachable
from deptbus.operations.hold import with_hold
from deptbus.stream import policies

ROOT = Path(__file__).parents[3]


def received(**parked: int) -> dict[str, Any]:
    return {"dataset": "person", "rows": 7, "waiting": 0, "parked": parked}


def said(capsys: pytest.CaptureFixture[str], *receives: dict[str, Any]) -> str:
    system = {"system": "main", "receives": list(receives)}
    print_status("housing@330106", [system])
    return " ".join(capsys.readouterr().out.split())


def test_parked_rows_are_counted_and_the_section_that_is_named_is_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys, received(odd=2))
    assert "2 parked: odd" in text
    document, heading = re.search(r"(docs/\S+\.md), section '([^']+)'", text).groups()
    assert f"### {heading}\n" in (ROOT / document).read_text(encoding="utf-8")
    assert not is_well({"receives": [received(odd=2)]})


def test_nothing_is_said_of_parked_rows_where_there_are_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "parked" not in said(capsys, received())


def test_a_recipient_whose_adapter_has_not_run_is_no_empty_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "its adapter has not run" in said(capsys)


def source(**changed: Any) -> dict[str, Any]:
    return {
        "installed": True,
        "publishes": ["person"],
        "publication": 7,
        "outbox_rows": 900,
        "oldest_age_seconds": 61.0,
        "outbox_fill_percent": 90.0,
        "publishing": {"state": "stalled"},
        "parked": {},
        "resync_needed": False,
        "snapshots": [],
        "held_removals": [],
        "findings": [{"what": "publishing has stalled for 61 s: [no] broker", "mend": "Start it"}],
    } | changed


def test_an_outbox_that_is_not_emptied_says_how_full_how_old_and_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    system = {"system": "main", "source": source()}
    print_status("housing@330106", [system])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "main: publishing has stalled for 61 s: [no] broker. Start it" in text
    assert "90 % of the outbox" in text
    assert not is_well(system)
    assert is_well({"source": source(findings=[])})


def test_removals_that_are_held_are_shown_with_their_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = {"number": 3, "dataset": "person", "keys": 1200}
    print_status("housing@330106", [{"system": "main", "source": source(held_removals=[held])}])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "1200 removals of person are held: hold 3" in text


@pytest.fixture
def housing(tmp_path: Path) -> Department:
    (tmp_path / "department.yml").write_text(
        f"unit: housing@{COUNTY}\nsystems:\n  main:\n    database: sqlite:///own.db\n"
        "    receives:\n      person:\n        table: people\n        columns:\n          id: id\n"
    )
    return load_department(tmp_path / "department.yml")


class InForce:
    """The history of one policy."""

    def __init__(self, policy: Policy | None) -> None:
        self._policy = policy

    def current(self) -> Policy:
        if self._policy is None:
            raise BusUnreachable("no broker answers")
        return self._policy


@pytest.mark.parametrize(
    ("unit", "dataset", "felt"),
    [(f"housing@{COUNTY}", "", True), ("", "person", True), (f"grid@{COUNTY}", "", False)],
)
async def test_a_department_is_told_what_is_held_back_from_it_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    housing: Department,
    unit: str,
    dataset: str,
    felt: bool,
) -> None:
    held = with_hold(policy(), unit, dataset, "a move", NOW, "wang")

    async def read(connection: object) -> InForce:
        return InForce(held)

    monkeypatch.setattr(policies, "read_policies", read)
    found = await holds_of(housing, None, "127.0.0.1:1", None)
    assert isinstance(found, list)
    assert bool(found) is felt
    print_holds(found)
    assert ("since 2026-06-02 00:00 UTC by wang: a move" in capsys.readouterr().out) is felt


async def test_where_the_bus_does_not_answer_nobody_says_that_nothing_is_held(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], housing: Department
) -> None:
    async def read(connection: object) -> InForce:
        return InForce(None)

    monkeypatch.setattr(policies, "read_policies", read)
    found = await holds_of(housing, None, "127.0.0.1:1", None)
    assert isinstance(found, str)
    print_holds(found)
    assert f"not known: {found}" in capsys.readouterr().out

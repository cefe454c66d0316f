"""Hints: what is allowed and does nothing."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
from contract_small import DEPARTMENTS, FILES, RESIDENT, TOPICS, edited, write

from deptbus.contract.advice import advise, may_receive, receivable_fields
from deptbus.contract.draft import Draft
from deptbus.contract.load import load, read

TODAY = date(2026, 11, 23)
T, D, G = "topics.yml", "departments.yml", "grants.yml"


def hints(
    directory: Path, files: dict[str, str], today: date = TODAY
) -> list[tuple[str, int, str]]:
    draft, problems = read(write(directory, files))
    assert problems == []
    return [(Path(p.file).name, p.line, p.what) for p in advise(draft, today)]


def test_the_small_contract_has_none(tmp_path: Path) -> None:
    assert hints(tmp_path, FILES) == []


def test_a_grant_that_has_ended_and_the_field_that_it_leaves_behind(tmp_path: Path) -> None:
    assert hints(tmp_path, FILES, date(2029, 1, 1)) == [
        ("grants.yml", 9, "grant `phone_for_housing` has ended"),
        (
            "topics.yml",
            25,
            "conditional field `phone` is in rule `sideways`, "
            "and none of its units holds a grant for it",
        ),
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "hint"),
    [
        (
            G,
            'territory: "330106"',
            'territory: "330105"',
            (G, 7, "no unit publishes `resident` about `330105`"),
        ),
        (
            T,
            "        levels: [township]\n",
            "        levels: [village]\n",
            (T, 26, "rule `home` reaches no unit of departments.yml"),
        ),
        (
            D,
            "  - unit: police@330106\n",
            "  - {unit: housing@3301, title: a, title_zh: b, owner: c}\n  - unit: police@330106\n",
            (D, 13, "unit `housing@3301` neither publishes nor receives anything"),
        ),
    ],
    ids=["grant about nowhere", "rule for nobody", "idle unit"],
)
def test_what_does_nothing(
    tmp_path: Path, file: str, old: str, new: str, hint: tuple[str, int, str]
) -> None:
    files = edited(file, old, new)
    files[D] = (
        files[D].replace('"330106": 西湖区', '"330106": 西湖区\n  "330105": 拱墅区')
        if (file == G)
        else files[D]
    )
    found = hints(tmp_path, files)
    assert hint in found


def test_a_unit_that_is_closed_for_longer_than_its_inbox_keeps_what_comes(tmp_path: Path) -> None:
    """The Spring Festival of 2026 closed offices for 231 hours; inboxes of the small contract keep
    what comes for 168."""
    files = edited(D, "owner: 办公室", "owner: 办公室\n    service_hours: 08:30-17:30")
    found = hints(tmp_path, files, date(2026, 1, 1))
    assert found[:1] == [
        (
            D,
            21,
            "unit `housing@330106` is closed for 231 hours at a time, and inboxes keep what comes "
            "for 168",
        )
    ]
    files[T] = re.sub(r"retention_hours: \d+", "retention_hours: 240", TOPICS)
    assert "retention_hours: 240" in files[T]
    assert hints(tmp_path, files, date(2026, 1, 1)) == []


def test_who_names_some_duty_contacts_means_to_name_all(tmp_path: Path) -> None:
    post = 'duty: {name: 值班室, phone: "0571-8765-4321"}'
    files = edited(D, "owner: 办公室", f"owner: 办公室\n    {post}")
    told = [what for _, _, what in hints(tmp_path, files)]
    assert (
        "the data office has no duty contact, and what concerns the bus itself is its matter"
        in (told)
    )
    assert (
        "unit `police@330106` and 1 more has no duty contact: alarms name its owner without a "
        "number" in told
    )
    files[D] = DEPARTMENTS.replace("units:\n", 'office: {name: 数据局, phone: "8100"}\nunits:\n')
    for owner in ("值班室", "办公室", "大厅"):
        files[D] = files[D].replace(f"owner: {owner}\n", f"owner: {owner}\n    {post}\n")
    assert hints(tmp_path, files) == []


def test_a_field_that_is_not_shared_any_more_still_stands_in_old_records(tmp_path: Path) -> None:
    files = dict(FILES)
    files[T] = TOPICS.replace(
        "    schema_version: 1\n    key: [resident_id]",
        "    schema_version: 2\n    key: [resident_id]",
    ).replace("born: unconditional", "born: not_shared")
    without = "\n".join(line for line in RESIDENT.splitlines() if '"born"' not in line)
    files["schemas/resident.v2.avsc"] = without
    assert hints(tmp_path, files) == [
        (
            "resident.v1.avsc",
            8,
            "field `born` is not_shared now, and records written under version 1 hold it",
        )
    ]


def test_what_a_unit_could_ever_receive(tmp_path: Path) -> None:
    contract = load(write(tmp_path, FILES))
    draft, units = Draft(contract), contract.unit_by_name
    assert may_receive(draft, units["street@330106109"], "resident")
    assert not may_receive(draft, units["street@330106109"], "flat")
    assert not may_receive(draft, units["police@330106"], "resident")
    assert receivable_fields(draft, units["street@330106109"], "resident") == {
        "resident_id",
        "name",
        "place",
    }
    # The rule names the phone, but only the grant brings it.
    assert "phone" in receivable_fields(draft, units["housing@330106"], "resident")
    without = Draft(contract.model_copy(update={"grants": ()}))
    assert "phone" not in receivable_fields(without, units["housing@330106"], "resident")

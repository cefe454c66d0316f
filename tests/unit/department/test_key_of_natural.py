"""A natural key becomes a bus key where the unit's own secret is, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from deptbus.contract.bundled import bundled
from deptbus.contract.department import Department, load_department
from deptbus.contract.load import load
from deptbus.contract.model import Contract
from deptbus.department.install import ensure_secret, key_of_natural
from deptbus.errors import DeptbusError
from deptbus.wire.keys import KeyMaker, fingerprint

UNIT, DATASET = "housing@330106", "housing_unit"
CONTRACT = load(bundled())


@pytest.fixture
def department(tmp_path: Path) -> Department:
    fields = CONTRACT.field_names(DATASET)
    columns = "\n".join(f"          {name}: {name}" for name in fields)
    (tmp_path / "department.yml").write_text(
        f"unit: {UNIT}\nsystems:\n  main:\n    database: sqlite:///own.db\n    publishes:\n"
        f"      {DATASET}:\n        table: homes\n        columns:\n{columns}\n"
    )
    return load_department(tmp_path / "department.yml")


def agreed(print_of_key: str | None) -> Contract:
    units = tuple(
        u.model_copy(update={"key_fingerprint": print_of_key}) if u.unit == UNIT else u
        for u in CONTRACT.units
    )
    return CONTRACT.model_copy(update={"units": units})


def test_it_is_the_key_that_the_adapter_makes(department: Department) -> None:
    secret, _ = ensure_secret(department.secret_file)
    maker = KeyMaker(secret, DATASET, CONTRACT.datasets[DATASET].canonical)
    found = key_of_natural(department, DATASET, agreed(fingerprint(secret)), (" h-0001 ",))
    assert found == maker.key(("H-0001",))


def test_another_secret_than_the_contracts_makes_no_key(department: Department) -> None:
    ensure_secret(department.secret_file)
    with pytest.raises(DeptbusError, match="not the one that the contract names"):
        key_of_natural(department, DATASET, agreed("ab" * 16), ("H-0001",))


@pytest.mark.parametrize("natural", [("H-0001", "H-0002"), (), (" ",)])
def test_what_is_no_natural_key_is_told_and_never_quoted(
    department: Department, natural: tuple[str, ...]
) -> None:
    ensure_secret(department.secret_file)
    with pytest.raises(DeptbusError) as refused:
        key_of_natural(department, DATASET, agreed(None), natural)
    assert "H-000" not in str(refused.value)


def test_without_a_secret_there_is_no_key(department: Department) -> None:
    with pytest.raises(DeptbusError):
        key_of_natural(department, DATASET, agreed(None), ("H-0001",))

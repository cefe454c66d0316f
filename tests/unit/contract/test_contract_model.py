"""What a contract says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Contract, Proofs, TwoPeople


def test_a_copy_with_other_content_has_its_own_digest_and_units() -> None:
    contract = load(bundled())
    digest, units = contract.digest, contract.unit_by_name  # both are cached now
    fewer = contract.model_copy(update={"units": contract.units[1:]})
    assert fewer.digest != digest
    assert contract.units[0].unit in units
    assert contract.units[0].unit not in fewer.unit_by_name
    assert contract.model_copy().digest == digest


def test_who_may_publish_and_which_versions_there_are() -> None:
    contract = load(bundled())
    assert contract.published_by("public_security@330106") == ("resident", "household")
    assert contract.published_by("public_security@3301") == ()
    assert not contract.may_publish("public_security@330106", "boat")
    assert not contract.may_publish("nobody@330106", "resident")
    assert contract.schema_versions("resident") == (1,)
    assert contract.field_names("household")[0] == "household_id"


def test_a_contract_that_says_nothing_of_proofs_is_the_one_it_was() -> None:
    """Contracts that lie on a bus keep their digests."""
    contract = load(bundled()).model_copy(update={"proofs": None})
    assert "proofs" not in contract.to_json()
    nightly = contract.model_copy(update={"proofs": Proofs(at="02:30")})
    assert nightly.digest != contract.digest
    assert Contract.from_json(nightly.to_json()).proofs == Proofs(at="02:30", deep=False)


def test_a_contract_that_asks_for_no_second_person_is_the_one_it_was() -> None:
    contract = load(bundled())
    assert "two_people" not in contract.to_json()
    asked = TwoPeople(acts=("repair",), datasets=("resident",))
    guarded = contract.model_copy(update={"two_people": asked})
    assert guarded.digest != contract.digest
    assert Contract.from_json(guarded.to_json()).two_people == asked


@pytest.mark.parametrize(
    ("datasets", "act", "touched", "is_asked"),
    [
        ((), "replay", ["resident"], True),
        ((), "repair", ["resident"], False),
        (("resident",), "replay", ["household", "resident"], True),
        (("resident",), "replay", ["household"], False),
    ],
)
def test_two_people_are_asked_for_by_act_and_dataset(
    datasets: tuple[str, ...], act: Any, touched: list[str], is_asked: bool
) -> None:
    asked = TwoPeople(acts=("replay",), datasets=datasets)
    assert asked.ask_for(act, touched) is is_asked

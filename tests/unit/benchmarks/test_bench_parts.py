"""Every part of the benchmarks can be called, is listed, and stands in CONTRIBUTING.md."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from benchmarks import county, parts
from benchmarks.__main__ import arguments, chosen
from deptbus.change import Change
from deptbus.contract.model import Policy
from deptbus.routing import Router
from deptbus.wire.codecs import Codecs

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", parts.names())
def test_a_part_has_what_is_asked_of_it(name: str) -> None:
    part = parts.load(name)
    assert inspect.iscoroutinefunction(part.run)
    assert list(inspect.signature(part.run).parameters) == ["bench"]
    assert part.ABOUT
    assert "\n" not in part.ABOUT


def test_the_parts_stand_in_the_documents() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \|", text.partition("## Benchmarks")[2], re.M)
    assert sorted(documented) == parts.names()


def test_all_parts_run_but_those_that_are_only_by_name() -> None:
    whole = [n for n in parts.names() if not parts.is_by_name_only(parts.load(n))]
    assert chosen([], quick=False) == whole
    assert chosen(["codec"], quick=False) == ["codec"]


def test_the_quick_form_leaves_out_what_takes_long_unless_it_is_named() -> None:
    left_out = {"growth", "reconcile"}
    assert set(chosen([], quick=True)) == set(chosen([], quick=False)) - left_out
    assert chosen(["growth"], quick=True) == ["growth"]


@pytest.mark.parametrize("words", [["nonsense"], ["--runs", "0"]])
def test_what_there_is_not_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(words)
    assert ended.value.code == 2


def changes(of: Codecs, count: int) -> list[Change]:
    return list(county.changes(of, count))


@pytest.mark.parametrize(("recipients", "projections"), [(1, 1), (8, 3)])
def test_the_world_is_what_the_targets_speak_of(recipients: int, projections: int) -> None:
    contract = county.contract(recipients, bystanders=100)
    codecs = Codecs(contract)
    sample = changes(codecs, 200)
    sizes = [len(codecs.encode_change(change)) for change in sample]
    assert 230 <= sum(sizes) / len(sizes) <= 270
    assert len(county.NAMES) == 15
    now = county.datetime.now(county.CHINA)
    router = Router(Policy(number=1, activated_at=now, activated_by="t", contract=contract))
    for change in sample:
        deliveries = router.route(change, now)
        assert [d.unit for d in deliveries] == sorted(county.recipients_of(contract))
        assert len(deliveries) == recipients
        assert len({d.fields for d in deliveries}) == projections
    assert len(contract.unit_by_name) == 1 + recipients + 100


def test_residents_are_each_another_and_pass_the_check_of_their_number() -> None:
    from stdnum.cn import ric

    rows = [county.resident(n) for n in range(5000)]
    rows += [county.resident(n) for n in range(995_000, 1_000_000)]
    numbers = {str(row["resident_id"]) for row in rows}
    assert len(numbers) == 10_000
    assert all(ric.calc_check_digit(number) == number[-1] for number in numbers)
    assert county.resident(7) != county.resident(7, edition=1)

"""The verdict on drawn and on known pairs is SQL's; encoders and sums with a mistake are found.

A million pairs: `make pairs`.
"""

from __future__ import annotations

import random

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from deptbus.proof.item import Item
from deptbus.proof.leaves import Leaves
from deptbus.wire.digest import values_digest

from .golden import GOLDEN
from .known_tools import TOOLS
from .planted import PLANTED
from .rows import Table, pair, tables
from .run import run
from .verdict import ours, row_verdicts, sqlite_verdicts

_SEED = 2026
_PAIRS = 20_000
_PAIRS_WITH_A_MISTAKE = 4_000


def test_drawn_pairs_are_judged_as_sql_judges_them():
    told = run(_PAIRS, _SEED)
    assert told.disagreements == []
    assert _PAIRS // 4 < told.equal < _PAIRS * 3 // 4  # both answers are given often


@settings(max_examples=examples(200), deadline=None)
@given(st.randoms(use_true_random=False))
def test_pairs_that_hypothesis_draws_are_judged_as_sql_judges_them(chance: random.Random):
    rows, small = pair(chance), tables(chance)
    every = [([rows[0]], [rows[1]]), small]
    assert row_verdicts([rows]) + ours([small]) == sqlite_verdicts(every)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.name)
def test_pairs_on_which_known_tools_err(case):
    tables_of_case = [(case.one, case.other)]
    assert sqlite_verdicts(tables_of_case) == [case.is_equal]
    assert ours(tables_of_case) == [case.is_equal]
    fooled = {name for name, says in TOOLS.items() if says(case.one, case.other) != case.is_equal}
    assert fooled == set(case.fooled)


def test_each_known_tool_errs_on_some():
    assert {name for case in GOLDEN for name in case.fooled} == set(TOOLS)


@pytest.mark.parametrize("name", PLANTED)
def test_an_encoder_with_a_mistake_is_found(name):
    assert run(_PAIRS_WITH_A_MISTAKE, _SEED, digest=PLANTED[name]).disagreements


class _Xor(Leaves):
    """Planted: combines hashes by XOR, with an honest count beside it."""

    def add(self, item: Item) -> None:
        alone = Leaves(self.bits)
        alone.add(item)
        (count, total), (_, hashed) = self.count_and_sum(0), alone.count_and_sum(0)
        self._leaves[0] = (count + 1) * (alone._leaves[0] - hashed) + (total ^ hashed)


def test_xor_instead_of_sums_is_found():
    chance = random.Random(_SEED)
    drawn = [tables(chance) for _ in range(_PAIRS_WITH_A_MISTAKE)]
    true = sqlite_verdicts(drawn)
    assert [_leaves(Leaves, a) == _leaves(Leaves, b) for a, b in drawn] == true
    assert [_leaves(_Xor, a) == _leaves(_Xor, b) for a, b in drawn] != true


def _leaves(kind: type[Leaves], table: Table) -> bytes:
    leaves = kind(1)
    leaves.add_all(Item(bytes(16), 0, values_digest(row)) for row in table)
    return leaves.to_bytes()

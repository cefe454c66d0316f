"""The fold: of each key the highest version wins, wherever it lies."""

from __future__ import annotations

import random

from deptbus.operations.fold import Fold, Winners

A, B = b"a" * 16, b"b" * 16
POLICE = "public_security@330106"


def folded(*records: tuple[bytes, int]) -> Fold:
    fold = Fold()
    for offset, (key, version) in enumerate(records):
        fold.add(offset, POLICE, key, version)
    return fold


def offsets(fold: Fold, end: int) -> list[int]:
    winners = fold.winners(0, end)
    return [offset for offset in range(end) if offset in winners]


def test_the_last_record_wins_while_versions_grow():
    fold = folded((A, 1), (B, 7), (A, 2))
    assert offsets(fold, 3) == [1, 2]
    assert fold.misplaced() == []


def test_a_lower_version_that_lies_last_does_not_win_and_is_misplaced():
    fold = folded((A, 1), (A, 3), (B, 1), (A, 2))
    assert offsets(fold, 4) == [1, 2]
    assert fold.misplaced() == [1]


def test_a_version_appended_again_is_not_misplaced_any_more():
    fold = folded((A, 3), (A, 2), (A, 3))
    assert offsets(fold, 3) == [2]
    assert fold.misplaced() == []


def test_of_equal_versions_the_last_wins():
    assert offsets(folded((A, 3), (A, 3)), 2) == [1]


def test_keys_of_different_source_units_do_not_stand_against_each_other():
    fold = Fold()
    fold.add(0, POLICE, A, 9)
    fold.add(1, "housing@330106", A, 1)
    assert offsets(fold, 2) == [0, 1]
    assert fold.misplaced() == []


def test_winners_know_nothing_outside_their_span():
    winners = Winners(100, 110, [100, 109])
    assert [o for o in range(90, 120) if o in winners] == [100, 109]
    assert winners.count == 2
    assert 5 not in Winners(0, 0, [])


def test_the_fold_agrees_with_the_highest_version_by_sorting():
    rng = random.Random(7)
    records = [(bytes([rng.randrange(20)]) * 16, rng.randrange(50)) for _ in range(2000)]
    best = {}
    for offset, (key, version) in enumerate(records):
        best[key] = max(best.get(key, (-1, -1)), (version, offset))
    last = dict(records)
    fold = folded(*records)
    assert offsets(fold, 2000) == sorted(offset for _, offset in best.values())
    assert fold.misplaced() == sorted(o for k, (v, o) in best.items() if last[k] < v)

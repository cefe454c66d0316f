"""Every order of a few transactions over the tables behind a view ends with what the view has."""

from __future__ import annotations

import random
from itertools import combinations_with_replacement, product

import pytest

from .views import ADDRESS, PERSON, VILLAGE, Tables, Transaction, Write, explore

START: Tables = tuple(
    sorted(
        {
            (PERSON, 1): (11, 0),
            (PERSON, 2): (12, 0),
            (ADDRESS, 1): (1, 0),
            (VILLAGE, 1): (0,),
            (VILLAGE, 2): (0,),
        }.items()
    )
)
WRITES = (
    Write((VILLAGE, 1), (7,)),  # it gets another name
    Write((VILLAGE, 1), None),
    Write((ADDRESS, 2), (1, 0)),  # somebody comes to live there
    Write((ADDRESS, 1), (2, 0)),
    Write((ADDRESS, 1), None),
    Write((PERSON, 1), (13, 0)),  # another number
    Write((PERSON, 1), None),
    Write((PERSON, 3), (14, 5)),
    Write((ADDRESS, 3), (1, 5)),
)
ALONE = [Transaction((write,)) for write in WRITES]
IN_TWO = [Transaction(pair) for pair in product(WRITES, repeat=2) if pair[0].place != pair[1].place]


def test_two_transactions_in_every_order() -> None:
    for pair in combinations_with_replacement(ALONE, 2):
        assert next(explore(START, pair), None) is None, pair
    for first, second in product(ALONE, IN_TWO):
        assert next(explore(START, (first, second)), None) is None, (first, second)


@pytest.mark.parametrize("seed", range(4))
def test_three_transactions_in_every_order(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(60):
        some = [chance.choice(ALONE), chance.choice(ALONE), chance.choice(IN_TWO)]
        some[0] = some[0]._replace(is_rolled_back=chance.random() < 0.2)
        assert next(explore(START, some), None) is None, some


def test_planted_who_a_row_touches_is_found_out_when_it_is_written() -> None:
    """A village gets another name while somebody comes to live there: neither sees the other."""
    renamed, came = Transaction((WRITES[0],)), Transaction((WRITES[2],))
    assert next(explore(START, (renamed, came)), None) is None
    assert next(explore(START, (renamed, came), joins_when_written=True), None) is not None

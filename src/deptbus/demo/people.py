"""Synthetic people, enterprises and addresses: valid by their check digits, and clearly nobody's.

Everything is drawn from one seeded `random.Random`, so a county can be built again exactly. Names
are made of a short list of syllables that announce themselves ("测试", test).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta

from stdnum.cn import ric, uscc

_SURNAMES = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张"
_GIVEN = ("测试", "样例", "演示", "示范", "虚构", "模拟")
_TAILS = "甲乙丙丁戊己庚辛壬癸"
_STREETS = ("文一路", "文二路", "天目山路", "古墩路", "莫干山路", "教工路", "紫荆花路", "西溪路")
_TRADES = ("茶叶", "软件", "餐饮", "文创", "物业", "五金", "园艺", "印务")


@dataclass(frozen=True, slots=True)
class Person:
    resident_id: str
    name: str
    sex: str  # "male" or "female"
    birth_date: date
    phone: str
    address: str
    place: str  # 12-digit code of the community


def resident_id(birth: date, sequence: int) -> str:
    """A resident number by GB 11643 whose check digit is right."""
    body = f"330106{birth:%Y%m%d}{sequence:03d}"
    return body + ric.calc_check_digit(body + "0")


def credit_code(sequence: int) -> str:
    """A credit code by GB 32100 whose check digit is right (type 9, 1: enterprise)."""
    body = f"91330106MA{sequence:07d}"
    return body + uscc.calc_check_digit(body)


def address(rng: random.Random) -> str:
    street, number = rng.choice(_STREETS), rng.randint(1, 399)
    return f"{street}{number}号{rng.randint(1, 30)}幢{rng.randint(101, 2804)}室"


def enterprise_name(rng: random.Random, sequence: int) -> str:
    return f"杭州测试{rng.choice(_TRADES)}{sequence:05d}有限公司"


def people(
    rng: random.Random, count: int, places: list[str], *, first_sequence: int = 0
) -> list[Person]:
    """`count` people with distinct resident numbers, spread over `places`.

    Groups of people made with sequence numbers a hundred apart have no number in common.
    """
    made: list[Person] = []
    per_day: dict[date, int] = {}
    while len(made) < count:
        birth = date(1945, 1, 1) + timedelta(days=rng.randrange(27_000))
        sequence = per_day.get(birth, first_sequence)
        if sequence >= first_sequence + 100:
            continue
        per_day[birth] = sequence + 1
        made.append(
            Person(
                resident_id=resident_id(birth, sequence),
                name=rng.choice(_SURNAMES) + rng.choice(_GIVEN) + rng.choice(_TAILS),
                sex="male" if sequence % 2 else "female",
                birth_date=birth,
                # one block of numbers, so that they are seen to be made up
                phone=f"1990000{rng.randrange(10_000):04d}",
                address=address(rng),
                place=rng.choice(places),
            )
        )
    return made

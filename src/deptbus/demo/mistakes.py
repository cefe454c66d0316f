"""Mistakes made on purpose, each by name, so that the demonstration shows what becomes of them.

A clerk's mistake is parked: at the source when it fails the checks there, at a recipient when that
database refuses the row. A foreign or hostile record on an outbox is quarantined by intake.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import date
from typing import Any

from deptbus import names
from deptbus.connection import Connection
from deptbus.demo.county import LONGEST_NAME, County, communities, insert
from deptbus.demo.people import resident_id
from deptbus.stream.log import Outgoing, Sender, read_to_end

POLICE = "public_security@330106"


@dataclass(frozen=True, slots=True)
class Mistake:
    """`key` is the natural key (dataset, value) of the record concerned, where there is one."""

    what: str
    outcome: str  # "parked" or "quarantined"
    where: str
    key: tuple[str, str] | None = None


def clerks_mistakes(county: County) -> list[Mistake]:
    """Four rows that no check or no recipient's database lets pass: each is parked, once.

    Make them when the clerks have begun: these rows are then in none of their lists.
    """
    department = county.departments[POLICE]
    place = communities(county.contract, "330106")[0]
    good = [resident_id(date(1960, 2, 3), 990 + n) for n in range(4)]
    wrong_digit = good[0][:-1] + ("1" if good[0][-1] != "1" else "2")
    full_width = "".join(chr(ord(c) + 0xFEE0) for c in good[2])
    rows = [
        _resident(good[2], place, "先来的人"),
        _resident(wrong_digit, place, "检验码错"),
        _resident(good[1], "33010600555", "区划码错"),
        _resident(full_width, place, "重复登记"),
        # It goes to civil affairs of the same district, whose table allows no such name.
        _resident(good[3], place, "长" * (LONGEST_NAME + 1)),
    ]
    desk = department.desk()
    for row in rows:
        insert(desk, department, county.contract, "resident", [row])
    desk.close()
    source = f"at the source, {POLICE}"
    return [
        Mistake("resident number with a wrong check digit", "parked", source, _key(wrong_digit)),
        Mistake("place code of eleven digits", "parked", source, _key(good[1])),
        Mistake("the same number again, in full-width digits", "parked", source, _key(good[2])),
        Mistake(
            f"a name of more than {LONGEST_NAME} characters",
            "parked",
            "at civil_affairs@330106, whose table refuses it",
            _key(good[3]),
        ),
    ]


async def foreign_records(connection: Connection) -> list[Mistake]:
    """Three records that no adapter of ours would send, written straight to outboxes."""
    theirs = await _a_record_of(connection, POLICE)
    hostile = b"\x00" + theirs[1][1:5] + b"\xff" * 40
    unknown = b"\x00" + secrets.token_bytes(4) + b"\x02"
    async with Sender(connection) as sender:
        await sender.send(
            [
                Outgoing(names.out_topic("housing@330106"), None, *theirs),
                Outgoing(names.out_topic("market_regulation@330106"), None, theirs[0], hostile),
                Outgoing(names.out_topic("market_regulation@330106"), None, theirs[0], unknown),
            ]
        )
    return [
        Mistake("the police's record in the outbox of housing", "quarantined", "at intake"),
        Mistake("a known schema id before bytes that are no record", "quarantined", "at intake"),
        Mistake("a schema id that nobody knows", "quarantined", "at intake"),
    ]


async def _a_record_of(connection: Connection, unit: str) -> tuple[bytes, bytes]:
    for record in await read_to_end(connection, names.out_topic(unit)):
        if record.key is not None and record.value is not None:
            return record.key, record.value
    raise RuntimeError(f"{unit} has published nothing yet")


def _key(value: str) -> tuple[str, str]:
    return ("resident", value)


def _resident(key: str, place: str, name: str) -> dict[str, Any]:
    return {
        "resident_id": key,
        "name": name,
        "sex": "unknown",
        "birth_date": date(1960, 2, 3),
        "ethnic_group": None,
        "division": place,
        "address": "测试路1号",
        "household_id": None,
        "marital_status": "unknown",
        "registered_on": None,
        "phone": None,
        "employer": None,
    }

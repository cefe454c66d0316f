"""The world that is measured: one source unit, 1 or 8 recipients, residents of 15 fields.

A change of a resident is about 250 bytes on the wire. Recipients get three different projections:
`HOUSING` 13 fields, others 13, 8 or 4; seven lie beside the source (horizontal), one above it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

from deptbus.change import Cause, Change, ChangeOp, Incarnation
from deptbus.contract.model import Contract, Dataset, Line, Rule, Sharing, Unit
from deptbus.wire.codecs import Codecs

DATASET = "resident"
TERRITORY, CITY = "330106", "3301"
SOURCE = f"public_security@{TERRITORY}"
HOUSING = f"housing@{TERRITORY}"
PARTITIONS = 4
COMMUNITIES = tuple(f"33010600{n}{m:03}" for n in range(1, 10) for m in range(1, 6))
INCARNATION = Incarnation(1, b"bench--1")
CHINA = timezone(timedelta(hours=8))


def _type(kind: Any, logical: str | None = None) -> Any:
    return {"type": kind, "logicalType": logical} if logical else kind


def _symbols(name: str, *symbols: str) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols)}


_DATE = _type("int", "date")
FIELDS: dict[str, Any] = {
    "resident_id": "string",
    "name": "string",
    "sex": _symbols("Sex", "male", "female", "unknown"),
    "birth_date": _DATE,
    "ethnic_group": ["null", "string"],
    "division": "string",
    "address": "string",
    "household_id": ["null", "string"],
    "household_size": "int",
    "marital_status": _symbols("MaritalStatus", "single", "married", "widowed", "divorced"),
    "registered_on": ["null", _DATE],
    "updated_at": _type("long", "timestamp-micros"),
    "phone": ["null", "string"],
    "employer": ["null", "string"],
    "occupation": ["null", "string"],
}
NAMES = tuple(FIELDS)
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Resident",
    "fields": [
        {"name": name, "type": kind} | ({"default": None} if isinstance(kind, list) else {})
        for name, kind in FIELDS.items()
    ],
}
# Three projections; the first drops two fields of fifteen.
MOST = tuple(n for n in NAMES if n not in ("phone", "employer"))
SOME = NAMES[:8]
FEW = ("resident_id", "name", "division", "address")

# line -> its projection. The first is the only recipient of a world of one.
BESIDE = {
    "housing": MOST,
    "civil_affairs": MOST,
    "health": MOST,
    "education": SOME,
    "transport": SOME,
    "water": SOME,
    "justice": FEW,
}
EIGHT = 8


def contract(recipients: int = 1, bystanders: int = 0, partitions: int = PARTITIONS) -> Contract:
    """`recipients`: 1 (housing of the same district) or 8. `bystanders`: further units, in further
    districts, that publish and receive the same dataset among themselves."""
    if recipients not in (1, EIGHT):
        raise ValueError("a world has one recipient or eight")
    lines = list(BESIDE)[: 1 if recipients == 1 else len(BESIDE)]
    rules = [_rule(f"to-{line}", "horizontal", line, BESIDE[line]) for line in lines]
    units = [SOURCE, *(f"{line}@{TERRITORY}" for line in lines)]
    if recipients == EIGHT:
        rules.append(_rule("up", "upward", "public_security", FEW))
        units.append(f"public_security@{CITY}")
    territories = {"33": "Zhejiang", CITY: "Hangzhou", TERRITORY: "Xihu"}
    territories |= {code: f"Community {code}" for code in COMMUNITIES}
    for n in range(bystanders):
        district = _district(n // 2)
        territories |= {district[:2]: "A province", district[:4]: "A city", district: "A district"}
        units.append(f"{('public_security', 'housing')[n % 2]}@{district}")
    return Contract(
        territories=territories,
        lines={name: Line(title=name, title_zh=name) for name in ("public_security", *BESIDE)},
        units=tuple(_unit(name) for name in units),
        datasets={DATASET: _dataset(rules)},
        grants=(),
        schemas={f"{DATASET}.v1": SCHEMA},
        partitions=partitions,
    )


def recipients_of(made: Contract) -> list[str]:
    """The units of the source's own territory and line that receive what it publishes."""
    return [u.unit for u in made.units if u.territory in (TERRITORY, CITY) and u.unit != SOURCE]


def _rule(name: str, direction: Any, line: str, fields: Sequence[str]) -> Rule:
    return Rule(rule=name, direction=direction, lines=(line,), fields=tuple(fields))


def _unit(name: str) -> Unit:
    return Unit(unit=name, title=name, title_zh=name, owner=f"desk of {name}")


def _district(n: int) -> str:
    """Districts of other provinces, so that none is related to the source's."""
    province, rest = divmod(n, 81 * 81)
    city, district = divmod(rest, 81)
    return f"{34 + province}{1 + city:02}{1 + district:02}"


def _dataset(rules: Sequence[Rule]) -> Dataset:
    return Dataset(
        title="Residents",
        title_zh="居民",
        line="public_security",
        levels=("county",),
        schema_version=1,
        key=("resident_id",),
        division="division",
        sharing=dict.fromkeys(NAMES, Sharing.UNCONDITIONAL),
        receivers=tuple(rules),
    )


def resident(n: int, edition: int = 0) -> dict[str, Any]:
    """Row `n` (of 28 million) of the register as it stands after `edition` changes; `resident_id`
    passes the check of GB 11643."""
    born = date(1940, 1, 1) + timedelta(days=n * 7919 % 28_000)
    return {
        "resident_id": _resident_id(born, n // 28_000 % 1000),
        "name": f"居民{n % 10_000:04}",
        "sex": ("male", "female")[n % 2],
        "birth_date": born,
        "ethnic_group": "汉" if n % 8 else None,
        "division": COMMUNITIES[n % len(COMMUNITIES)],
        "address": f"西湖区灵隐街道文三路{n % 700}号{edition % 90}幢{n % 30}单元{n % 12}01室",
        "household_id": f"H{n:09}",
        "household_size": 1 + n % 5,
        "marital_status": ("single", "married")[n % 3 > 0],
        "registered_on": date(2020, 1 + n % 12, 1),
        "updated_at": datetime(2026, 1, 1, tzinfo=CHINA) + timedelta(seconds=n + edition),
        "phone": f"1390000{n % 10_000:04}",
        "employer": f"西湖第{n % 400}工程公司" if n % 4 else None,
        "occupation": ("clerk", "teacher", "engineer")[n % 3],
    }


_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def _resident_id(born: date, order: int) -> str:
    digits = f"{TERRITORY}{born:%Y%m%d}{order:03}"
    total = sum(int(d) * w for d, w in zip(digits, _WEIGHTS, strict=True))
    return digits + "10X98765432"[total % 11]


def key_of(n: int) -> bytes:
    return hashlib.blake2b(n.to_bytes(8, "big"), digest_size=16).digest()


def changes(codecs: Codecs, count: int, first: int = 0) -> Iterator[Change]:
    """Upserts of `count` different residents, as the source's adapter would publish them."""
    codec = codecs.record_codec(DATASET, 1)
    for n in range(first, first + count):
        row = resident(n)
        yield Change(
            dataset=DATASET,
            key=key_of(n),
            op=ChangeOp.UPSERT,
            reason=None,
            source_unit=SOURCE,
            incarnation=INCARNATION,
            version=1_000_000 + n,
            source_time_us=1_790_000_000_000_000 + 37 * n,
            publication=1 + n // 2000,
            division=row["division"],
            former_divisions=(),
            cause=Cause.LIVE,
            job=None,
            policy=1,
            schema_version=1,
            record=codec.encode(row),
        )

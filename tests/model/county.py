"""The county of the model: two sources of one dataset, eight recipients, and contracts for them."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime

from deptbus.contract.department import Publish, Receive
from deptbus.contract.model import Contract, Dataset, Grant, Line, Rule, Sharing, Unit
from deptbus.contract.territory import Level
from deptbus.department.publication import Publication
from deptbus.department.target import Column, ContractShapes, MappedTarget
from deptbus.department.values import ColumnKind
from deptbus.wire.codecs import Codecs

DATASET = "person"
FIELDS = ("id", "name", "place", "phone", "nick")
SHARING = {
    "id": Sharing.UNCONDITIONAL,
    "name": Sharing.UNCONDITIONAL,
    "place": Sharing.UNCONDITIONAL,
    "phone": Sharing.CONDITIONAL,
    "nick": Sharing.UNCONDITIONAL,  # unconditional, and yet in few include-lists
}
COUNTY, NEIGHBOUR = "330106", "330105"
TOWNS = ("330106109", "330106110")
VILLAGES = ("330106109051", "330106110051")
TERRITORIES = ("33", "3301", COUNTY, NEIGHBOUR, *TOWNS, *VILLAGES, "330105001")
PLACES = {
    f"police@{COUNTY}": (COUNTY, *TOWNS, *VILLAGES),
    f"police@{NEIGHBOUR}": (NEIGHBOUR, "330105001"),
}
MISTYPED = "330106999"  # within the county, and nowhere
SOURCES = tuple(PLACES)
RECIPIENTS = (
    f"housing@{COUNTY}",  # horizontal
    f"housing@{NEIGHBOUR}",
    "police@3301",  # upward, from both: where records of two sources meet in one row
    f"police@{TOWNS[0]}",  # downward
    *(f"grid@{place}" for place in (*TOWNS, VILLAGES[0])),  # return, and notices downward
    "health@3301",  # by grants alone
)
BEGIN = datetime(2026, 6, 1, 4, tzinfo=UTC)
_LAST_DAYS = tuple(date(2026, 6, day) for day in (1, 2, 3, 30))


def _rule(chance: random.Random, direction: str, line: str) -> Rule | None:
    if chance.random() < 0.15:
        return None
    fields = [f for f in FIELDS[1:] if chance.random() < {"nick": 0.15}.get(f, 0.7)]
    return Rule(
        rule=f"{direction}_{line}",
        direction=direction,  # type: ignore[arg-type]
        lines=(line,),
        fields=("id", *fields),
    )


def _grant(chance: random.Random, number: int) -> Grant:
    unit = chance.choice(("health@3301", "health@3301", *RECIPIENTS))
    fields = [f for f in FIELDS[1:] if chance.random() < 0.5]
    return Grant(
        grant=f"g{number}",
        unit=unit,
        dataset=DATASET,
        fields=("id", "phone", *(f for f in fields if f != "phone")),
        purpose="a test",
        territory=chance.choice(("3301", COUNTY, *TOWNS)),
        starts=chance.choice(_LAST_DAYS[:3]),
        until=chance.choice(_LAST_DAYS),
    )


def _contract(chance: random.Random) -> Contract:
    wanted = (
        ("horizontal", "housing"),
        ("upward", "police"),
        ("downward", "police"),
        ("downward", "grid"),
        ("return", "grid"),
    )
    found = [_rule(chance, direction, line) for direction, line in wanted]
    return Contract(
        territories={code: code for code in TERRITORIES},
        lines={n: Line(title=n, title_zh=n) for n in ("police", "housing", "grid", "health")},
        units=tuple(
            Unit(unit=u, title=u, title_zh=u, owner="owner")
            for u in dict.fromkeys((*SOURCES, *RECIPIENTS))
            if u in SOURCES or chance.random() < 0.95  # units join and leave
        ),
        datasets={
            DATASET: Dataset(
                title="Person",
                title_zh="人员",
                line="police",
                levels=(Level.COUNTY,),
                schema_version=1,
                key=("id",),
                division="place",
                sharing=SHARING,
                receivers=tuple(rule for rule in found if rule is not None),
            )
        },
        grants=tuple(_grant(chance, number) for number in range(chance.randint(0, 4))),
        schemas={
            f"{DATASET}.v1": {
                "type": "record",
                "name": "Person",
                "fields": [{"name": name, "type": "string"} for name in FIELDS],
            }
        },
        partitions=1,
    )


# Made once: compiling codecs would cost more than a schedule.
CONTRACTS = tuple(_contract(random.Random(number)) for number in range(24))
CODECS = Codecs(CONTRACTS[0])
_PUBLISH = Publish(table="persons", columns={f: f for f in FIELDS})
PUBLICATIONS = {
    unit: {DATASET: Publication(unit, DATASET, _PUBLISH, CONTRACTS[0], unit.encode().ljust(32))}
    for unit in SOURCES
}


def target() -> MappedTarget:
    """Every recipient keeps all fields that it might get, in columns of its own."""
    receive = Receive(table="copies", columns={f: f"c_{f}" for f in FIELDS})
    catalogue = {
        column: Column(column, ColumnKind.TEXT, "TEXT") for column in receive.columns.values()
    }
    return MappedTarget(
        DATASET, receive, ("c_id",), catalogue, ContractShapes(CONTRACTS[0], CODECS)
    )


TARGET = target()

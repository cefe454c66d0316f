"""One unit that publishes `person` from a table of its own, for tests of publishing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from deptbus.change import Incarnation
from deptbus.contract.department import Department, HoldRemovals, Publish, System
from deptbus.contract.model import Check, Contract, Dataset, Line, Policy, Sharing, Unit
from deptbus.department.capture import Known, OutboxRow
from deptbus.department.publication import Batch, Publication, Stamp
from deptbus.wire.keys import fingerprint

SECRET = bytes(range(32))
PLACES = ("330106109051", "330106109052", "330106109053")
_FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "string"},
    {"name": "place", "type": "string"},
    {"name": "name", "type": "string"},
    {"name": "sex", "type": {"type": "enum", "name": "Sex", "symbols": ["male", "female"]}},
    {"name": "born", "type": ["null", {"type": "int", "logicalType": "date"}], "default": None},
    {"name": "company", "type": ["null", "string"], "default": None},
]


def contract(unit: str, *, agreed: str | None = None, places: tuple[str, ...] = PLACES) -> Contract:
    line = unit.partition("@")[0]
    dataset = Dataset(
        title="Person",
        title_zh="人员",
        line=line,
        levels=("county",),
        schema_version=1,
        key=("id",),
        division="place",
        sharing={f["name"]: Sharing.UNCONDITIONAL for f in _FIELDS}
        | {"religion": Sharing.NOT_SHARED},
        checks={"place": Check.DIVISION, "company": Check.CREDIT_CODE},
    )
    return Contract(
        territories={"33": "Zhejiang", "3301": "Hangzhou", "330106": "Xihu"}
        | {"330106109": "a town", **dict.fromkeys(places, "a community")},
        lines={line: Line(title=line, title_zh=line)},
        units=(Unit(unit=unit, title=unit, title_zh=unit, owner="x", key_fingerprint=agreed),),
        datasets={"person": dataset},
        grants=(),
        schemas={"person.v1": {"type": "record", "name": "Person", "fields": _FIELDS}},
    )


PUBLISH = Publish(
    table="people",
    columns={
        "id": "身份证",
        "place": "area",
        "name": "姓名",
        "sex": "sex",
        "born": "born",
        "company": "firm",
    },
    values={"sex": {"1": "male", "2": "female"}},
    hold_removals=HoldRemovals(percent=100),  # tests of removals ask for what they need
)
TABLE = (
    "CREATE TABLE people (身份证 TEXT PRIMARY KEY, area TEXT, 姓名 TEXT, sex INTEGER, born TEXT, "
    "firm TEXT, religion TEXT)"
)


def policy(number: int, agreed: Contract) -> Policy:
    return Policy(
        number=number,
        activated_at=datetime(2026, 1, 1, tzinfo=UTC),
        activated_by="test",
        contract=agreed,
    )


class StandingPolicy:
    """What a publisher needs of a PolicyFollower; the test changes it by `put`."""

    def __init__(self, first: Contract) -> None:
        self.policies = {1: policy(1, first)}

    def put(self, agreed: Contract) -> None:
        number = len(self.policies) + 1
        self.policies[number] = policy(number, agreed)

    def current(self) -> Policy:
        return self.policies[len(self.policies)]

    def history(self) -> dict[int, Policy]:
        return dict(self.policies)


def department(unit: str, database: str) -> Department:
    from pathlib import Path

    return Department(
        unit=unit,
        secret_file=Path("key.secret"),
        systems={"main": System(database=database, publishes={"person": PUBLISH})},
    )


UNIT = "police@330106"
AGREED = contract(UNIT, agreed=fingerprint(SECRET))
PUBLICATION = Publication(UNIT, "person", PUBLISH, AGREED, SECRET)


class Desk:
    """Outbox rows as capture would write them, judged one batch at a time; remembers as a source
    does."""

    def __init__(self, publication: Publication = PUBLICATION) -> None:
        self.publication = publication
        self.position = 0
        self.known: dict[tuple[str, bytes], Known] = {}
        self.parked: set[tuple[str, str]] = set()
        self.table: set[str] = set()  # own keys that are in the table now
        self.batches: list[Batch] = []

    def row(self, op: str, own_key: Any, was: Any = None, **values: Any) -> OutboxRow:
        self.position += 1
        state: Mapping[str, Any] = {}
        if op == "u":
            state = {
                "身份证": own_key,
                "area": PLACES[0],
                "姓名": "李",
                "sex": 1,
                "born": None,
                "firm": None,
            } | values
        return OutboxRow(
            *(self.position, "person", op, "live", None, 1000, was, None, (own_key,)),
            tuple(state),
            tuple(state.values()),
        )

    def judge(self, *rows: OutboxRow) -> Batch:
        keyed = [(row, self.publication.key_of(row)) for row in rows]
        borne = {
            (row.dataset, k.key): k.plain[0] in self.table
            for row, k in keyed
            if k.plain is not None and k.key is not None
        }
        batch = Batch(
            {"person": self.publication},
            Stamp(Incarnation(1, b"t" * 8), len(self.batches) + 1, 7),
            self.known,
            borne,
            self.parked,
        )
        for row, found in keyed:
            batch.take(row, found)
        self.batches.append(batch)
        return batch

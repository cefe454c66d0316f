"""A small county for routing tests: one dataset, all rules open, and builders to vary it."""

from __future__ import annotations

from datetime import UTC, date, datetime

from deptbus.change import Cause, Change, ChangeOp, Incarnation, Reason
from deptbus.contract.model import Contract, Dataset, Grant, Line, Policy, Rule, Sharing, Unit
from deptbus.contract.territory import Level

PROVINCE, CITY, COUNTY, OTHER_COUNTY = "33", "3301", "330106", "330105"
TOWN, OTHER_TOWN = "330106109", "330106110"
VILLAGE, OTHER_VILLAGE = "330106109051", "330106109052"
LINES = ("police", "housing", "grid")
FIELDS = ("id", "name", "place", "phone", "salary")
SHARING = {
    "id": Sharing.UNCONDITIONAL,
    "name": Sharing.UNCONDITIONAL,
    "place": Sharing.UNCONDITIONAL,
    "phone": Sharing.CONDITIONAL,
    "salary": Sharing.CONDITIONAL,
    "religion": Sharing.NOT_SHARED,
}
ACTIVATED = datetime(2026, 6, 1, 4, tzinfo=UTC)
NOW = datetime(2026, 6, 2, tzinfo=UTC)


def rules(*, lines: tuple[str, ...] = LINES, fields: tuple[str, ...] = ("id", "name", "phone")):
    """One open rule of each direction, named after it."""
    directions = ("horizontal", "upward", "downward", "return")
    return tuple(Rule(rule=d, direction=d, lines=lines, fields=fields) for d in directions)


def grant(name: str, unit: str, fields: tuple[str, ...], territory: str = COUNTY, **dates: date):
    return Grant(
        grant=name,
        unit=unit,
        dataset="person",
        fields=fields,
        purpose="a test",
        territory=territory,
        starts=dates.get("starts", date(2026, 1, 1)),
        until=dates.get("until", date(2026, 12, 31)),
    )


def policy(
    *,
    receivers: tuple[Rule, ...] = rules(),
    grants: tuple[Grant, ...] = (),
    sharing: dict[str, Sharing] = SHARING,
    fields: dict[int, tuple[str, ...]] | None = None,
    levels: tuple[Level, ...] = (Level.COUNTY, Level.PREFECTURE),
    number: int = 1,
    activated_at: datetime = ACTIVATED,
) -> Policy:
    """A unit of every line in every territory; the police of these levels publish `person`."""
    versions = fields or {1: FIELDS}
    places = (
        PROVINCE,
        CITY,
        COUNTY,
        OTHER_COUNTY,
        TOWN,
        OTHER_TOWN,
        VILLAGE,
        OTHER_VILLAGE,
    )
    dataset = Dataset(
        title="Person",
        title_zh="人员",
        line="police",
        levels=levels,
        schema_version=max(versions),
        key=("id",),
        division="place",
        sharing=sharing,
        receivers=receivers,
    )
    units = [
        Unit(unit=f"{line}@{place}", title="", title_zh="", owner="")
        for place in places
        for line in LINES
    ]
    contract = Contract(
        territories={p: p for p in places},
        lines={name: Line(title=name, title_zh=name) for name in LINES},
        units=tuple(units),
        datasets={"person": dataset},
        grants=grants,
        schemas={
            f"person.v{version}": {
                "type": "record",
                "name": "Person",
                "fields": [{"name": n, "type": "string"} for n in names],
            }
            for version, names in versions.items()
        },
    )
    return Policy(number=number, activated_at=activated_at, activated_by="test", contract=contract)


def upsert(
    division: str,
    *formers: str,
    source: str = "police@330106",
    schema_version: int = 1,
) -> Change:
    return _change(ChangeOp.UPSERT, None, division, formers, source, schema_version)


def removed(division: str, *formers: str, source: str = "police@330106") -> Change:
    return _change(ChangeOp.DELETE, Reason.REMOVED, division, formers, source, 1)


def moved_out(division: str, *formers: str, source: str = "police@330106") -> Change:
    return _change(ChangeOp.DELETE, Reason.MOVED_OUT, division, formers, source, 1)


def _change(
    op: ChangeOp,
    reason: Reason | None,
    division: str,
    formers: tuple[str, ...],
    source: str,
    schema_version: int,
) -> Change:
    return Change(
        dataset="person",
        key=bytes(16),
        op=op,
        reason=reason,
        source_unit=source,
        incarnation=Incarnation(1, bytes(8)),
        version=1,
        source_time_us=0,
        publication=1,
        division=division,
        former_divisions=formers,
        cause=Cause.LIVE,
        job=None,
        policy=1,
        schema_version=schema_version,
        record=(b"\x00",) * 5 if op is ChangeOp.UPSERT else None,
    )

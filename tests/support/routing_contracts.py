"""Hypothesis strategies: small random contracts, changes and instants, rich in collisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from hypothesis import strategies as st

from deptbus.change import Cause, Change, ChangeOp, Incarnation, Reason
from deptbus.contract.model import Contract, Dataset, Grant, Line, Policy, Rule, Sharing, Unit
from deptbus.contract.territory import Level

LINES = ("police", "housing", "grid")
PLACES = (
    "33",
    "3301",
    "3302",
    "330106",
    "330105",
    "330106109",
    "330106110",
    "330105001",
    "330106109051",
    "330106109052",
    "330106110051",
)
UNITS = tuple(f"{line}@{place}" for place in PLACES for line in LINES)
FIELDS = ("id", "name", "phone", "salary")
DAYS = [date(2026, 6, 14) + timedelta(days=n) for n in range(6)]
# Around midnight in China, where days begin.
INSTANTS = [
    datetime(2026, 6, 14 + n, hour, minute, second, tzinfo=UTC)
    for n in range(5)
    for hour, minute, second in ((15, 59, 59), (16, 0, 0), (3, 0, 0))
]

_fields = st.lists(st.sampled_from((*FIELDS, "secret")), min_size=1, max_size=4, unique=True)
_published = st.lists(st.sampled_from(FIELDS), min_size=2, unique=True)
_levels = st.lists(st.sampled_from(list(Level)), max_size=2, unique=True)


_rules = st.lists(
    st.builds(
        Rule,
        rule=st.just(""),
        direction=st.sampled_from(["horizontal", "upward", "downward", "return"]),
        lines=st.lists(st.sampled_from(LINES), min_size=1, max_size=2, unique=True).map(tuple),
        levels=_levels.map(tuple),
        fields=_fields.map(tuple),
    ),
    max_size=5,
)


def _grants(units: tuple[str, ...]) -> st.SearchStrategy[list[Grant]]:
    return st.lists(
        st.builds(
            Grant,
            grant=st.just(""),
            unit=st.sampled_from(units),
            dataset=st.sampled_from(["person", "person", "person", "house"]),
            fields=_fields.map(tuple),
            purpose=st.just(""),
            territory=st.sampled_from(PLACES),
            starts=st.sampled_from(DAYS[:4]),
            until=st.sampled_from(DAYS[2:]),
        ),
        max_size=4,
    )


@st.composite
def policies(draw: st.DrawFn, number: int = 1) -> Policy:
    versions = draw(st.integers(1, 2))
    sharing = {f: draw(st.sampled_from(list(Sharing))) for f in FIELDS if draw(st.integers(0, 9))}
    dataset = Dataset(
        title="",
        title_zh="",
        line="police",
        levels=draw(st.sampled_from([(Level.COUNTY,), (Level.COUNTY, Level.PREFECTURE)])),
        schema_version=versions,
        key=("id",),
        division="id",
        sharing=sharing | {"secret": Sharing.NOT_SHARED},
        receivers=tuple(r.model_copy(update={"rule": f"r{n}"}) for n, r in enumerate(draw(_rules))),
    )
    # Eight of 33 units around a county's police, who publish.
    units = ("police@330106", *draw(st.permutations(UNITS[:9] + UNITS[12:]))[:8])
    units = tuple(dict.fromkeys(units))
    contract = Contract(
        territories={p: p for p in PLACES},
        lines={name: Line(title="", title_zh="") for name in LINES},
        units=tuple(Unit(unit=u, title="", title_zh="", owner="") for u in units),
        datasets={"person": dataset, "house": dataset},
        grants=tuple(
            g.model_copy(update={"grant": f"g{n}"}) for n, g in enumerate(draw(_grants(units)))
        ),
        schemas={
            f"{name}.v{version}": {
                "type": "record",
                "name": "R",
                "fields": [{"name": f, "type": "string"} for f in draw(_published)],
            }
            for name in ("person", "house")
            for version in range(1, versions + 1)
        },
    )
    return Policy(
        number=number,
        activated_at=draw(st.sampled_from(INSTANTS)),
        activated_by="test",
        contract=contract,
    )


@st.composite
def changes(draw: st.DrawFn, policy: Policy) -> Change:
    """Mostly changes that intake accepts; the others are part of the input too."""
    op, reason = draw(
        st.sampled_from(
            [
                (ChangeOp.UPSERT, None),
                (ChangeOp.UPSERT, None),
                (ChangeOp.DELETE, Reason.REMOVED),
                (ChangeOp.DELETE, Reason.MOVED_OUT),
            ]
        )
    )
    publishers = [u.unit for u in policy.contract.units if u.line == "police"]
    source = draw(st.sampled_from(["police@330106"] * 4 + publishers + ["grid@330106"]))
    within = [p for p in PLACES if p.startswith(source.split("@")[1])]
    places = st.sampled_from(within * 5 + ["3302", "3301061"])
    dataset = draw(st.sampled_from(["person", "person", "person", "house"]))
    return replace(
        gone(dataset, source, draw(places)),
        op=op,
        reason=reason,
        former_divisions=tuple(draw(st.lists(places, max_size=3))),
        schema_version=draw(st.sampled_from([1, 1, 2])),
        record=() if op is ChangeOp.UPSERT else None,
    )


def gone(dataset: str, source_unit: str, division: str) -> Change:
    """A record that moved out of its source's territory."""
    return Change(
        dataset=dataset,
        key=bytes(16),
        op=ChangeOp.DELETE,
        reason=Reason.MOVED_OUT,
        source_unit=source_unit,
        incarnation=Incarnation(1, bytes(8)),
        version=1,
        source_time_us=0,
        publication=1,
        division=division,
        former_divisions=(),
        cause=Cause.LIVE,
        job=None,
        policy=1,
        schema_version=1,
        record=None,
    )

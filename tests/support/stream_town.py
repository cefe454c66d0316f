"""A small town for tests of the agents: one contract, and a unit's adapter reduced to its sends."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from deptbus.change import Cause, Change, ChangeOp, Incarnation, Reason
from deptbus.connection import Connection
from deptbus.contract.model import Contract, Dataset, Line, Policy, Rule, Sharing, Unit
from deptbus.names import control_topic, out_topic
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Announcement, Incarnated, encode_control, key_of
from deptbus.wire.partitioner import partition_of

POLICE = "public_security@330106"
CITY_POLICE = "public_security@3301"
HOUSING = "housing@330106"
TOWN_POLICE = "public_security@330106109"
OTHER_POLICE = "public_security@330105"
UNITS = (POLICE, CITY_POLICE, HOUSING, TOWN_POLICE, OTHER_POLICE)
PARTITIONS = 4
PLACE = "330106109051"
FIRST = Incarnation(1, b"token--1")
RESIDENT = {
    "type": "record",
    "name": "Resident",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "name", "type": "string"},
        {"name": "division", "type": "string"},
        {"name": "phone", "type": ["null", "string"], "default": None},
    ],
}


def contract(
    units: Sequence[str] = UNITS, housing_fields: Sequence[str] = ("id", "name", "division")
) -> Contract:
    """Residents, published by county police: to housing of the county, and along the line."""
    every = ("id", "name", "division", "phone")
    resident = Dataset(
        title="Residents",
        title_zh="居民",
        line="public_security",
        levels=("county",),
        schema_version=1,
        key=("id",),
        division="division",
        sharing=dict.fromkeys(every, Sharing.UNCONDITIONAL),
        receivers=(
            Rule(
                rule="to-housing",
                direction="horizontal",
                lines=("housing",),
                fields=tuple(housing_fields),
            ),
            Rule(rule="up", direction="upward", lines=("public_security",), fields=every),
            Rule(rule="down", direction="downward", lines=("public_security",), fields=every),
        ),
    )
    return Contract(
        territories={
            "33": "Zhejiang",
            "3301": "Hangzhou",
            "330105": "Gongshu",
            "330106": "Xihu",
            "330106109": "Lingyin",
            PLACE: "Dongshan",
        },
        lines={name: Line(title=name, title_zh=name) for name in ("public_security", "housing")},
        units=tuple(
            Unit(unit=u, title=u, title_zh=u, owner=f"desk of {u}", systems=("main",))
            for u in units
        ),
        datasets={"resident": resident},
        grants=(),
        schemas={"resident.v1": RESIDENT},
        partitions=PARTITIONS,
    )


def policy(number: int = 1, of: Contract | None = None) -> Policy:
    return Policy(
        number=number,
        activated_at=datetime(2026, 1, 1, tzinfo=UTC),
        activated_by="test",
        contract=of if of is not None else contract(),
    )


def key_for(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]


@dataclass
class Source:
    """What an adapter sends, and nothing else of it."""

    unit: str = POLICE
    incarnation: Incarnation = FIRST
    codecs: Codecs = field(default_factory=lambda: Codecs(contract()))

    def change(self, name: str, version: int, **words: Any) -> Change:
        """An upsert of the resident `name`, overridden by `words`."""
        codec = self.codecs.record_codec("resident", 1)
        division = words.get("division", PLACE)
        record = codec.encode(
            {"id": name, "name": f"N{version}", "division": division, "phone": None}
        )
        made = Change(
            dataset="resident",
            key=key_for(name),
            op=ChangeOp.UPSERT,
            reason=None,
            source_unit=self.unit,
            incarnation=self.incarnation,
            version=version,
            source_time_us=1_700_000_000_000_000 + version,
            publication=1,
            division=PLACE,
            former_divisions=(),
            cause=Cause.LIVE,
            job=None,
            policy=1,
            schema_version=1,
            record=record,
        )
        return replace(made, **words)

    def removal(self, name: str, version: int, **words: Any) -> Change:
        gone = {"op": ChangeOp.DELETE, "reason": Reason.REMOVED, "record": None}
        return self.change(name, version, **(gone | words))

    def outgoing(self, changes: Iterable[Change]) -> list[Outgoing]:
        topic = out_topic(self.unit)
        return [
            Outgoing(topic, partition_of(c.key, PARTITIONS), c.key, self.codecs.encode_change(c))
            for c in changes
        ]

    async def announce(self, sender: Sender, *, control: bool = True) -> list[int]:
        """Offsets of the announcements; `control`: the control record is written as well."""
        offsets = await sender.send(
            [
                Outgoing(
                    out_topic(self.unit),
                    partition,
                    None,
                    encode_control(Announcement(self.unit, "main", self.incarnation, partition, 1)),
                )
                for partition in range(PARTITIONS)
            ]
        )
        if control:
            record = Incarnated(self.unit, "main", self.incarnation, tuple(offsets), "f")
            await sender.send(
                [Outgoing(control_topic(self.unit), 0, key_of(record), encode_control(record))]
            )
        return offsets


async def open_town(connection: Connection, of: Contract | None = None) -> None:
    """Topics and the first policy."""
    from deptbus.cluster import topics
    from deptbus.stream.policies import append_policy

    found = of if of is not None else contract()
    add_topics(connection, found)
    wanted = topics.wanted_before_any_contract()
    topics.apply(connection, topics.plan(connection, wanted))
    await append_policy(connection, policy(1, found))


def add_topics(connection: Connection, of: Contract) -> None:
    from deptbus.cluster import topics

    topics.apply(connection, topics.plan(connection, topics.wanted(of)))


def changes_of(source: Source, keys: int, versions: int) -> list[Change]:
    """Versions of one key ascend; keys are mixed."""
    names = [f"k{n}" for n in range(keys)]
    return [
        source.change(name, version)
        for version, name in itertools.product(range(1, versions + 1), names)
    ]

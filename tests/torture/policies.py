"""The contract changes while changes flow, and processes are killed in the midst of it.

1. `note` is opened beside and a unit joins; 2. `owner` is withdrawn beside and the unit leaves;
3. the grants end, at a last second that comes while changes flow; 4. nobody may read the contract
any more, and then again.

The witness finds copies that are wider or narrower than the contract in force. Read from the
inboxes themselves: once every live agent has reported a policy, no delivery under an older one; no
change that was made after a grant's last second flows by that grant; nothing at all while no agent
can read the contract.

Workers follow a clock that is moved, so that a day ends when the scenario wants it to, and give up
a contract that they could not read for three seconds instead of ten.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from deptbus.change import DeliveryOp
from deptbus.errors import WireRefused
from deptbus.names import AGENTS, CONTRACT
from deptbus.routing.grants import CHINA
from deptbus.stream.log import read_to_end
from deptbus.stream.policies import read_policies
from deptbus.wire.control import AgentReport, decode_control

from .county import AUDIT, BANK, OPEN, SOURCES, TAX, Right, Rights, rights
from .gauges import codecs_of, inbox_ends, inboxes
from .scenario import Bug, Scenario
from .verdict import Verdict
from .witness import settled
from .world import World

SOON = 90.0
PER_SECOND = 60
AUTHORIZED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
CLOCK = "clock"  # in the world's folder: by how many seconds workers and operations are ahead
HOLD, HELD = "hold", "held"  # there too: deliveries are to wait; some do
LEASE_SECONDS = 3.0
LOOK_SECONDS = 0.3
RULES, ENDS, UNREADABLE = "rules change", "grants end", "contract unreadable"
GRANTS = ("audit_calls", "tax_of_town")
BESIDE = ("housing@330106", AUDIT, "archive@330106", BANK)


class Town:
    """The contract of this scenario, and what each unit may have by it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fields = [*OPEN, "phone"]  # of accounts, beside
        self.bank = False
        self.granted = True
        self.until = "2099-12-31"

    def rights(self) -> Rights:
        found = dict(rights(bank=self.bank))
        for unit in BESIDE:
            right = found.get((unit, "account"))
            if right is not None:
                phone = {"phone"} if unit == AUDIT and self.granted else set()
                own = frozenset(set(self.fields) - {"phone"} | phone)
                found[unit, "account"] = Right(right.within, own, right.notices)
        if not self.granted:
            del found[TAX, "account"]
        return found

    def put(self) -> None:
        """In force, while changes flow: what was allowed before may still be seen for a while."""
        world = self.world
        content = world.county.contract(bank=self.bank)
        content["topics"]["datasets"]["account"]["receivers"][0]["fields"] = list(self.fields)
        for grant in content["grants"]["grants"]:
            grant["until"] = self.until
        world.witness.past_rights.append(world.witness.rights)
        world.witness.rights = self.rights()
        if self.bank and not world.county.config(BANK).exists():
            world.county.write(world.witness.rights, bank=True)
        world.county.write_contract(world.county.contract_folder, bank=self.bank, **content)
        world.activate()


class Cut:
    """Where the inboxes ended when every live agent had reported a policy."""

    def __init__(self, policy: int, ends: Mapping[str, list[int]]) -> None:
        self.policy, self.ends = policy, ends


def run(world: World, seed: int, short: bool) -> Verdict:
    world.begin(broker={"extra_settings": AUTHORIZED})
    # What the others must have had before an offset is committed is always the same.
    world.foreign_rights = {k: r for k, r in rights().items() if k[0] != TAX}
    world.watch()
    _start(world)
    town, rng = Town(world), random.Random(f"{seed}/policies")
    rounds = 1 if short else 4
    opened = ([*OPEN, "phone", "note"], True, "note is opened, a unit joins")
    closed = ([f for f in OPEN if f != "owner"] + ["phone"], False,
              "owner is withdrawn, the unit leaves")  # fmt: skip

    def rules_change() -> None:
        for fields, bank, what in (opened, closed) * rounds:
            if world.verdict.is_clean:
                town.fields, town.bank = fields, bank
                _changed(town, rng, what)

    steps = {RULES: rules_change, ENDS: lambda: _grants_end(town),
             UNREADABLE: lambda: _contract_unreadable(world)}  # fmt: skip
    for moment, step in steps.items():
        # What comes behind would wait for what is broken already.
        if world.verdict.is_clean and (world.bug is None or moment in world.bug.moments):
            step()
    return world.conclude()


def _start(world: World) -> None:
    (world.folder / CLOCK).write_text("0", encoding="utf-8")
    others = [u for u in world.county.units(world.witness.rights) if u not in SOURCES]
    started = [
        world.worker("worker-0", ["policies:moved_clock", "policies:short_lease"]),
        world.operations(patches=["policies:moved_clock"]),
        world.adapter("adapter-sources", list(SOURCES)),
        world.adapter("adapter-others", others),
    ]
    for child in started:
        child.wait_ready()
    world.verdict.check(world.witness.settle(SOON), "the first load did not arrive")


# -- 1 and 2: rules change ------------------------------------------------------------------------


def _changed(town: Town, rng: random.Random, what: str) -> None:
    world = town.world
    world.write_on(per_second=PER_SECOND)
    began = world.changes
    town.put()
    if town.bank and "adapter-bank" not in world.children:
        world.adapter("adapter-bank", [BANK])
    for name in rng.sample(["operations", "worker-0", "adapter-others"], 3):
        time.sleep(rng.random() * 0.4)
        world.children[name].kill()
        world.children[name].start()
    cut = _reported(world)
    world.write_until(max(began + PER_SECOND, world.changes + 10))
    world.wait_written()
    _settle(world, what, cut)
    world.did(f"{what}, with operations, worker and adapters killed: policy {cut.policy}")


def _settle(world: World, what: str, cut: Cut) -> None:
    """What is not right in the end is told by the witness; from here on only what is allowed now
    may be seen."""
    is_right = world.witness.settle(SOON, enough=world.has_shown)
    _check_cut(world, cut)
    world.verdict.check(is_right, f"copies are not right after: {what}")
    world.witness.sample()
    world.witness.past_rights.clear()


def _revive(world: World) -> None:
    """A worker whose set of topics changed ends with code 3, to be started again."""
    for child in world.children.values():
        if not child.is_alive:
            child.start()


def _number(world: World) -> int:
    return asyncio.run(read_policies(world.connection)).last


def _reported(world: World) -> Cut:
    """Waits until every live agent has reported the policy in force; then takes the ends."""
    number = _number(world)

    def has_reported() -> bool:
        _revive(world)
        live = _live_agents(world)
        return bool(live) and all(policy >= number for policy in live.values())

    # Each look reads a topic whole, which takes from those that are waited for.
    settled(has_reported, SOON, f"every agent reports policy {number}", every=LOOK_SECONDS)
    units = sorted(unit.unit for unit in world.contract.units)
    return Cut(number, inbox_ends(world, units))


def _live_agents(world: World) -> dict[str, int]:
    """Agent -> policy, of those that were heard of within the lease of a job."""
    reports: dict[str, AgentReport] = {}
    for record in asyncio.run(read_to_end(world.connection, AGENTS)):
        try:
            report = decode_control(record.value)
        except WireRefused:
            continue
        if isinstance(report, AgentReport):
            reports[report.agent] = report
    oldest_us = (time.time() - 10.0) * 1e6
    return {
        r.agent: r.policy
        for r in reports.values()
        if r.state == "running" and r.reported_at_us > oldest_us
    }


def _check_cut(world: World, cut: Cut) -> None:
    found = inboxes(world, codecs_of(world), cut.ends)
    for place, delivery in found:
        if delivery.policy < cut.policy and delivery.job is None:
            world.verdict.add(
                "unentitled",
                f"{place} was delivered under policy {delivery.policy} after every agent had "
                f"reported {cut.policy}",
            )
    counted = world.verdict.counted
    counted["deliveries_behind_reports"] = counted.get("deliveries_behind_reports", 0) + len(found)
    world.verdict.check(found, "nothing was delivered behind a report")


# -- 3: grants end --------------------------------------------------------------------------------


def _grants_end(town: Town) -> None:
    world = town.world
    midnight = _midnight(datetime.now(UTC) + timedelta(hours=1))
    town.until = (midnight - timedelta(seconds=1)).astimezone(CHINA).date().isoformat()
    world.write_on(per_second=PER_SECOND)
    holds = world.bug is not None and HOLD in world.bug.moments
    if holds:
        (world.folder / HOLD).touch()
        settled((world.folder / HELD).exists, SOON, "a delivery waits before an inbox")
    town.put()
    # Nobody is killed here: an agent that was just started has nothing of the older policy left.
    cut = _reported(world)
    if holds:
        (world.folder / HOLD).unlink()
    world.write_until(world.changes + PER_SECOND)
    world.wait_written()
    _settle(world, "the grants were given a last day", cut)
    if not world.verdict.is_clean:
        return
    number = _number(world)
    ends = inbox_ends(world, [AUDIT, TAX])
    world.write_on(per_second=PER_SECOND)
    ahead = midnight.timestamp() - time.time() - 2.0
    _write(world.folder / CLOCK, str(ahead))
    last_us = int((midnight.timestamp() - ahead) * 1e6)
    town.granted = False
    world.witness.past_rights.append(world.witness.rights)
    world.witness.rights = town.rights()
    world.policies += 1
    settled(lambda: _number(world) > number, SOON, "the end of the grants is the next policy",
            every=LOOK_SECONDS)  # fmt: skip
    cut = _reported(world)
    world.write_until(world.changes + 10)
    world.wait_written()
    _settle(world, "the grants have ended", cut)
    before = after = 0
    for place, delivery in inboxes(world, codecs_of(world), ends):
        # Withdrawals name the grant that they take back.
        if delivery.op is not DeliveryOp.UPSERT or not set(delivery.grants) & set(GRANTS):
            continue
        if delivery.source_time_us > last_us:
            after += 1
            world.verdict.add("unentitled", f"{place} flowed by a grant after its last second")
        else:
            before += 1
    world.verdict.check(before, "nothing flowed by the grants before their end")
    world.did(f"two grants ended while changes flowed: {before} deliveries by them before their "
              f"last second, {after} after it")  # fmt: skip


def _midnight(after: datetime) -> datetime:
    """The next beginning of a day in China."""
    day = after.astimezone(CHINA).replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(days=1)


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


# -- 4: nobody may read the contract --------------------------------------------------------------


def _contract_unreadable(world: World) -> None:
    worker = world.children["worker-0"]
    admin = AdminClient(world.connection.librdkafka())
    # Where somebody else has a right, whoever has none may not even see the topic.
    rules = [AclBinding(ResourceType.TOPIC, CONTRACT, ResourcePatternType.LITERAL, "User:nobody",
                        "*", AclOperation.ALL, AclPermissionType.ALLOW)]  # fmt: skip
    units = sorted({unit for unit, _ in world.witness.rights})
    stopped = worker.log.count("partition_stopped")
    for future in admin.create_acls(rules).values():
        future.result(30)
    try:
        settled(lambda: "topic_unreadable" in worker.log, SOON, "the worker says that it cannot")
        time.sleep(LEASE_SECONDS + 2.0)  # until then what it knows is young enough
        ends = inbox_ends(world, units)
        world.write(60)
        world.wait_written()
        try:
            settled(lambda: worker.log.count("partition_stopped") > stopped, 30, "it stands still")
        except TimeoutError:
            world.verdict.add("other", "the worker does not say that it stands still")
        moved = sum(map(sum, inbox_ends(world, units).values())) - sum(map(sum, ends.values()))
        if moved:
            world.verdict.add(
                "unentitled", f"{moved} deliveries though no agent can read the contract", moved
            )
    finally:
        mine = AclBindingFilter(ResourceType.TOPIC, CONTRACT, ResourcePatternType.LITERAL, None,
                                None, AclOperation.ANY, AclPermissionType.ANY)  # fmt: skip
        for future in admin.delete_acls([mine]).values():
            future.result(30)
    world.did("nobody could read the contract: nothing was delivered until it could be read again")


# -- what children are given ----------------------------------------------------------------------


def _ahead() -> Callable[[], timedelta]:
    import os

    file = Path(os.environ["TORTURE_FOLDER"]) / CLOCK
    return lambda: timedelta(seconds=float(file.read_text(encoding="utf-8")))


def moved_clock() -> None:
    """Worker and operations take the time of day from here."""
    from deptbus.operations import office
    from deptbus.stream import work

    ahead = _ahead()

    class Moved(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + ahead()

    work.datetime = Moved  # type: ignore[attr-defined,misc]
    defaults = office.Settings.__init__.__defaults__
    assert defaults is not None
    assert defaults[0] is office.utc_now
    moved = (lambda: datetime.now(UTC) + ahead(), *defaults[1:])
    office.Settings.__init__.__defaults__ = moved  # type: ignore[misc]


def short_lease() -> None:
    from deptbus.stream.policies import PolicyFollower

    defaults = PolicyFollower.__init__.__kwdefaults__
    assert "lease_seconds" in defaults
    defaults["lease_seconds"] = LEASE_SECONDS


# -- planted bugs ---------------------------------------------------------------------------------


def reports_too_early() -> None:
    """A worker reports a policy though deliveries under an older one are still on their way. They
    wait before an inbox for as long as the scenario wants them to."""
    import os

    from deptbus.stream import work
    from deptbus.stream.reports import PoliciesAtWork

    folder, send = Path(os.environ["TORTURE_FOLDER"]), work._send

    async def held(*args: Any) -> None:
        while (folder / HOLD).exists():
            (folder / HELD).touch()
            await asyncio.sleep(0.05)
        await send(*args)

    work._send = held
    PoliciesAtWork.oldest = lambda self, current: current  # type: ignore[method-assign]


def grants_never_end() -> None:
    """A worker's clock stands still at the last second of every grant."""
    from deptbus.stream import work

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz)

    work.datetime = Yesterday  # type: ignore[attr-defined,misc]
    globals()["moved_clock"] = lambda: None  # it comes after this one, and would undo it


def jobs_send_nothing() -> None:
    """A job says that it is done, and has sent nothing."""
    from deptbus.operations.jobs import Job

    async def nothing(self: Job) -> None:
        return

    Job._send = nothing  # type: ignore[method-assign]


def old_contracts_are_good() -> None:
    """A worker goes by the contract that it read last, however long ago."""
    from deptbus.stream.policies import PolicyFollower

    PolicyFollower.current = (  # type: ignore[method-assign]
        lambda self: self._history.current()
    )


SCENARIO = Scenario(
    "policies",
    "fields, units and grants come and go while changes flow; the contract cannot be read",
    run,
    {
        "jobs send nothing": Bug(
            "a job completes without having delivered anew",
            ("lost", "unentitled"),
            {"operations": ("policies:jobs_send_nothing",)},
            (RULES,),
        ),
        "reports too early": Bug(
            "an agent reports a policy while deliveries under an older one are on their way",
            ("unentitled",),
            {"worker": ("policies:reports_too_early",)},
            (ENDS, HOLD),
        ),
        "grants never end": Bug(
            "an agent does not look at the clock for the end of a grant",
            ("unentitled",),
            {"worker": ("policies:grants_never_end",)},
            (ENDS,),
        ),
        "old contracts are good": Bug(
            "an agent that cannot read the contract goes by the one that it knows",
            ("unentitled",),
            {"worker": ("policies:old_contracts_are_good",)},
            (UNREADABLE,),
        ),
    },
)

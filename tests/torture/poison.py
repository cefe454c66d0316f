"""One department's trouble is its own: rows that its table refuses, a long absence, a closed inbox.

`bank@330106`, in PostgreSQL, receives both datasets beside the others, and is poisoned three ways:
a constraint refuses every fifth number of `account`, a code of places knows only some of them, a
column of `house` is too narrow for some names. The witness knows nothing of it, so what it finds
is found at the others.

1. Poison: what is sound arrives at the bank, what is refused is parked and named, one by one.
   In full, rounds with and without poison take turns, and the CPU time of everybody else is
   compared.
2. Absence: the bank's adapter is away while changes flow; nobody else's memory grows; its inbox
   keeps what comes; back again it catches up.
3. Closed: the bank's inbox refuses every record. Deliveries to the others that were on their way
   are made once and not again; what lies behind waits (see docs/reliability.md); mended, all goes
   on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import yaml
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from deptbus.names import in_topic

from .county import BANK, DISTRICT, OTHER_TOWN, OWN, SOURCE_TABLE, SOURCES, held, rights
from .desks import PostgresDesk
from .gauges import Memory, cpu_seconds, inbox_ends, status
from .scenario import Bug, Scenario
from .verdict import Verdict
from .witness import settled
from .world import STILL_SECONDS, World

EVERY, LONGEST = 5, 6  # numbers that the constraint refuses; letters that the column takes
MOST_GROWN_MB = 60.0  # beside what caches and the first batches take
MOST_SLOWER = 1.10
SOON = 60.0

_POISON = f"""
ALTER TABLE {held("account")} ADD CONSTRAINT every_fifth CHECK (seq % {EVERY} <> 0);
ALTER TABLE {held("house")} ALTER COLUMN owner TYPE varchar({LONGEST});
"""
_CURE = f"""
ALTER TABLE {held("account")} DROP CONSTRAINT every_fifth;
ALTER TABLE {held("house")} ALTER COLUMN owner TYPE text;
"""
# What was taken meanwhile goes, as if it had been refused: nobody sends it once more.
_AGAIN = f"""
ALTER TABLE {held("account")} ADD CONSTRAINT every_fifth CHECK (seq % {EVERY} <> 0) NOT VALID;
DELETE FROM {held("account")} WHERE seq % {EVERY} = 0;
DELETE FROM {held("house")} WHERE length(owner) > {LONGEST};
ALTER TABLE {held("house")} ALTER COLUMN owner TYPE varchar({LONGEST});
"""


def run(world: World, seed: int, short: bool) -> Verdict:
    world.begin()
    _join_bank(world)
    world.watch()
    world.start_default()
    world.adapter("adapter-bank", [BANK]).wait_ready()
    steps: list[Callable[[], None]] = [
        lambda: _poison(world, 500 if short else 5_000),
        *([] if short else [lambda: _rounds(world)]),
        lambda: _absence(world, 400 if short else 20_000),
        lambda: _closed(world, 60 if short else 600),
    ]
    for step in steps:
        step()
        if not world.verdict.is_clean:
            break  # what comes behind would wait for what is broken already
    return world.conclude()


def _join_bank(world: World) -> None:
    county = world.county
    county.urls = {**county.urls, BANK: world.postgres.create_database("bank_330106")}
    county.write(rights(bank=True), bank=True)
    config = yaml.safe_load(county.config(BANK).read_text(encoding="utf-8"))
    received = config["systems"]["main"]["receives"]["account"]
    own = {f"p{place}": place for place in (DISTRICT, "330106109")}  # and not OTHER_TOWN
    received["values"] = {"place": own}
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    county.config(BANK).write_text(text, encoding="utf-8")
    _script(world, _POISON)
    world.activate()


def _script(world: World, text: str) -> None:
    desk = PostgresDesk(world.county.urls[BANK])
    desk.script(text)
    desk.close()


# -- the bank's own copies ------------------------------------------------------------------------


def _is_refused(dataset: str, row: dict[str, Any]) -> bool:
    if dataset == "house":
        return len(row["owner"]) > LONGEST
    return row["seq"] % EVERY == 0 or row["place"] == OTHER_TOWN


def _bank_wrong(world: World) -> list[str]:
    """What differs from what the bank should have. A row that is refused now may stand there with
    an older number, which was not refused."""
    found = []
    desk = world.county.desk(BANK)
    for source, dataset in SOURCES.items():
        at_source = world.county.desk(source, read_only=True)
        rows = at_source.rows(f"SELECT {', '.join(OWN.values())} FROM {SOURCE_TABLE}")
        at_source.close()
        named = (dict(zip(OWN, row, strict=True)) for row in rows)
        should = {r["no"]: r for r in named if r["place"].startswith(DISTRICT)}
        has = dict(desk.rows(f"SELECT no, seq FROM {held(dataset)}"))
        for no, row in should.items():
            if _is_refused(dataset, row):
                if has.get(no, -1) >= row["seq"]:
                    found.append(f"{dataset} {no} is there though it is refused")
            elif has.get(no) != row["seq"]:
                found.append(f"{dataset} {no} is not there as it should be")
        found += [f"{dataset} {no} is there and should not" for no in has.keys() - should.keys()]
    desk.close()
    return found


def _refused_now(world: World) -> dict[str, int]:
    """Dataset -> rows at its source that the bank's table would refuse."""
    found = {}
    for source, dataset in SOURCES.items():
        desk = world.county.desk(source, read_only=True)
        rows = desk.rows(f"SELECT {', '.join(OWN.values())} FROM {SOURCE_TABLE}")
        desk.close()
        named = [dict(zip(OWN, row, strict=True)) for row in rows]
        found[dataset] = sum(
            row["place"].startswith(DISTRICT) and _is_refused(dataset, row) for row in named
        )
    return found


def _check_bank(world: World, seconds: float = SOON) -> None:
    if world.bug is not None:
        seconds = min(seconds, STILL_SECONDS)  # what it lost does not come
    try:
        settled(lambda: not _bank_wrong(world), seconds, "what is sound is at the bank")
    except TimeoutError:
        wrong = _bank_wrong(world)
        world.verdict.add("lost", f"at the poisoned recipient: {wrong[0]}", len(wrong))


# -- 1. poison ------------------------------------------------------------------------------------


def _poison(world: World, changes: int) -> None:
    world.write(changes)
    world.wait_written()
    world.verdict.check(
        world.witness.settle(SOON), "the others' copies did not arrive beside poisoned ones"
    )
    _check_bank(world)
    code, system = status(world, BANK)
    parked = {d["dataset"]: d["parked"] for d in system["receives"]}
    refused = _refused_now(world)
    world.did(f"{sum(refused.values())} rows of {changes} changes refused by one recipient")
    world.verdict.counted["refused_by_one"] = refused
    world.verdict.check(code == 1, "status says that all is well where rows are parked")
    for dataset, count in refused.items():
        told = sum(parked.get(dataset, {}).values())
        world.verdict.check(told == count, f"{count} rows of {dataset} are refused, {told} named")
    reasons = " ".join(parked.get("account", {}))
    world.verdict.check("every_fifth" in reasons, "the constraint is not named")
    code_named = "held_account.place: no own code" in reasons
    world.verdict.check(code_named, "the code that is not known is not named")
    world.verdict.check(parked.get("house"), "the narrow column is not named")


def _rounds(world: World, rounds: int = 4, changes: int = 4_000) -> None:
    """Turns without and with poison: CPU time of all others for one change, and their pace."""
    others = [world.children[n] for n in ("worker-0", "adapter-sources", "adapter-others")]
    costs: dict[bool, list[float]] = {False: [], True: []}
    paces: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * rounds):
        is_poisoned = number % 2 == 1
        _script(world, _AGAIN if is_poisoned else _CURE)
        before, began = cpu_seconds(others), time.monotonic()
        world.write(changes)
        world.wait_written()
        world.verdict.check(world.witness.settle(SOON), "the others' copies did not arrive")
        costs[is_poisoned].append((cpu_seconds(others) - before) / changes * 1e6)
        paces[is_poisoned].append(changes / (time.monotonic() - began))
    clean, poisoned = (statistics.median(costs[p]) for p in (False, True))
    world.verdict.counted["others_us_a_change"] = {
        "clean": round(clean), "poisoned": round(poisoned),
        "changes_a_second": {
            "clean": round(statistics.median(paces[False])),
            "poisoned": round(statistics.median(paces[True])),
        },
    }  # fmt: skip
    world.verdict.check(
        poisoned <= clean * MOST_SLOWER,
        f"the others need {poisoned / clean:.2f} times the CPU beside a poisoned recipient",
    )
    _script(world, _CURE)
    _script(world, _AGAIN)


# -- 2. absence -----------------------------------------------------------------------------------


def _absence(world: World, changes: int) -> None:
    adapter = world.children["adapter-bank"]
    world.verdict.check(adapter.stop() == 0, "the bank's adapter did not stop in order")
    before = sum(inbox_ends(world, [BANK])[BANK])
    memory = Memory(c for c in world.children.values() if c.is_alive).start()
    world.write(changes)
    world.wait_written()
    world.verdict.check(
        world.witness.settle(SOON * 3), "the others' copies wait for one that is down"
    )
    grown = memory.stop()
    waits = sum(inbox_ends(world, [BANK])[BANK]) - before
    world.did(f"one recipient away for {changes} changes: {waits} deliveries wait in its inbox")
    world.verdict.counted["memory_grown_mb"] = grown
    world.verdict.check(waits >= changes / 2, "the absent recipient's inbox was not filled")
    for name, megabytes in grown.items():
        world.verdict.check(
            megabytes <= MOST_GROWN_MB,
            f"{name} grew by {megabytes} MB while one recipient was away",
        )
    adapter.start().wait_ready()
    _check_bank(world, SOON * 3)


# -- 3. closed ------------------------------------------------------------------------------------


def _closed(world: World, changes: int) -> None:
    """`max.message.bytes` stands for whatever an inbox may refuse by."""
    worker = world.children["worker-0"]
    others = sorted({unit for unit, _ in world.witness.rights})
    stopped = worker.log.count("partition_stopped")
    _set_max_bytes(world, "100")
    world.write(changes)
    world.wait_written()
    settled(lambda: worker.log.count("partition_stopped") > stopped, SOON, "the worker says so")
    # Until no first attempt is under way any more; then come more attempts at the closed inbox.
    ends, quiet_since = inbox_ends(world, others), time.monotonic()

    def is_quiet() -> bool:
        nonlocal ends, quiet_since
        now = inbox_ends(world, others)
        if now != ends:
            ends, quiet_since = now, time.monotonic()
        return time.monotonic() - quiet_since > 2.0

    settled(is_quiet, SOON, "the others' inboxes are not filled again and again")
    began = time.monotonic()
    time.sleep(2.0 if world.short else 20.0)
    refilled = sum(map(sum, inbox_ends(world, others).values())) - sum(map(sum, ends.values()))
    world.verdict.check(
        refilled == 0, f"{refilled} deliveries were made again to inboxes that had taken them"
    )
    _set_max_bytes(world, None)
    world.verdict.check(world.witness.settle(SOON), "it does not go on where an inbox is mended")
    _check_bank(world)
    waited = time.monotonic() - began
    world.did(f"one inbox refused {changes} changes; all others had them {waited:.1f} s later")


def _set_max_bytes(world: World, value: str | None) -> None:
    admin = AdminClient(world.connection.librdkafka())
    kind = AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
    entry = ConfigEntry("max.message.bytes", value, incremental_operation=kind)
    resource = ConfigResource(ResourceType.TOPIC, in_topic(BANK), incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


# -- planted bugs ---------------------------------------------------------------------------------


def a_refused_row_stops_its_system() -> None:
    from deptbus.department.store_postgres import PostgresStore
    from deptbus.errors import DatabaseUnavailable

    async def give_up(self: PostgresStore, decision: object) -> list[object]:
        raise DatabaseUnavailable("a row was refused")

    PostgresStore.find_refused = give_up  # type: ignore[method-assign,assignment]


def the_worker_keeps_what_is_not_applied() -> None:
    from deptbus.stream.sender import Sender

    kept: list[bytearray] = []
    send = Sender.send_boxes

    async def keep(self: Sender, boxes: Any, **more: Any) -> Any:
        for (topic, _), pairs in boxes.items():
            if topic == in_topic(BANK):
                kept.extend(bytearray(b"x" * 400_000) for _ in pairs)
        return await send(self, boxes, **more)

    Sender.send_boxes = keep  # type: ignore[method-assign]


SCENARIO = Scenario(
    "poison",
    "one recipient of many refuses rows, is away for long, and has an inbox that refuses",
    run,
    {
        "refused row stops all": Bug(
            "the adapter stops at a row that the table refuses",
            ("lost",),
            {"adapter": ("poison:a_refused_row_stops_its_system",)},
        ),
        "worker keeps": Bug(
            "the worker keeps in memory what a recipient has not applied",
            ("other",),
            {"worker": ("poison:the_worker_keeps_what_is_not_applied",)},
        ),
    },
)

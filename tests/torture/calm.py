"""No fault at all: what the others are compared with, and the cheapest place to show a mistake."""

from __future__ import annotations

from . import moments
from .scenario import Bug, Scenario
from .verdict import Verdict
from .world import World


def run(world: World, seed: int, short: bool) -> Verdict:
    world.begin()
    orders = moments.Orders(world.folder)
    world.watch()
    world.start_default()
    world.write(300 if short else 6_000, per_second=150)
    if world.bug is not None:
        for point in world.bug.moments:
            _kill_at(world, orders, point)
    return world.conclude()


def _kill_at(world: World, orders: moments.Orders, point: str) -> None:
    orders.place(point)
    pid = moments.wait_obeyed(orders, point, 60)
    dead = next((c for c in world.children.values() if c.process and c.pid == pid), None)
    if dead is None or dead.process is None:
        world.verdict.add("other", f"no process came to `{point}`")
        return
    dead.process.wait(30)  # it says that it obeys before it dies
    dead.start().wait_ready()


BUGS = {
    "ack_before_delivery": Bug(
        "a worker acks a batch before it is delivered",
        ("ahead",),
        {"worker": ["patches:ack_before_delivery"]},
    ),
    "commit_ahead": Bug(
        "a worker commits behind a batch that is still with the agents",
        ("ahead",),
        {"worker": ["patches:commit_ahead"]},
    ),
    "no_version_check": Bug(
        "a recipient applies what comes again, whatever its version",
        ("stale", "disordered", "doubled"),
        {"worker": ["patches:delivers_again"], "adapter": ["patches:no_version_check"]},
    ),
    "forgets_before_ack": Bug(
        "the outbox is emptied before the bus has acked, and the adapter dies",
        ("lost",),
        {"adapter": ["moments:publisher", "patches:forgets_before_ack"]},
        ("published",),
    ),
    "rows_before_offset": Bug(
        "a recipient commits rows without its offset, and dies before that",
        ("doubled",),
        {"adapter": ["patches:rows_before_offset"]},
        ("inside-sql",),
    ),
    "every_field_flows": Bug(
        "a worker delivers whole records",
        ("unentitled",),
        {"worker": ["patches:every_field_flows"]},
    ),
    "no_withdrawals": Bug(
        "who may no longer have a record is not told",
        ("unentitled",),
        {"worker": ["patches:no_withdrawals"]},
    ),
    "tells_secrets": Bug(
        "an adapter logs a row of its own table",
        ("leaked",),
        {"adapter": ["patches:tells_secrets"]},
    ),
}

SCENARIO = Scenario(
    "calm", "nothing is broken: inserts, updates, moves, deletes, new keys", run, BUGS
)

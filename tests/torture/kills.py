"""SIGKILLs under load: of random processes of an `up`, and of `up` itself; then at chosen moments.

The product's own supervisor runs everything and starts anew what dies; only `up` is started again
by us. The clerks write on all the while, also while there is no bus.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter

import psutil

from .county import REGISTRY
from .launch import launched
from .moments import OF_ORDERS, POINTS, UP, Orders, wait_obeyed
from .scenario import Scenario
from .verdict import Verdict
from .world import World

# Chosen out of a hundred; a broker and an `up` take the longest to come back.
VICTIMS = {"adapter": 40, "worker": 33, "operations": 7, "broker": 11, "up": 9}
MOMENT_SECONDS = 120.0
RARE = ("revoked", "snapshot")
# Longer than a dead worker's session: by then a rebalance that was under way is over.
REBALANCE_SECONDS = 15.0
SHORT_POINTS = ("delivered", "inside-sql", "published", "revoked", "applied")
FULL_POINTS = tuple(p for p in POINTS if p not in ("job", "sending-data", "asking", *OF_ORDERS))


def run(world: World, seed: int, short: bool) -> Verdict:
    changes, kills, moments = (800, 2, 5) if short else (20_000, 50, 20)
    rng = random.Random(f"kills/{seed}")
    world.begin(up=True, rows=60 if short else 2_000)
    orders = Orders(world.folder)
    orders.place("job")
    world.start_up(patches=UP, adapters=2 if short else 3)
    world.did("`up` is ready")
    world.watch()
    world.write_on(per_second=100)
    killed = random_kills(world, rng, kills, short)
    world.did(f"{sum(killed.values())} random SIGKILLs: {dict(sorted(killed.items()))}")
    obeyed = chosen_kills(world, orders, rng, moments, short)
    world.did(f"{sum(obeyed.values())} SIGKILLs at chosen moments: {dict(sorted(obeyed.items()))}")
    world.write_until(changes)
    world.did(f"{world.changes} changes were made")
    world.verdict.counted |= {"kills": dict(killed), "moments": dict(obeyed)}
    return world.conclude()


def random_kills(world: World, rng: random.Random, count: int, short: bool) -> Counter[str]:
    killed: Counter[str] = Counter()
    plan = rng.choices(list(VICTIMS), list(VICTIMS.values()), k=count)
    if short:  # adapters and workers die at chosen moments
        plan = ["broker", "up"]
    for kind in plan:
        time.sleep(rng.uniform(0.2, 1.0) if short else rng.uniform(0.3, 4.0))
        name = kill_one(world, rng, kind)
        killed[name.partition("-")[0]] += 1
    return killed


def kill_one(world: World, rng: random.Random, kind: str) -> str:
    """Kills one process of this kind, and waits for none to come back but `up`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if kind == "up":
            assert world.up is not None
            world.up.kill()
            world.start_up(patches=UP, adapters=2 if world.short else 3)
            return "up"
        alive = _alive(world)
        victims = sorted(name for name in alive if name.startswith(kind))
        if victims:
            name = rng.choice(victims)
            try:
                psutil.Process(alive[name]).kill()
            except psutil.NoSuchProcess:
                continue
            return name
        time.sleep(0.05)  # it is being started anew just now
    raise TimeoutError(f"no {kind} to kill came back within two minutes")


def _alive(world: World) -> dict[str, int]:
    """What `up` runs now, by name: run.json may still name one that is dead."""
    assert world.up is not None
    children = {child.pid for child in psutil.Process(world.up.pid).children()}
    return {name: pid for name, pid in world.processes().items() if pid in children}


def chosen_kills(
    world: World, orders: Orders, rng: random.Random, count: int, short: bool
) -> Counter[str]:
    """`count` kills, the points in turn; one that is not reached in time is told as found."""
    obeyed: Counter[str] = Counter()
    if orders.obeyed("job") is not None:
        obeyed["job"] += 1
    points = SHORT_POINTS if short else FULL_POINTS
    for number in range(count):
        point = points[number % len(points)]
        orders.place(point, passing=1 if point in RARE else rng.randint(1, 3))
        if point == "snapshot":
            _ask_for_snapshot(world, orders)
        reached = _kill_in_rebalance if point == "revoked" else _kill_at
        if reached(world, orders, rng, point) is None:
            world.verdict.add("other", f"no process came to `{point}`: {POINTS[point][1]}")
        else:
            obeyed[point] += 1
        time.sleep(rng.uniform(0.0, 0.5))
    return obeyed


def _kill_at(world: World, orders: Orders, rng: random.Random, point: str) -> int | None:
    return wait_obeyed(orders, point, MOMENT_SECONDS)


def _kill_in_rebalance(world: World, orders: Orders, rng: random.Random, point: str) -> int | None:
    """A worker dies, and the other one in the rebalance that follows. Where that rebalance was
    under way already, the other has nothing left to be taken away: another death, then."""
    for _ in range(round(MOMENT_SECONDS / REBALANCE_SECONDS)):
        kill_one(world, rng, "worker")
        if (pid := wait_obeyed(orders, point, REBALANCE_SECONDS)) is not None:
            return pid
        orders.place(point)
    orders.take_back(point)
    return None


def _ask_for_snapshot(world: World, orders: Orders) -> None:
    """Somebody asks for the rows that are there already, and is killed in the midst of it: the
    adapter has to go on (and is killed in its turn)."""
    orders.place("asking")
    config = str(world.county.config(REGISTRY))
    argv = launched("snapshot", ["moments:snapshot"], "--config", config)
    asking = subprocess.run(
        argv, env=world.environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip
    world.verdict.check(
        asking.returncode == -signal.SIGKILL, f"the snapshot ended with {asking.returncode}"
    )


SCENARIO = Scenario("kills", "processes are killed at random and at chosen moments", run)

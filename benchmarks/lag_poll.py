"""Looks again and again at a simulated cluster of a thousand units; one line of JSON at the end.

Asking, decoding, judging and making the document of `deptbus lag` are the product's own; the broker
is simulated in this very process, so both its time and its memory are in the figures too. What lies
unread first in each partition is taken as read before: that is the disk's work, once a record.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import county
from benchmarks.simulated_cluster import Log, SimulatedCluster, SimulatedGroup
from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.operations.lag import Look
from deptbus.operations.lag_report import lag_document
from deptbus.operations.lag_watch import LagWatch
from deptbus.operations.observer import Observer
from deptbus.operations.offset_requests import Cluster
from deptbus.operations.offsets import Offsets
from deptbus.operations.signs import Life
from deptbus.operations.verdicts import Reader
from deptbus.operations.watch_signs import SignsWatch

UNITS, PARTITIONS = 1_000, 10
END, UNREAD = 100_000, 7


def world(contract: Contract) -> SimulatedCluster:
    """Every second unit is a little behind."""
    made = SimulatedCluster(logs={names.CONTRACT: [Log(0, 1)]})
    worker = SimulatedGroup()
    topics = [names.data_topic(dataset) for dataset in contract.datasets]
    for unit in contract.units:
        topics += [names.out_topic(unit.unit), names.in_topic(unit.unit)]
    for topic in topics:
        made.logs[topic] = [Log(50, END) for _ in range(contract.partitions)]
        if not topic.startswith("in."):
            worker.commits |= {(topic, n): END for n in range(contract.partitions)}
    for number, unit in enumerate(contract.units):
        topic = names.in_topic(unit.unit)
        stands = END - UNREAD * (number % 2)
        commits = {(topic, n): stands for n in range(contract.partitions)}
        group = SimulatedGroup(state="Empty", protocol="", commits=commits)
        made.groups[names.adapter_group(unit.unit, unit.systems[0])] = group
    made.groups[names.WORKER_GROUP] = worker
    return made


class Alive(SignsWatch):
    """Everybody lives: signs are read by a consumer, which is not what is measured."""

    worker = Life(Reader.ALIVE, time.time())

    def __init__(self) -> None: ...

    async def read(self, systems: Any, cluster: Cluster, now: float) -> None: ...

    def recipient(self, system: tuple[str, str], now: float) -> Life:
        return Life(Reader.ALIVE, now)

    source = recipient

    def of(self, system: tuple[str, str]) -> Any:
        return _NOTHING_TOLD


_NOTHING_TOLD = type("NothingTold", (), {"source": None, "recipient": None})()


class LookedBefore:
    """In place of `Looks`."""

    def known(self, topic: str, partition: int, position: int, end: int) -> Look:
        return Look(position, end, position, int((time.time() - 5) * 1000), end - position)

    def forget(self, topic: str) -> None: ...

    def keep_only(self, positions: Any) -> None: ...


def watch(contract: Contract, cluster: Any) -> LagWatch:
    made = LagWatch(Connection(bootstrap="simulated:1"))
    observer: Any = Observer(made._connection)
    observer._offsets, observer._looks = Offsets(cluster), LookedBefore()
    made._observer, made._signs = observer, Alive()
    made._contract, made._contract_read_at = contract, float("inf")
    return made


async def run(runs: int) -> dict[str, Any]:
    contract = county.contract(1, bystanders=UNITS - 2, partitions=PARTITIONS)
    cluster = world(contract)
    looking = watch(contract, cluster)
    seconds = []
    for _ in range(runs + 1):
        began = time.process_time()
        report = await looking.look()
        text = json.dumps(lag_document(report, unit=None, only_bad=False))
        seconds.append(time.process_time() - began)
    return {
        "seconds": seconds[1:],
        "first_seconds": seconds[0],
        "megabytes": _peak_mb(),
        "partitions": sum(map(len, cluster.logs.values())),
        "units": len(contract.units),
        "judged": len(report.picture.tracks),
        "document_bytes": len(text),
    }


def _peak_mb() -> float:
    """Of this program: `ru_maxrss` goes on with what the process had before it became this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(int(sys.argv[1])))))

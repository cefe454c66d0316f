"""Faust as its guide shows it: one agent, one event at a time, each delivery awaited.

    python -m benchmarks.rivals.faust_agent BOOTSTRAP SOURCE TARGET GROUP

Nothing of Faust is changed but what keeps it off the broker's topics and this machine's ports.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import faust

from benchmarks import county
from benchmarks.rivals.avro import router
from deptbus.readiness import tell_ready
from deptbus.wire.codecs import Codecs


def make_app(bootstrap: str, source: str, target: str, group: str, folder: Path) -> faust.App:
    app = faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        producer_acks=-1,
        consumer_auto_offset_reset="earliest",
        datadir=folder,
    )
    wanted = app.topic(source, key_type=bytes, value_type=bytes)
    made = app.topic(target, key_type=bytes, value_type=bytes)
    deliver = router(Codecs(county.contract()))

    @app.agent(wanted, name="route")
    async def route(stream: faust.StreamT) -> None:
        async for event in stream.events():
            delivered = await made.send(
                key=event.key, value=deliver(event.value), partition=event.message.partition
            )
            await delivered

    @app.on_partitions_assigned.connect
    async def assigned(*_: object, **__: object) -> None:
        tell_ready()

    return app


def main() -> None:
    bootstrap, source, target, group = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        app = make_app(bootstrap, source, target, group, Path(folder))
        faust.Worker(app, loglevel="info").execute_from_commandline()


if __name__ == "__main__":
    main()

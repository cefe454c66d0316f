"""The three brokers of docker-compose.yml as our processes, by their own start script.

Only host names, ports and the folders are replaced; users, rights and replication are the file's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compose import ROOT, brokers, compose

from deptbus.cluster.admin import Admin
from deptbus.cluster.jars import ensure_jars
from deptbus.cluster.java import find_java
from deptbus.cluster.lifeline import bound
from deptbus.cluster.ports import LOOPBACK, free_port
from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable

START_SECONDS = 90.0


class Three:
    """`start` ... `stop`; in between each can be killed, frozen and started again by its name.

    `extra_settings` override the file's, for all three. All calls from the main thread."""

    def __init__(self, folder: Path, extra_settings: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._home = folder / "kafka"
        self._extra_settings = dict(extra_settings or {})
        # Node id -> name.
        self.names = {int(s["environment"]["BROKER_NODE_ID"]): n for n, s in brokers().items()}
        self._addresses: dict[str, str] = {}
        for name in brokers():
            for port in (9092, 9093):
                taken = {int(a.partition(":")[2]) for a in self._addresses.values()}
                free = next(p for p in iter(free_port, 0) if p not in taken)
                self._addresses[f"{name}:{port}"] = f"{LOOPBACK}:{free}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.connection = self.client("topics")  # of the one user who may do everything

    @property
    def bootstrap(self) -> str:
        return ",".join(self._addresses[f"{name}:9092"] for name in brokers())

    def client(self, service: str) -> Connection:
        """As which a service of the file connects."""
        words = {
            name.removeprefix("DEPTBUS_").lower(): value
            for name, value in compose()["services"][service]["environment"].items()
            if name.startswith("DEPTBUS_")
        }
        return Connection(**{**words, "bootstrap": self.bootstrap})  # type: ignore[arg-type]

    def logs(self, name: str) -> Path:
        """The folder of this broker's partitions."""
        return self._folder / name / "log"

    def start(self) -> None:
        """Returns when all three are there."""
        self._write_programs()
        for name in brokers():
            self.start_one(name)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if Admin(self.connection).brokers == len(self.processes):
                    return
            except (BusUnreachable, BusRefused):
                # Refused too: a broker answers before it has read its users.
                if time.monotonic() > deadline:
                    raise
            assert all(p.poll() is None for p in self.processes.values()), self._said()
            time.sleep(0.1)

    def start_one(self, name: str) -> None:
        """Does not wait for it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                bound(["/bin/bash", ROOT / "deploy" / "broker.sh"]),
                env=self._environment(name, brokers()[name]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self, name: str) -> None:
        """SIGKILL; returns when it is gone."""
        self.processes[name].kill()
        self.processes[name].wait(30)

    def freeze(self, name: str) -> None:
        """SIGSTOP: it stands still until `wake`."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def wake(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """By force."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(30)

    def _said(self) -> str:
        return "\n".join(p.read_text(errors="replace")[-1500:] for p in self._folder.glob("*.out"))

    def _environment(self, name: str, service: dict[str, Any]) -> dict[str, str]:
        words = {"PATH": os.environ["PATH"], "KAFKA_HOME": str(self._home)}
        for variable, text in service["environment"].items():
            value = str(text)
            for place, address in self._addresses.items():
                value = value.replace(place, address)
            if variable == "BROKER_LISTENERS":  # every address of a container: here the loopback's
                for port in (9092, 9093):
                    value = value.replace(f"://:{port}", f"://{self._addresses[f'{name}:{port}']}")
            words[variable] = value
        for setting, value in self._extra_settings.items():
            words[f"BROKER_{setting.upper().replace('-', '___').replace('.', '_')}"] = value
        words["BROKER_LOG_DIRS"] = str(self.logs(name))
        words["KAFKA_HEAP_OPTS"] = "-Xms128m -Xmx256m"
        return words

    def _write_programs(self) -> None:
        """The two programs of Kafka's distribution that the script calls, made of our jars."""
        java = f"{find_java()} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 $KAFKA_HEAP_OPTS"
        java += " -Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        path = os.pathsep.join(map(str, ensure_jars()))
        (self._home / "bin").mkdir(parents=True)
        for program, main in (
            ("kafka-storage.sh", "kafka.tools.StorageTool"),
            ("kafka-server-start.sh", "kafka.Kafka"),
        ):
            file = self._home / "bin" / program
            file.write_text(f'#!/bin/sh\nexec {java} -cp "{path}" {main} "$@"\n')
            file.chmod(0o755)

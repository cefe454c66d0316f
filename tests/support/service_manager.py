"""Stands in for systemd where there is none: reads a unit, keeps its process alive by the unit's
own rules, and hears what it says to its manager (systemd.service(5), sd_notify(3)).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections import defaultdict
from pathlib import Path

AGAIN_SECONDS = 0.2  # instead of RestartSec
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_ESCAPED = re.compile(r"\\(.)")


def settings_of(text: str) -> dict[str, list[str]]:
    """Name -> its values, of all sections; each name of ours is in one section only."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


def words_of(value: str, *, is_command: bool = True) -> list[str]:
    """As systemd takes a command line apart, or a list of assignments."""
    words = []
    for quoted, plain in _WORD.findall(value):
        text = plain or _ESCAPED.sub(lambda m: {"n": "\n"}.get(m[1], m[1]), quoted)
        text = text.replace("%%", "%")
        words.append(text.replace("$$", "$") if is_command else text)
    return words


class Manager:
    """`with Manager(text, folder) as manager`: the unit is enabled, and the machine has booted.
    `stop` and `start` are those of systemctl."""

    def __init__(self, text: str, folder: Path) -> None:
        self._settings = settings_of(text)
        self._log = folder / "journal.log"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._address = f"@deptbus-{uuid.uuid4().hex}"  # in the abstract namespace
        self._socket.bind(f"\0{self._address[1:]}")
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._keeper = threading.Thread()
        self.heard: list[str] = []
        self.starts = 0
        self.is_failed = False

    def _keep(self) -> None:
        argv = words_of(self._settings["ExecStart"][0])
        given = [words_of(value, is_command=False)[0] for value in self._settings["Environment"]]
        for file in self._settings["EnvironmentFile"]:
            given += Path(file).read_text(encoding="utf-8").splitlines()
        environment = {
            "PATH": os.environ["PATH"],
            "NOTIFY_SOCKET": self._address,
            "WATCHDOG_USEC": "600000",
            **dict(line.split("=", 1) for line in given),
        }
        rests_at = {int(n) for n in self._settings["RestartPreventExitStatus"][0].split()}
        while not self._stopping.is_set():
            with self._log.open("ab") as output:
                self._process = subprocess.Popen(
                    argv, env=environment, cwd="/", stdout=output, stderr=subprocess.STDOUT
                )
            self.starts += 1
            if self._process.wait() in rests_at:
                self.is_failed = True
                return
            self._stopping.wait(AGAIN_SECONDS)

    def _hear(self) -> None:
        while True:
            try:
                self.heard += self._socket.recv(4096).decode().splitlines()
            except OSError:  # closed
                return

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()

    def journal(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def start(self) -> None:
        self._stopping.clear()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + 30
        while self._keeper.is_alive() and time.monotonic() < deadline:
            if self._process is not None:
                self._process.send_signal(signal.SIGTERM)
            self._keeper.join(0.5)
        assert not self._keeper.is_alive(), self.journal()

    def __enter__(self) -> Manager:
        threading.Thread(target=self._hear, daemon=True).start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._socket.close()

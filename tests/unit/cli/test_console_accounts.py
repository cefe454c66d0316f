"""`deptbus console account` and `link`: no password on the command line, and nothing half done."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from deptbus.cli.console import ADDRESS_FILE, TICKETS_FOLDER, link_of
from deptbus.cli.main import run
from deptbus.console import accounts as accounts_module
from deptbus.console.accounts import is_password, read_accounts
from deptbus.console.roles import Role
from deptbus.console.tickets import take_ticket

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts_module, "_N", 2)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    def give(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    give(PASSWORD + "\n")
    return give


def test_an_account_is_made_changed_listed_and_removed(
    tmp_path: Path, typed, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "accounts.json"
    where = ["--accounts", str(file)]
    assert run(["console", "account", "add", "olga", "--role", "operator", "--role", "auditor",
                *where]) == 0  # fmt: skip
    typed(PASSWORD + "\n")
    clerk = ["--role", "clerk", "--unit", "housing@330106"]
    assert run(["console", "account", "add", "carl", *clerk, *where]) == 0
    made = read_accounts(file)
    assert made["olga"].person.roles == {Role.OPERATOR, Role.AUDITOR}
    assert made["carl"].person.unit == "housing@330106"
    assert is_password(made["olga"].hash, PASSWORD)
    assert PASSWORD not in file.read_text(encoding="utf-8")

    typed("another one, quite long\n")
    assert run(["console", "account", "password", "olga", *where]) == 0
    assert not is_password(read_accounts(file)["olga"].hash, PASSWORD)
    capsys.readouterr()
    assert run(["console", "account", "ls", *where]) == 0
    assert capsys.readouterr().out == "carl\tclerk\thousing@330106\nolga\tauditor,operator\n"
    assert run(["console", "account", "remove", "olga", *where]) == 0
    assert set(read_accounts(file)) == {"carl"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["add", "x", "--role", "king"], 2),
        (["add", "x", "--role", "clerk"], 2),
        (["add", "x", "--role", "viewer", "--unit", "housing@330106"], 2),
        (["add", "330106199001011237", "--role", "viewer"], 2),
        (["remove", "x"], 1),
        (["password", "x"], 1),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(
    tmp_path: Path, typed, arguments: list[str], code: int
) -> None:
    file = tmp_path / "accounts.json"
    assert run(["console", "account", *arguments, "--accounts", str(file)]) == code
    assert not file.exists()


def test_a_short_password_and_a_second_account_are_refused(tmp_path: Path, typed) -> None:
    where = ["--role", "viewer", "--accounts", str(tmp_path / "accounts.json")]
    typed("short\n")
    assert run(["console", "account", "add", "x", *where]) == 2
    typed(PASSWORD + "\n")
    assert run(["console", "account", "add", "x", *where]) == 0
    assert run(["console", "account", "add", "x", *where]) == 2


def test_there_is_no_option_for_a_password() -> None:
    from deptbus.cli.main import NOUNS, load_noun

    group = load_noun("console", NOUNS["console"]).commands["account"]
    options = {o for command in group.commands.values() for p in command.params for o in p.opts}
    assert not {o for o in options if "password" in o and o.startswith("-")}


def test_a_link_lets_in_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["console", "link", "--data", str(tmp_path)]) == 2  # no console runs there
    (tmp_path / ADDRESS_FILE).parent.mkdir()
    (tmp_path / ADDRESS_FILE).write_text("http://127.0.0.1:8420", encoding="utf-8")
    capsys.readouterr()
    assert run(["console", "link", "--data", str(tmp_path), "--operator", "wang"]) == 0
    address, _, ticket = capsys.readouterr().out.strip().partition("/enter#")
    assert address == "http://127.0.0.1:8420"
    person = take_ticket(tmp_path / TICKETS_FOLDER, ticket)
    assert person is not None
    assert person.name == "wang"
    assert take_ticket(tmp_path / TICKETS_FOLDER, ticket) is None
    assert link_of(tmp_path, "wang") != link_of(tmp_path, "wang")


def test_a_console_that_nobody_could_log_in_to_is_not_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["console", "--bootstrap", "127.0.0.1:1"]) == 2
    assert "nobody could log in" in capsys.readouterr().err
    assert run(["console", "--bootstrap", "127.0.0.1:1", "--listen", "0.0.0.0:8420"]) == 2
    assert "in clear" in capsys.readouterr().err

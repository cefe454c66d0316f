"""Coming in: accounts, one-time tickets, sessions that end, and the wait of those who guess."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from pathlib import Path

import pytest
from console_world import HOUSING, PEOPLE, World, console_world, token_of

from deptbus.console import accounts as accounts_module
from deptbus.console.accounts import (
    Account,
    Accounts,
    is_password,
    password_hash,
    read_accounts,
    write_accounts,
)
from deptbus.console.patience import FREE_TRIES, LONGEST_SECONDS, Patience
from deptbus.console.roles import Person, Role
from deptbus.console.sessions import IDLE_SECONDS, Sessions
from deptbus.console.sessions import LONGEST_SECONDS as LONGEST
from deptbus.console.tickets import LASTS_SECONDS, make_ticket, take_ticket
from deptbus.errors import DeptbusError

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts_module, "_N", 2)
    monkeypatch.setattr(accounts_module, "_NOBODY", "scrypt$2$8$5$AAAA$" + "A" * 43 + "=")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "accounts.json"
    write_accounts(path, {"olga": Account(PEOPLE[Role.OPERATOR], password_hash(PASSWORD))})
    return path


@pytest.fixture
def world(file: Path, tmp_path: Path) -> World:
    return console_world(accounts=file, tickets=tmp_path / "tickets")


def log_in(world: World, name: str = "olga", password: str = PASSWORD, **more: str):
    browser = world.browser()
    token = token_of(browser.get("/login").text)
    form = {"csrf": token, "name": name, "password": password, **more}
    return browser, browser.post("/login", data=form)


class TestAccounts:
    def test_who_has_the_password_comes_in_and_goes_where_he_wanted(self, world: World) -> None:
        browser, answer = log_in(world, next="/lag?bad=1")
        assert answer.headers["location"] == "/lag?bad=1"
        assert browser.get("/lag").status_code == 200

    @pytest.mark.parametrize(("name", "password"), [("olga", "wrong"), ("nobody", PASSWORD)])
    def test_who_has_not_learns_nothing(self, world: World, name: str, password: str) -> None:
        browser, answer = log_in(world, name, password)
        assert answer.status_code == 401
        assert "Name or password is not right." in answer.text
        assert password not in answer.text
        assert browser.get("/lag").status_code == 303

    def test_the_cookie_is_new_and_no_script_or_other_site_has_it(self, world: World) -> None:
        browser = world.browser()
        token = token_of(browser.get("/login").text)
        before = browser.cookies[world.console.cookie_name]
        answer = browser.post("/login", data={"csrf": token, "name": "olga", "password": PASSWORD})
        words = answer.headers["set-cookie"].lower()
        assert "httponly" in words
        assert "samesite=lax" in words
        assert browser.cookies[world.console.cookie_name] != before

    def test_behind_tls_the_cookie_is_for_tls_alone(self, file: Path) -> None:
        world = console_world(accounts=file, public_url="https://bus.example")
        _, answer = log_in(world)
        assert re.match("__Host-deptbus=.*Secure", answer.headers["set-cookie"])
        assert "max-age" in answer.headers["strict-transport-security"]

    def test_a_log_in_of_another_page_is_refused(self, world: World) -> None:
        answer = world.browser().post("/login", data={"name": "olga", "password": PASSWORD})
        assert answer.status_code == 403

    def test_a_name_that_is_no_accounts_is_not_logged(
        self, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        log_in(world, "330106199001011237", "x")
        log_in(world, "olga", "my-secret-word")
        said = capsys.readouterr().out
        assert "sign_in_refused" in said
        assert "33010619900101" not in said
        assert "my-secret-word" not in said

    def test_an_account_that_is_removed_or_changed_ends_its_sessions(
        self, world: World, file: Path
    ) -> None:
        for change in ({}, {"olga": Account(PEOPLE[Role.OPERATOR], password_hash("x" * 12))}):
            write_accounts(file, {"olga": Account(PEOPLE[Role.OPERATOR], password_hash(PASSWORD))})
            browser, _ = log_in(world)
            assert browser.get("/lag").status_code == 200
            write_accounts(file, change)
            assert browser.get("/lag").status_code == 303

    def test_the_file_is_its_owners_alone_and_has_no_password(self, file: Path) -> None:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        content = file.read_text(encoding="utf-8")
        assert PASSWORD not in content
        assert json.loads(content)["accounts"]["olga"]["hash"].startswith("scrypt$")
        os.chmod(file, 0o644)
        with pytest.raises(DeptbusError, match="read by others"):
            read_accounts(file)

    @pytest.mark.parametrize(
        "content",
        ["", "{", '{"accounts": 1}', '{"accounts": {"x": {"roles": ["king"], "hash": ""}}}',
         '{"accounts": {"x": {"roles": ["clerk"], "hash": ""}}}'],
    )  # fmt: skip
    def test_nobody_comes_in_by_a_damaged_file(self, file: Path, content: str) -> None:
        file.write_text(content, encoding="utf-8")
        with pytest.raises(DeptbusError, match="cannot be read"):
            Accounts(file).get("x")

    def test_two_hashes_of_one_password_differ(self) -> None:
        first, second = password_hash(PASSWORD), password_hash(PASSWORD)
        assert first != second
        assert is_password(first, PASSWORD)
        assert is_password(second, PASSWORD)
        assert not is_password(first, PASSWORD + " ")
        assert not is_password(None, PASSWORD)
        assert not is_password("plain$x", "x")
        assert not is_password(first, "x" * 5000)

    def test_a_short_password_is_refused(self) -> None:
        with pytest.raises(DeptbusError, match="at least 12"):
            password_hash("short")

    def test_a_hash_costs_what_it_should(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        scheme, n, r, p, salt, _ = password_hash(PASSWORD).split("$")
        assert (scheme, n, r, p) == ("scrypt", "16384", "8", "5")
        assert len(salt) == 24

    def test_a_name_that_is_not_there_is_hashed_as_well(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else the time of the answer says which names there are."""
        hashed = []
        scrypt = accounts_module._scrypt
        monkeypatch.setattr(
            accounts_module, "_scrypt", lambda *a: hashed.append(a[2:]) or scrypt(*a)
        )
        log_in(world, "nobody", "x")
        log_in(world, "olga", "x")
        assert len(hashed) == 2
        assert hashed[0] == hashed[1]


class TestPatience:
    def test_who_guesses_waits_longer_each_time(self) -> None:
        now = [0.0]
        patience = Patience(now=lambda: now[0])
        for _ in range(FREE_TRIES):
            assert patience.wait_seconds("a") == 0
            patience.failed("a")
        waits = []
        for _ in range(12):
            waits.append(patience.wait_seconds("a"))
            now[0] += waits[-1]
            assert patience.wait_seconds("a") == 0
            patience.failed("a")
        assert waits == sorted(waits)
        assert waits[0] == 2
        assert waits[-1] == LONGEST_SECONDS
        assert patience.wait_seconds("b") == 0

    def test_who_comes_in_is_forgiven_and_what_failed_before_counts(self) -> None:
        patience = Patience(2, lambda: 0.0)
        patience.failed("a")
        patience.failed("a")
        patience.forgive("a")
        assert patience.wait_seconds("a") == 0
        patience.failed("a")
        assert patience.wait_seconds("a") > 0
        patience.forget("a")
        assert patience.wait_seconds("a") == 0

    def test_the_log_in_waits(self, world: World) -> None:
        for _ in range(FREE_TRIES):
            assert log_in(world, password="wrong")[1].status_code == 401
        _, answer = log_in(world)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert "Too many tries" in answer.text

    def test_planted_a_log_in_that_never_waits_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Patience, "wait_seconds", lambda self, who: 0.0)
        with pytest.raises(AssertionError):
            self.test_the_log_in_waits(world)

    def test_an_address_that_tries_many_accounts_waits_too(self, world: World) -> None:
        codes = [log_in(world, f"name{n}", "wrong")[1].status_code for n in range(32)]
        assert codes[0] == 401
        assert codes[-1] == 429


class TestSessions:
    def sessions(self) -> tuple[Sessions, list[float]]:
        now = [0.0]
        return Sessions(Accounts(None), lambda: now[0]), now

    def test_an_idle_one_ends(self) -> None:
        sessions, now = self.sessions()
        name = sessions.begin(PEOPLE[Role.VIEWER])
        now[0] += IDLE_SECONDS - 1
        assert sessions.person(name) == PEOPLE[Role.VIEWER]
        now[0] += IDLE_SECONDS + 1
        assert sessions.person(name) is None

    def test_none_outlasts_a_shift(self) -> None:
        sessions, now = self.sessions()
        name = sessions.begin(PEOPLE[Role.VIEWER])
        while now[0] <= LONGEST:
            assert sessions.person(name) is not None
            now[0] += 600
        assert sessions.person(name) is None

    def test_planted_sessions_that_never_end_are_found(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Sessions, "_has_ended", lambda self, session: False)
        with pytest.raises(AssertionError):
            self.test_an_idle_one_ends()

    def test_its_name_is_kept_nowhere(self) -> None:
        sessions, _ = self.sessions()
        name = sessions.begin(PEOPLE[Role.VIEWER])
        assert name not in repr(vars(sessions))
        assert sessions.person(name + "x") is None
        assert sessions.person("") is None

    def test_one_that_was_signed_out_is_worth_nothing(self, world: World) -> None:
        browser = world.of(Role.VIEWER)
        kept = browser.cookies[world.console.cookie_name]
        assert world.post(browser, "/logout").headers["location"] == "/login?left=1"
        browser.cookies.set(world.console.cookie_name, kept)
        assert browser.get("/").status_code == 303

    def test_a_token_is_of_its_cookie_alone(self) -> None:
        sessions, _ = self.sessions()
        assert sessions.is_csrf("a", sessions.csrf("a"))
        assert not sessions.is_csrf("b", sessions.csrf("a"))
        assert not sessions.is_csrf("", sessions.csrf(""))
        assert not sessions.is_csrf("a", "é")


class TestTickets:
    def enter(self, world: World, ticket: str):
        browser = world.browser()
        token = token_of(browser.get("/enter").text)
        return browser, browser.post("/enter", data={"csrf": token, "ticket": ticket})

    def test_one_lets_in_once(self, world: World, tmp_path: Path) -> None:
        ticket = make_ticket(tmp_path / "tickets", "root")
        browser, answer = self.enter(world, ticket)
        assert answer.headers["location"] == "/"
        assert "root" in browser.get("/audit").text
        _, again = self.enter(world, ticket)
        assert again.status_code == 401

    def test_planted_one_that_is_not_used_up_is_found(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        with pytest.raises(AssertionError):
            self.test_one_lets_in_once(world, tmp_path)

    def test_of_many_who_bring_it_at_once_one_comes_in(self, tmp_path: Path) -> None:
        ticket, found = make_ticket(tmp_path, "root"), []
        barrier = threading.Barrier(8)

        def come() -> None:
            barrier.wait()
            found.append(take_ticket(tmp_path, ticket))

        threads = [threading.Thread(target=come) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([person for person in found if person is not None]) == 1

    def test_an_old_one_is_worth_nothing(self, world: World, tmp_path: Path) -> None:
        ticket = make_ticket(tmp_path / "tickets", "root")
        (made,) = (tmp_path / "tickets").iterdir()
        old = made.stat().st_mtime - LASTS_SECONDS - 1
        os.utime(made, (old, old))
        assert self.enter(world, ticket)[1].status_code == 401

    def test_the_folder_opens_no_door(self, tmp_path: Path) -> None:
        folder = tmp_path / "tickets"
        ticket = make_ticket(folder, "root")
        (made,) = folder.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        assert ticket not in made.name + made.read_text(encoding="utf-8")
        assert take_ticket(folder, made.name) is None
        assert take_ticket(folder, "") is None
        assert take_ticket(folder, "../../etc/passwd") is None
        assert take_ticket(None, ticket) is None

    def test_who_only_looks_at_the_link_does_not_use_it_up(
        self, world: World, tmp_path: Path
    ) -> None:
        """Mail programs and chats fetch links ahead."""
        ticket = make_ticket(tmp_path / "tickets", "root")
        world.browser().get(f"/enter#{ticket}")
        assert self.enter(world, ticket)[1].status_code == 303

    def test_who_comes_so_is_operator_and_auditor(self, tmp_path: Path) -> None:
        person = take_ticket(tmp_path, make_ticket(tmp_path, "root"))
        assert person == Person("root", frozenset({Role.OPERATOR, Role.AUDITOR}))

    def test_who_guesses_waits(self, world: World) -> None:
        codes = [self.enter(world, "x" * 43)[1].status_code for _ in range(32)]
        assert codes[-1] == 429


def test_a_clerks_session_is_his_units(tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    write_accounts(path, {"carl": Account(PEOPLE[Role.CLERK], password_hash(PASSWORD))})
    browser, _ = log_in(console_world(accounts=path), "carl")
    assert HOUSING in browser.get("/units").text
    assert "public_security@330106<" not in browser.get("/units").text

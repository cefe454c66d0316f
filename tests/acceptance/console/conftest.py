"""One browser for the whole session, and a console on a running bus."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from browser import chromium, program
from debian import NotToBeHad
from installed import Room, Said, Up, is_ci, wait_until
from playwright.async_api import Browser
from running_console import CLERKS_UNIT, PASSWORD, Office, is_alive

from deptbus.cluster.ports import free_port
from deptbus.console.accounts import Account, password_hash, write_accounts
from deptbus.console.roles import Role, person_of


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    try:
        found = program()
    except NotToBeHad as error:
        if is_ci():
            raise
        pytest.skip(str(error))
    async with chromium(found) as running:
        yield running


@pytest.fixture(scope="module")
def office(kept_county: tuple[Room, Path, Said]) -> Iterator[Office]:
    room, folder, _ = kept_county
    accounts, base = room.folder / "accounts.json", f"http://127.0.0.1:{free_port()}"
    hashed = password_hash(PASSWORD)
    people = [person_of(r.value, frozenset({r}), CLERKS_UNIT * (r is Role.CLERK)) for r in Role]
    people.append(person_of("colleague", frozenset({Role.OPERATOR}), ""))
    write_accounts(accounts, {person.name: Account(person, hashed) for person in people})
    police = folder / "departments" / "public_security-330106" / "department.yml"
    figures = f"127.0.0.1:{free_port()}"  # of the worker; the two adapters take the next ports
    with Up(room, folder, "--no-console", "--metrics-address", figures) as up:
        process, log = room.start(
            "console", "--data", folder, "--accounts", accounts, "--department", police,
            "--listen", base.removeprefix("http://"),
        )  # fmt: skip
        try:
            wait_until(lambda: is_alive(base), 60, lambda: log.read_text())
            yield Office(up, base, log)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, log.read_text()
    room.check_logs()

"""One browser for the whole session."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from browser import chromium, program
from debian import NotToBeHad
from installed import is_ci
from playwright.async_api import Browser


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

"""Opens what an adapter of one system works with: its capture and its unit's secret."""

from __future__ import annotations

from pathlib import Path

from deptbus.contract.department import Department
from deptbus.department.capture import Capture
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import (
    PostgresDatabase,
    SqliteDatabase,
    application_name,
    open_database,
    target_of,
)
from deptbus.errors import SourceRefused

SECRET_BYTES = 32


async def open_system(department: Department, system: str) -> SqliteDatabase | PostgresDatabase:
    """A connection to the system's database; the state of a folder is made when it is absent."""
    target = target_of(department.systems[system].database)
    return await open_database(
        target, unit=department.unit, system=system, create=target.folder is not None
    )


async def open_capture(department: Department, system: str) -> Capture:
    """Raises DatabaseUnavailable. The capture owns its connections."""
    database = await open_system(department, system)
    if isinstance(database, SqliteDatabase):
        return SqliteCapture(database)
    return await PostgresCapture.open(database, await open_second(database, department, system))


async def open_second(
    database: PostgresDatabase, department: Department, system: str
) -> PostgresDatabase:
    """One more connection beside `database`, which is closed where there is none to be had. Raises
    DatabaseUnavailable."""
    try:
        return await PostgresDatabase.open(
            database.target, application_name=application_name(department.unit, system)
        )
    except BaseException:
        await database.close()
        raise


def read_secret(path: Path) -> bytes:
    """The unit's key secret: a file with 64 hexadecimal digits. Raises SourceRefused."""
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        raise SourceRefused(
            f"the unit's key secret {path} is not there",
            mend="Put the unit's own secret file back, or check `secret_file:`",
        ) from None
    except (OSError, ValueError):
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise SourceRefused(
            f"{path} is not a key secret (64 hexadecimal digits)",
            mend="Put the unit's own secret file back",
        )
    return secret

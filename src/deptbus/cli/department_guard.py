"""`deptbus department release`: a person says that removals which the adapter held are meant."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from deptbus.errors import DeptbusError, Exit


def add_to(app: typer.Typer) -> None:
    app.command()(release)


def release(
    config: Annotated[Path, typer.Option("--config", help="The unit's department.yml.")],
    held: Annotated[int, typer.Option("--held", help="The hold, as `status` names it.")],
    system: Annotated[
        str | None, typer.Option("--system", help="Whose hold it is, where several publish.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="They are meant: let them go.")] = False,
) -> None:
    """Let removals go that were held because they were too many at once. What is sent is what the
    own table has now of each key. Without --yes it says what is held, and exits with 1."""
    from deptbus.contract.department import load_department
    from deptbus.department import install as source

    department = load_department(config)
    publishing = [name for name, settings in department.systems.items() if settings.publishes]
    chosen = system or (publishing[0] if len(publishing) == 1 else None)
    if chosen not in publishing:
        raise DeptbusError(
            f"{department.unit} has no system of that name that publishes"
            if system
            else f"{department.unit} publishes from {', '.join(publishing) or 'no system'}",
            mend="Name one by --system",
        )
    hold = asyncio.run(source.release_removals(department, chosen, held, is_meant=yes))
    if hold is None:
        raise DeptbusError(
            f"{chosen}: nothing is held under {held}",
            mend="`deptbus department status` names what is held",
        )
    if not yes:
        print(f"{chosen}: {hold.keys} removals of {hold.dataset} are held; let them go with --yes")
        raise typer.Exit(Exit.ANSWER_IS_NO)
    print(
        f"{chosen}: {hold.keys} removals of {hold.dataset} are released; "
        "the adapter publishes what the table has of them now"
    )

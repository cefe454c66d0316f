"""`deptbus fetch`: fill a folder with all that a machine without network needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Fill a folder with all that a machine without network needs.")


@app.command()
def fetch(
    to: Annotated[Path, typer.Option("--to", help="The folder; it is made where it is absent.")],
) -> None:
    """Put deptbus, every package that it needs and Kafka's files into a folder, to be carried to a
    machine of the same kind. Done again it writes what is missing.

    There: `pip install --no-index --find-links DIR deptbus`, and for whoever runs a broker `--from
    DIR`, or DEPTBUS_CACHE.
    """
    from rich.console import Console

    from deptbus.cluster.offline import fetch as fill

    console = Console(stderr=True)

    def tell(line: str) -> None:
        if console.is_terminal:
            console.print(f"{line:<60}", end="\r")

    done = fill(to, tell)
    print(f"{done.wheels} packages and {done.jars} files of Kafka, {done.size_bytes / 1e6:.0f} MB")
    print(f"there: sha256sum -c SHA256SUMS, then as {to / 'README.txt'} says")

"""DIR/run.json: what of a bus runs in a folder; there from when all is ready until the end.

Format: {"bootstrap", "contract", "processes": [{"name", "pid"}], "units": {unit: {"config",
"systems": {system: database}}}}. A password in a database's address is left out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deptbus.connection import RUN_FILE
from deptbus.contract.department import Department

_PASSWORD = re.compile(r"(?<=://)([^:/@]*):[^@/]*@")


def write_run_file(
    data: Path,
    *,
    bootstrap: str,
    contract: str,
    processes: Iterable[tuple[str, int]],
    departments: Iterable[Department],
) -> None:
    """Whole or not at all, also for a reader who looks in the very moment."""
    content: dict[str, Any] = {
        "bootstrap": bootstrap,
        "contract": contract,
        "processes": [{"name": name, "pid": pid} for name, pid in processes],
        "units": {
            department.unit: {
                "config": department.file,
                "systems": {
                    name: _PASSWORD.sub(r"\1@", system.database)
                    for name, system in department.systems.items()
                },
            }
            for department in departments
        },
    }
    part = data / f"{RUN_FILE}.part"
    part.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(part, data / RUN_FILE)


def remove_run_file(data: Path) -> None:
    (data / RUN_FILE).unlink(missing_ok=True)

"""Keeps what a repair replaces or removes in a file of the unit, before it does so.

One file a job, beside department.yml, for its owner alone; one JSON document a line. It never
leaves the unit, and deptbus never reads it again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from deptbus.department.repairs import Kept
from deptbus.department.target import MappedTarget
from deptbus.department.values import as_text
from deptbus.errors import DatabaseUnavailable

FOLDER = "overwritten"


def keep_values(
    folder: Path, system: str, kept: Sequence[Kept], targets: Mapping[str, MappedTarget]
) -> None:
    """On the disk when it returns. A row may stand there twice, when a batch had to be begun anew.
    Raises DatabaseUnavailable: then nothing is overwritten."""
    lines: dict[str, list[str]] = {}
    for one in kept:
        target = targets[one.order.dataset]
        row = {
            "job": one.order.job,
            "dataset": one.order.dataset,
            "key": one.order.key.hex(),
            "table": target.table,
            "row": {
                column.name: None if value is None else as_text(value)
                for column, value in zip(target.columns, one.values, strict=True)
            },
        }
        lines.setdefault(one.order.job, []).append(json.dumps(row, ensure_ascii=False))
    try:
        place = folder / FOLDER
        place.mkdir(mode=0o700, exist_ok=True)
        for job, some in lines.items():
            path = place / f"{system}-{job}.jsonl"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write("".join(f"{line}\n" for line in some))
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise DatabaseUnavailable(
            f"what a repair replaces cannot be kept in {folder / FOLDER} ({error.strerror})",
            mend="Let the adapter's user write there; until then nothing is overwritten",
        ) from None

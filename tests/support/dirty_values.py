"""Dirty values and what is to become of each: `golden/dirty_values.yml`, read."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).parents[1] / "unit" / "department" / "golden" / "dirty_values.yml"
GOLDEN = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
_READ: dict[str, Any] = {
    "bytes": bytes.fromhex,
    "stray": lambda text: bytes.fromhex(text).decode("utf-8", "surrogateescape"),
    "decimal": Decimal,
    "day": date.fromisoformat,
    "moment": datetime.fromisoformat,
    "time": time.fromisoformat,
}


def value_of(told: Any) -> Any:
    if isinstance(told, dict):
        ((kind, text),) = told.items()
        return _READ[kind](text)
    return told

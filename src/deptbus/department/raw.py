"""Own keys as text: how the source's bookkeeping names a row of the department's own table."""

from __future__ import annotations

import json
from typing import Any

from deptbus.department.capture import RawKey


def raw_text(raw: RawKey) -> str:
    """An own key as JSON in ASCII: one text for one key, numbers and texts kept apart."""
    return json.dumps([_jsonable(v) for v in raw], separators=(",", ":"))


def raw_of(text: str) -> RawKey:
    """The inverse of `raw_text`."""
    return tuple(bytes.fromhex(v["hex"]) if isinstance(v, dict) else v for v in json.loads(text))


def _jsonable(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def is_text(value: Any) -> bool:
    """False for text that is not valid Unicode (read with surrogates in place of stray bytes)."""
    if not isinstance(value, str):
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

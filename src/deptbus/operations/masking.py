"""What an operator may see of a record: fields by their sharing class, never a personal number.

1. A field that the contract in force lists as `unconditional` is shown; every other is masked, one
   that it does not list at all too: include-lists, here as in routing.
2. A field checked as a resident number is masked, and so is any text that holds the form of one.
3. Texts are shown as one line of printable characters, cut short: hostile bytes end in a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from deptbus.contract.model import Check, Dataset, Sharing

RESIDENT_NUMBER = re.compile(r"\d{17}[\dXx]")  # seventeen digits and a check character (GB 11643)
_LETTERS = 120
_PERSONAL = "(masked: a personal number)"


def masked_fields(dataset: Dataset | None, values: Mapping[str, Any]) -> dict[str, str]:
    """Field -> its value as text, or why it is masked."""
    return {name: masked(dataset, name, value) for name, value in values.items()}


def masked(dataset: Dataset | None, field: str, value: Any) -> str:
    """One value as text, or why it is masked. `dataset`: as the contract in force has it."""
    sharing = dataset.sharing.get(field) if dataset is not None else None
    if sharing is not Sharing.UNCONDITIONAL:
        return f"(masked: {sharing.value if sharing is not None else 'not in the contract'})"
    if dataset is not None and dataset.checks.get(field) is Check.RESIDENT_ID:
        return _PERSONAL
    return shown(value)


def shown(value: Any) -> str:
    """A value that may be seen, as one printable line."""
    # Bytes in hexadecimal could spell a number that nobody recognises.
    text = f"({len(value)} bytes)" if isinstance(value, bytes) else str(value)
    if RESIDENT_NUMBER.search(text):
        return _PERSONAL
    printable = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:_LETTERS])
    return printable + ("..." if len(text) > _LETTERS else "")

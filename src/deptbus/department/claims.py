"""Pure: who holds a row that several records map to.

No clock and no order of arrival decides, so every recipient ends alike.
"""

from __future__ import annotations

from collections.abc import Iterable

from deptbus.department.ledger import RecordId


def least_claimant(claimants: Iterable[RecordId]) -> RecordId:
    """The least (source unit, key) among live claimants of one row of one dataset."""
    return min(claimants)

"""Which of a source's differences a repair has published anew, and which it leaves alone."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from deptbus.errors import DeptbusError
from deptbus.operations import reconcile_repair
from deptbus.operations.audit import Operator
from deptbus.operations.leg import Finding, LegResult
from deptbus.operations.reconcile import Reconciled
from deptbus.operations.reconcile_repair import Mended, Wishes, repair

FINDINGS = tuple(
    Finding(letter.encode() * 16, word, "")
    for letter, word in (("a", "missing"), ("b", "wrong"), ("c", "extra"), ("d", "parked"))
)
KEYS = {finding.word: finding.key for finding in FINDINGS}


class Office:
    """Whose contract asks for no second person."""

    shelves = "shelves"
    policies = SimpleNamespace(
        current=lambda: SimpleNamespace(contract=SimpleNamespace(two_people=None))
    )


async def mended(monkeypatch: pytest.MonkeyPatch, wishes: Wishes) -> tuple[Mended, list[Any]]:
    """What was ordered, and what of it went to the source."""
    orders: list[Any] = []

    async def order(shelves: Any, unit: str, dataset: str, keys: list[bytes], **words: Any) -> int:
        orders.append((unit, dataset, set(keys), words["name"]))
        return len(keys)

    async def ends(connection: Any, topic: str) -> list[int]:
        assert not orders, "what is published at once would lie before them"
        return [7, 9]

    async def published(shelves: Any, dataset: str, keys: list[bytes], **words: Any) -> bool:
        ((_, _, ordered, name),) = orders
        assert (set(keys), words["name"]) == (ordered, name)
        assert words["behind"] == {0: 7, 1: 9}
        return True

    monkeypatch.setattr(reconcile_repair, "order_resend", order)
    monkeypatch.setattr(reconcile_repair, "end_offsets", ends)
    monkeypatch.setattr(reconcile_repair, "until_published", published)
    result = LegResult(
        "source",
        "police@330106",
        "main",
        "resident",
        by_class=Counter(finding.word for finding in FINDINGS),
        findings=FINDINGS,
    )
    copy = LegResult("copy", "housing@330106", "main", "resident", could_not_tell="it is held")
    found = Reconciled((result, copy), (), 1.0)
    by = Operator("test")
    return await repair(Office(), None, found, wishes, by), orders  # type: ignore[arg-type]


async def test_what_is_not_there_any_more_is_deleted_only_where_deletions_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, orders = await mended(monkeypatch, Wishes("differs"))
    ((unit, dataset, keys, name),) = orders
    assert (unit, dataset, [name]) == ("police@330106", "resident", done.jobs)
    assert keys == {KEYS["missing"], KEYS["wrong"]}
    assert done.resent == {("police@330106", "resident"): 2}
    assert sum(done.left.values()) == 2
    done, orders = await mended(monkeypatch, Wishes("differs", max_delete=1))
    assert orders[0][2] == {KEYS["missing"], KEYS["wrong"], KEYS["extra"]}
    assert done.left == {"parked: the source's own matter": 1}


async def test_more_deletions_than_are_allowed_are_none_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "test_reconcile_at_the_source.FINDINGS",
        (*FINDINGS, Finding(b"e" * 16, "extra", "")),
    )
    with pytest.raises(DeptbusError, match="2 extra rows would be removed"):
        await mended(monkeypatch, Wishes("differs", max_delete=1))

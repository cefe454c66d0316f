"""What the last proof of a copy is called (rules 1 to 4 of `proofs`), shown and told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Policy, Proofs
from deptbus.operations.proofs import (
    LATE_SECONDS,
    ProofState,
    Subject,
    outcomes_of,
    proof_rows,
    proofs_document,
    subjects_of,
)
from deptbus.stream.log import LogRecord
from deptbus.wire.control import ProofOutcome, encode_control, key_of

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
CONTRACT = load(bundled())
NIGHTLY = CONTRACT.model_copy(update={"proofs": Proofs(at="02:30")})
COPY = Subject("housing@330106", "resident", "copy")
SOURCE = Subject("public_security@330106", "resident", "source")
JOINED = {"source": {SOURCE.unit}, "copy": {COPY.unit}}


def policy(number: int, ago_hours: float, contract=CONTRACT) -> Policy:
    at = NOW - timedelta(hours=ago_hours)
    return Policy(number=number, activated_at=at, activated_by="t", contract=contract)


def outcome(ago_hours: float = 1, **words: Any) -> ProofOutcome:
    at = NOW - timedelta(hours=ago_hours)
    made = ProofOutcome(
        *COPY, "equal", 1, int(at.timestamp()) * 1_000_000, False, 10, (), (),
        "t", b"",
    )  # fmt: skip
    return replace(made, **words)


def state(history: list[Policy], last: ProofOutcome | None) -> ProofState:
    outcomes = {} if last is None else {COPY: last}
    rows = proof_rows({p.number: p for p in history}, outcomes, JOINED, NOW.timestamp())
    (row,) = [row for row in rows if row.subject == COPY]
    assert row.outcome == last
    return row.state


DIFFERENT: dict[str, Any] = {"verdict": "different", "classes": ("missing",), "counts": (3,)}
HELD: dict[str, Any] = {"verdict": "different", "classes": ("held",), "counts": (60,)}
BOTH = HELD | {"classes": ("held", "missing"), "counts": (60, 3)}


@pytest.mark.parametrize(
    ("history", "last", "expected"),
    [
        # Rule 2, whatever the age and the hour.
        ([policy(1, 900)], outcome(1, **DIFFERENT), ProofState.DIFFERENT),
        ([policy(1, 900, NIGHTLY)], outcome(800, **DIFFERENT), ProofState.DIFFERENT),
        ([policy(1, 900, NIGHTLY)], outcome(800, **HELD), ProofState.HELD),
        ([policy(1, 900)], outcome(1, **BOTH), ProofState.DIFFERENT),
        # Rule 3.
        ([policy(1, 900, NIGHTLY)], outcome(37), ProofState.LATE),
        ([policy(1, 900, NIGHTLY)], outcome(35), ProofState.EQUAL),
        ([policy(1, 900, NIGHTLY)], None, ProofState.LATE),
        ([policy(1, 35, NIGHTLY)], None, ProofState.UNPROVED),
        ([policy(1, 900), policy(2, 35, NIGHTLY)], None, ProofState.UNPROVED),
        ([policy(1, 900, NIGHTLY), policy(2, 35, NIGHTLY)], None, ProofState.LATE),
        ([policy(1, 900, NIGHTLY), policy(2, 50), policy(3, 35, NIGHTLY)], None,
         ProofState.UNPROVED),
        # Rule 4: without an hour nothing is late.
        ([policy(1, 900)], outcome(800), ProofState.EQUAL),
        ([policy(1, 900)], None, ProofState.UNPROVED),
        ([policy(1, 900, NIGHTLY), policy(2, 800)], outcome(850), ProofState.EQUAL),
    ],
)  # fmt: skip
def test_what_it_is_called(history, last, expected):
    assert state(history, last) is expected


def test_a_unit_that_gained_its_right_since_is_not_late():
    without = CONTRACT.datasets["resident"].model_copy(update={"receivers": ()})
    datasets = NIGHTLY.datasets | {"resident": without}
    before = NIGHTLY.model_copy(update={"datasets": datasets, "grants": ()})
    history = [policy(1, 900, before), policy(2, 35, NIGHTLY)]
    assert state(history, None) is ProofState.UNPROVED


def test_there_is_nothing_to_prove_where_nobody_joined_or_no_table_is_kept():
    history = {1: policy(1, 900, NIGHTLY)}
    nobody = proof_rows(history, {}, {"source": set(), "copy": set()}, NOW.timestamp())
    assert nobody == []
    none = outcome(verdict="absent")
    rows = proof_rows(history, {COPY: none}, JOINED, NOW.timestamp())
    assert {row.subject for row in rows} == {
        s for s in subjects_of(history[1]) if s.unit in JOINED[s.leg] and s != COPY
    }
    assert SOURCE in {row.subject for row in rows}
    assert COPY._replace(leg="source") not in subjects_of(history[1])
    assert proof_rows({}, {COPY: none}, JOINED, NOW.timestamp()) == []


def test_the_document_has_age_and_result_and_null_for_what_nobody_knows():
    history = {1: policy(1, 900)}
    last = outcome(2, **BOTH)
    rows = proof_rows(history, {COPY: last}, JOINED, NOW.timestamp())
    document = proofs_document(rows, NOW.timestamp())
    told = {Subject(row["unit"], row["dataset"], row["leg"]): row for row in document}
    assert told[COPY] == {
        "unit": COPY.unit,
        "dataset": "resident",
        "leg": "copy",
        "state": "different",
        "proved_at": "2026-03-10T10:00:00Z",
        "age_seconds": 7200,
        "rows": 10,
        "differences": 3,
        "held": 60,
        "by_class": {"held": 60, "missing": 3},
    }
    others = [row for name, row in told.items() if name != COPY]
    assert others
    assert all(row["state"] == "unproved" and row["age_seconds"] is None for row in others)


def test_of_the_topic_the_last_record_of_each_counts_and_what_is_none_is_left_out():
    old, new = outcome(9), outcome(1)
    lie = outcome(0, dataset="household")
    records = [
        _record(0, key_of(old), encode_control(old)),
        _record(1, key_of(new), encode_control(new)),
        _record(2, key_of(new), encode_control(lie)),  # under a key that is not its own
        _record(3, key_of(new), b"nothing of ours"),
        _record(4, key_of(new), None),
    ]
    assert outcomes_of(records) == {COPY: new}
    assert LATE_SECONDS == 36 * 3600


def _record(offset: int, key: bytes | None, value: bytes | None) -> LogRecord:
    return LogRecord("bus.proofs", 0, offset, 0, key, value)

"""What legs of a proof came to, as outcomes on `bus.proofs`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

import structlog

from deptbus.errors import BusRefused
from deptbus.operations.leg import LegResult
from deptbus.operations.office import Office
from deptbus.operations.proofs import Subject, keep_outcome
from deptbus.wire.control import ProofOutcome

NAMED_KEYS = 200  # of one outcome; `deptbus reconcile` names all of them
_REASON_LETTERS = 200

log = structlog.get_logger(__name__)


def outcomes_of_legs(
    results: Iterable[LegResult],
    *,
    policy: int,
    made_at: datetime,
    operator: str,
    certificate: bytes,
) -> list[ProofOutcome]:
    """One for each unit, dataset and leg. There is none where of a single system nothing could be
    told; that no system keeps the table is an outcome, too. `certificate`: the signed file that
    names these results, or nothing."""
    by_subject: dict[Subject, list[LegResult]] = defaultdict(list)
    for result in results:
        by_subject[Subject(result.unit, result.dataset, result.leg)].append(result)
    found = []
    for subject, systems in by_subject.items():
        if any(result.could_not_tell for result in systems):
            continue
        counts = _counts(systems)
        named = [finding for result in systems for finding in result.findings][:NAMED_KEYS]
        is_absent = all(result.absent for result in systems)
        found.append(
            ProofOutcome(
                *subject,
                verdict="absent" if is_absent else "different" if counts else "equal",
                policy=policy,
                proved_at_us=int(made_at.timestamp() * 1_000_000),
                deep=all(result.deep for result in systems),
                rows=sum(result.rows for result in systems),
                classes=tuple(counts),
                counts=tuple(counts.values()),
                operator=operator,
                certificate=certificate,
                keys=tuple(finding.key for finding in named),
                key_classes=tuple(finding.word for finding in named),
                reasons=tuple(finding.reason[:_REASON_LETTERS] for finding in named),
            )
        )
    return found


async def keep_results(
    office: Office, results: Sequence[LegResult], *, operator: str, certificate: bytes
) -> None:
    """On a bus that has no place for outcomes, or refuses them to whoever asks, the log says so:
    what was found is true all the same. Raises BusUnreachable."""
    outcomes = outcomes_of_legs(
        results,
        policy=office.policies.current().number,
        made_at=office.tools.now(),
        operator=operator,
        certificate=certificate,
    )
    try:
        for outcome in outcomes:
            await keep_outcome(office.tools.sender, outcome)
    except BusRefused as error:
        log.warning("outcomes_not_kept", error=str(error))


def _counts(systems: Sequence[LegResult]) -> dict[str, int]:
    """Class -> how many, of those that there are, by name."""
    counts: Counter[str] = Counter()
    for result in systems:
        counts.update(result.by_class)
    return {name: count for name, count in sorted(counts.items()) if count}

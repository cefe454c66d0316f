"""Which jobs are due: derived from the history of policies and the jobs that were completed. Pure.

Nobody orders a job, so none can be lost: a kill between two steps of an activation, a recipient
that joins, a rule that changed and a grant that ended all take this same path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from deptbus.contract.model import Policy
from deptbus.wire.control import JobProgress

# The digest of a dataset that a policy holds back from a unit: unlike every other, so that the
# policy that lifts the hold differs from it and has a job, which makes good what was kept back.
HELD = "held"

# Unit -> dataset -> digest of all that decides what the unit receives of it, under one policy
# (`operations.rights.rule_digests`). A dataset of which it receives nothing is absent.
Digests = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class DueJob:
    """Bring one recipient to `policy`: the last one that changed what it receives."""

    unit: str
    policy: int
    datasets: tuple[str, ...]  # changed since the last completed job, by name
    first_loads: frozenset[str]  # those of which it received nothing at that time
    inbox: str = ""  # of which id the inbox is that this fills anew (see inboxes.py)

    @property
    def job(self) -> str:
        """The same job has the same name whoever derives it, so that it is taken up again."""
        name = f"{self.unit}/{self.policy}"
        return f"{name}/{self.inbox}" if self.inbox else name


def last_completed(progress: Iterable[JobProgress]) -> dict[str, int]:
    """Unit -> policy of its last completed job."""
    completed: dict[str, int] = {}
    for job in progress:
        if job.state == "done":
            completed[job.unit] = max(job.policy, completed.get(job.unit, 0))
    return completed


def due_jobs(
    numbers: Iterable[int], digests_of: Callable[[int], Digests], completed: Mapping[str, int]
) -> dict[str, DueJob]:
    """Unit -> the job that it is due; units that only former policies knew included.

    `numbers`: every policy that can be read; `digests_of`: policy number -> digests.

    A unit's rights are walked from those that its last completed job left it with (none: no
    rights) through every policy since. A dataset is due when its digest changed at any step, also
    when it changed back: under the policy in between agents delivered by the other rule.
    While the newest policy holds a dataset back from a unit, nothing of it is due there.
    """
    ordered = sorted(numbers)
    known = set(ordered)
    newest = digests_of(ordered[-1]) if ordered else {}
    found = {}
    for unit in sorted({unit for number in ordered for unit in digests_of(number)}):
        base = completed.get(unit, 0)
        if base not in known:  # a job of another bus, or none: nothing is known to be there
            base = 0
        before = digests_of(base).get(unit, {}) if base else {}
        had = frozenset(before)
        held = {d for d, digest in newest.get(unit, {}).items() if digest == HELD}
        changed: set[str] = set()
        last = base
        for number in ordered:
            if number <= base:
                continue
            now = digests_of(number).get(unit, {})
            every = before.keys() | now.keys()
            differing = {d for d in every if before.get(d) != now.get(d)} - held
            if differing:
                changed |= differing
                last = number
            before = now
        if changed:
            datasets = tuple(sorted(changed))
            found[unit] = DueJob(unit, last, datasets, frozenset(changed - had))
    return found


def digests_under_holds(
    policy: Policy, numbers: Iterable[int], plain: Callable[[int], Digests]
) -> Digests:
    """Digests of a policy, HELD where it holds deliveries back: for each dataset that the unit has
    a right to or ever had one, because what a right that ended leaves behind is kept back as well.

    `numbers`: every policy that can be read; `plain`: number -> digests by rules and grants alone.
    """
    found = {unit: dict(of_unit) for unit, of_unit in plain(policy.number).items()}
    if policy.holds:
        for number in sorted(n for n in numbers if n <= policy.number):
            for unit, of_unit in plain(number).items():
                for dataset in of_unit:
                    if policy.hold_of(unit, dataset) is not None:
                        found.setdefault(unit, {})[dataset] = HELD
    return found


def older_policies(
    job: DueJob, dataset: str, numbers: Iterable[int], digests_of: Callable[[int], Digests]
) -> list[int]:
    """Policies under which agents may have delivered this dataset to the unit by a rule of its own,
    youngest first: those before the job's policy, one for each rule that there was.
    """
    seen: set[str] = set()
    found = []
    for number in sorted(numbers, reverse=True):
        digest = digests_of(number).get(job.unit, {}).get(dataset)
        if digest is None or digest == HELD:
            continue
        if number < job.policy and digest not in seen:
            seen.add(digest)
            found.append(number)
    return found

"""The log of a municipal permit office: the real file where it is there, else one of the same form.

One row a step; the columns `case:...` are those of its case, the same in all rows of a case. The
real file is not part of the project; it is looked for beside the checkout.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

COLUMNS = (
    "case:channel", "case:concept:name", "case:deadline", "case:department", "case:enddate",
    "case:enddate_planned", "case:group", "case:responsible", "case:startdate", "concept:instance",
    "concept:name", "lifecycle:transition", "org:group", "org:resource", "time:timestamp",
)  # fmt: skip
REAL_CASES, REAL_STEPS = 1434, 8577

Row = dict[str, str]


@dataclass(frozen=True)
class PermitLog:
    """`origin` says which of the two it is."""

    origin: str
    is_real: bool
    steps: list[Row]

    @property
    def cases(self) -> dict[str, Row]:
        """Case number -> any of its rows."""
        return {row["case:concept:name"]: row for row in self.steps}

    def first(self, count: int) -> PermitLog:
        """The log of the first `count` cases only."""
        kept = set(list(self.cases)[:count])
        steps = [row for row in self.steps if row["case:concept:name"] in kept]
        return PermitLog(f"{self.origin}, first {count} cases", self.is_real, steps)


def read_permit_log(project: Path) -> PermitLog:
    """`<project>/../shared/data/permits.csv`, or the synthetic log."""
    path = project.parent / "shared" / "data" / "permits.csv"
    if not path.is_file():
        return synthetic_log()
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        return PermitLog(f"the real log ({path.name})", True, list(reader))


def synthetic_log(cases: int = REAL_CASES, seed: int = 809) -> PermitLog:
    """As many cases as the real log has, about as many steps, and the same gaps in it."""
    rng = random.Random(seed)
    steps: list[Row] = []
    for number in range(cases):
        case, began = _case(rng, number)
        moment = began
        for _ in range(rng.choice((1, 3, 5, 6, 6, 7, 9))):
            moment += timedelta(seconds=rng.randint(30, 900_000), milliseconds=rng.randrange(1000))
            group = rng.choices(_GROUPS, weights=_WEIGHTS)[0]
            steps.append(
                case
                | {
                    "concept:instance": f"task-{len(steps) + 1000}",
                    "concept:name": rng.choice(_ACTIVITIES),
                    "lifecycle:transition": "complete",
                    "org:group": group,
                    "org:resource": f"Resource{rng.randrange(1, 49):02d}",
                    "time:timestamp": _text(moment),
                }
            )
    return PermitLog(f"a synthetic log of {cases} cases", False, steps)


def _case(rng: random.Random, number: int) -> tuple[Row, datetime]:
    began = datetime(2010, 10, 1, 8, tzinfo=_SUMMER) + timedelta(minutes=rng.randrange(600_000))
    planned = began + timedelta(days=56, milliseconds=10)
    ended = began + timedelta(days=rng.randrange(1, 90), milliseconds=rng.randrange(1000))
    case = {
        "case:channel": rng.choice(("Internet", "Desk", "Post", "e-mail", "Intern")),
        "case:concept:name": f"case-{number + 10000}",
        "case:deadline": _text(planned.replace(microsecond=0) if number % 2 else planned),
        "case:department": rng.choice(("General", "Experts", "Customer contact")),
        "case:enddate": _text(ended) if rng.random() < 0.93 else "",
        "case:enddate_planned": _text(planned),
        "case:group": rng.choice(("", "", "", "Group 2", "Group 5", "Group 11")),
        "case:responsible": f"Resource{rng.randrange(1, 40):02d}",
        "case:startdate": _text(began),
    }
    return case, began


def _text(moment: datetime) -> str:
    """As the real log writes it: by the clock of the place, with the offset of the season."""
    zone = _SUMMER if 4 <= moment.month <= 10 else _WINTER
    return moment.astimezone(zone).isoformat(sep=" ")


_WINTER, _SUMMER = timezone(timedelta(hours=1)), timezone(timedelta(hours=2))
_GROUPS = ("Group 1", "EMPTY", "Group 2", "Group 3", "Group 4", "Group 13", "Group 15", "Group 14",
           "Group 12", "Group 7")  # fmt: skip
_WEIGHTS = (3152, 1936, 1228, 1146, 1048, 28, 25, 8, 4, 4)
_ACTIVITIES = (
    "Confirmation of receipt",
    "T02 Check confirmation of receipt",
    "T04 Determine confirmation of receipt",
    "T05 Print and send confirmation of receipt",
    "T06 Determine necessity of stop advice",
    "T10 Determine necessity to stop indication",
)

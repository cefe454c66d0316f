"""What a person is to type for a verdict at a stage, and the page of the runbook that says more."""

from __future__ import annotations

from deptbus.operations.stages import Stage
from deptbus.operations.verdicts import Verdict

RUNBOOK = "docs/operations.md"
COULD_NOT_TELL = "could-not-tell"

_ADAPTER = "Start the adapter at {unit}: `deptbus department run --config FILE`"
_WORKER = "Start a worker: `deptbus worker`"
_STATUS = "`deptbus department status --config FILE`"
_LOOK_AT_SOURCE = f"Look at {{unit}} why the bus does not take it: {_STATUS}"
_LOOK_AT_COPY = (
    "Look at {unit} why its database does not take it: read its adapter's log for "
    "`applying_stopped`"
)
_WATCH = "Watch for a minute whether it gains: `deptbus lag --watch`"
_READ_THE_LOG = "Read the worker's log for `deliveries_failed`, and start it again"
_MORE_WORKERS = "Start more workers, up to the number of partitions: `deptbus worker --processes N`"
_RESYNC = "Run at {unit} `deptbus department resync --config FILE`, and start its adapter again"
_TWICE = "Let it go on: what is read twice changes nothing"

# By verdict, in the order of the stages: outbox, intake, routing, apply.
_WHAT_TO_DO: dict[Verdict, tuple[str, str, str, str]] = {
    Verdict.BEHIND: (_LOOK_AT_SOURCE, _WATCH, _WATCH, _WATCH),
    Verdict.GROWING: (_LOOK_AT_SOURCE, _MORE_WORKERS, _MORE_WORKERS, _LOOK_AT_COPY),
    Verdict.STALLED: (_LOOK_AT_SOURCE, _READ_THE_LOG, _READ_THE_LOG, _LOOK_AT_COPY),
    Verdict.REWOUND: (
        _LOOK_AT_SOURCE,
        _TWICE,
        _TWICE,
        f"{_TWICE}; ask {{unit}} whether its database was restored",
    ),
    Verdict.STOPPED: (_ADAPTER, _WORKER, _WORKER, _ADAPTER),
    Verdict.LOST: (
        _RESYNC,
        _RESYNC,
        "Run `deptbus department resync --config FILE` at every unit that publishes the dataset, "
        "and start its adapter again",
        "Have what it receives sent again, dataset by dataset: "
        "`deptbus operations resend --unit SOURCE --dataset NAME`",
    ),
}
_STAGES = tuple(Stage)


# What the office does when the cluster does not answer; when a part of it does not.
CLUSTER = (
    "Look whether the brokers run and whether this machine reaches them. "
    f"See {RUNBOOK}#unreachable",
    f"Look whether all brokers are well. See {RUNBOOK}#partial",
)


PROOFS_PAGE = f"{RUNBOOK}#a-copy-that-differs"
HELD_PAGE = f"{RUNBOOK}#removals-that-are-held"


def page(word: str) -> str:
    """The place in the runbook of what is no verdict: LATE, PARKED, ..."""
    return f"{RUNBOOK}#{word.lower()}"


def page_of(verdict: Verdict | None) -> str:
    """The place in the runbook."""
    anchor = COULD_NOT_TELL if verdict is None else verdict.value.lower()
    return f"{RUNBOOK}#{anchor}"


def advice_template(verdict: Verdict | None, stage: Stage) -> str:
    """The sentence with `{unit}` in it: what other languages are looked up by."""
    if verdict is None:
        return "Look whether all brokers are well, and ask again"
    if verdict.needs_a_person:
        return _WHAT_TO_DO[verdict][_STAGES.index(stage)]
    return "Nothing is to be done"


def advice(verdict: Verdict | None, stage: Stage, unit: str) -> str:
    """One sentence, and where there is more to read."""
    return f"{advice_template(verdict, stage).format(unit=unit)}. See {page_of(verdict)}"

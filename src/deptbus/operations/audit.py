"""Every act of an operator as a record in `bus.audit`: who, when, why and what; none is removed.

An act is written before it is done: a command that is killed in the midst may leave an act of which
nothing came, and never a deed of which nobody can say whose it was.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import DeptbusError, WireRefused
from deptbus.operations.masking import RESIDENT_NUMBER
from deptbus.stream.log import Outgoing, Sender, read_to_end
from deptbus.wire.control import Act, decode_control, encode_control

log = structlog.get_logger(__name__)

# What operators do. Constants: fit for labels.
QUARANTINE_RESEND = "quarantine_resend"
QUARANTINE_DISMISS = "quarantine_dismiss"
QUARANTINE_RETRY = "quarantine_retry"
RESEND = "resend"
HOLD = "hold"
RESUME = "resume"
ALARM_ACK = "alarm_ack"
CONTRACT_ACTIVATE = "contract_activate"
REPLAY_PLAN = "replay_plan"
REPLAY_APPLY = "replay_apply"
REPAIR_ORDER = "repair_order"
REBUILD_ORDER = "rebuild_order"
RECONCILE_REPAIR = "reconcile_repair"  # what a proof found and may be mended
CERTIFICATE = "certificate"  # one was signed
JOB_PAUSE = "job_pause"
JOB_RESUME = "job_resume"
JOB_CANCEL = "job_cancel"
PROPOSE = "proposal_made"
PROPOSAL_CONFIRM = "proposal_confirmed"
PROPOSAL_DECLINE = "proposal_declined"
JOB_ENDED = "job_ended"  # by whom it was ordered; written by the operations process

_REASON_LETTERS = 500
_OPERATOR_LETTERS = 100
_SUBJECTS = 500  # of one record: a thousand places at once are two records of one act


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts. `name` is what he says, or how the operating system knows him; `bus_user` is proved
    to the brokers, where they ask."""

    name: str
    bus_user: str = ""
    by_console: bool = False  # which has proved the name, and acts under a bus user of its own


def operator_of(connection: Connection, name: str, *, by_console: bool = False) -> Operator:
    """Raises DeptbusError when that is no name that may be kept for ever."""
    is_name = 0 < len(name.strip()) <= _OPERATOR_LETTERS and name.isprintable()
    if not is_name or RESIDENT_NUMBER.search(name):
        raise DeptbusError("that is no operator's name", mend="Give --operator NAME")
    return Operator(name.strip(), connection.sasl_username or "", by_console)


def checked_reason(text: str) -> str:
    """The reason as it is kept for ever. Raises DeptbusError: none, too long, or it holds what
    looks like a resident number."""
    reason = " ".join(text.split())
    if not reason or not reason.isprintable():
        raise DeptbusError("a reason is missing", mend="Give --reason TEXT: it is kept for ever")
    if len(reason) > _REASON_LETTERS:
        raise DeptbusError(
            f"the reason is longer than {_REASON_LETTERS} letters", mend="Say it shorter"
        )
    if RESIDENT_NUMBER.search(reason):
        raise DeptbusError(
            "the reason holds a resident number, and it is kept for ever",
            mend="Name the record by its bus key",
        )
    return reason


def acts_of(
    operator: Operator,
    verb: str,
    reason: str,
    *,
    unit: str = "",
    dataset: str = "",
    key: bytes | None = None,
    subjects: Sequence[str] = (),
) -> Iterator[Act]:
    """One act as the records that it takes: one, unless it has very many subjects."""
    name, now_us = uuid.uuid4().hex, time.time_ns() // 1000
    for start in range(0, max(1, len(subjects)), _SUBJECTS):
        some = tuple(subjects[start : start + _SUBJECTS])
        yield Act(
            name, verb, operator.name, operator.bus_user, reason, unit, dataset, key, some, now_us
        )


async def record(sender: Sender, act: Act) -> None:
    """Returns when the act is on the bus; what it announces may be done from then on. Raises
    BusRefused (no right, no such topic: `deptbus topics apply` makes it), BusUnreachable."""
    await sender.send([Outgoing(names.AUDIT, 0, None, encode_control(act))])


async def read_acts(connection: Connection) -> list[Act]:
    """All acts, the oldest first. What is none is told and left out. Raises as `record`."""
    found = []
    for entry in await read_to_end(connection, names.AUDIT):
        try:
            act = decode_control(entry.value)
            reason = "" if isinstance(act, Act) else "wrong_kind"
        except WireRefused as error:
            reason = error.reason
        if reason:
            log.error("act_refused", offset=entry.offset, reason=reason)
        elif isinstance(act, Act):
            found.append(act)
    return found

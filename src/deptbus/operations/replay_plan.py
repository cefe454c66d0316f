"""A replay's plan: what would be sent to whom, resolved to exact offsets; one file, never changed.

The file is one line of canonical JSON, `{"plan": ..., "sha256": ...}`: keys sorted, no spaces. The
hash is that of the plan's own canonical JSON. A file with one byte changed is refused, and so is
one of which `bus.audit` does not know that it was planned. Pure, but for reading and writing it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from deptbus.errors import DeptbusError

FORMAT = 1
VALID_FOR = timedelta(hours=24)
_MOST_BYTES = 64 * 1024 * 1024
_DIGITS = 12  # of the hash, in the job's name


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedRange(_Frozen):
    """Of one partition of one canonical topic; offsets from `start` up to, not including, `end`."""

    dataset: str
    partition: int
    start: int
    end: int
    note: str = ""  # what a person has to know of how it was resolved
    gone: int = 0  # offsets of it that hold nothing any more: superseded and compacted, or markers
    records: int = 0  # changes that lie there
    keys: int = 0  # that they are of: of each the last state is sent


class Expected(_Frozen):
    """What would be sent of one dataset, by the rights of the moment of planning."""

    dataset: str
    upserts: int
    deletes: int
    withdrawals: int
    without_right: int  # keys of which the unit gets nothing, and never had a right to
    superseded: int  # keys that changed since the range: their newer state is sent
    unknown: int  # named keys that the canonical topic does not have
    fields_sent: dict[str, int]  # field -> in how many upserts
    fields_withheld: dict[str, int]  # published fields that today's rights leave out

    @property
    def sent(self) -> int:
        return self.upserts + self.deletes + self.withdrawals


class Plan(_Frozen):
    """Times are aware and in UTC."""

    format: int = FORMAT
    cluster: str
    policy: int
    contract: str  # digest
    unit: str
    datasets: tuple[str, ...]
    topic_ids: tuple[str, ...]  # of the canonical topic of each
    rights: dict[str, str]  # dataset -> digest of all that decides what the unit receives of it
    selection: str  # in words
    ranges: tuple[PlannedRange, ...]
    keys: dict[str, tuple[str, ...]]  # dataset -> keys, hexadecimal, where they were named
    expected: tuple[Expected, ...]
    seconds: float  # that it will take, about
    seconds_by: str  # how that was estimated
    requester: str
    reason: str
    made_at: datetime
    expires_at: datetime

    @property
    def sent(self) -> int:
        return sum(expected.sent for expected in self.expected)

    @property
    def keys_chosen(self) -> int:
        named = sum(len(keys) for keys in self.keys.values())
        return named + sum(r.keys for r in self.ranges)

    def canonical(self) -> str:
        return _canonical(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @property
    def job(self) -> str:
        """The same plan is the same job, however often it is applied."""
        return f"replay-{self.sha256[:_DIGITS]}"

    def as_file(self) -> str:
        return _canonical({"plan": self.model_dump(mode="json"), "sha256": self.sha256}) + "\n"


def _canonical(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def write_plan(plan: Plan, path: Path) -> None:
    """A new file, which nobody may write to. Raises DeptbusError when there is one already."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(plan.as_file())
            file.flush()
            os.fsync(number)
    except FileExistsError:
        raise DeptbusError(
            f"{path} is there already, and a plan is never written over",
            mend="Name another file with --file",
        ) from None
    except OSError as error:
        raise DeptbusError(f"{path} cannot be written: {error.strerror}") from None


def read_plan(path: Path) -> Plan:
    """Raises DeptbusError: no such file, no plan, or changed since it was made."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DeptbusError(f"{path} is too large for a plan")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DeptbusError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _no_plan(path) from None
    return plan_of(text, path)


def plan_of(text: str, path: Path) -> Plan:
    """As `read_plan`, of a file's content."""
    try:
        content = json.loads(text)
        found, said = content["plan"], content["sha256"]
        is_whole = set(content) == {"plan", "sha256"} and text == _canonical(content) + "\n"
        digest = hashlib.sha256(_canonical(found).encode()).hexdigest()
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _no_plan(path) from None
    if not is_whole or said != digest:
        raise DeptbusError(f"{path} was changed since it was made", mend="Plan anew")
    try:
        plan = Plan.model_validate_json(_canonical(found))
    except ValidationError:
        raise _no_plan(path) from None
    if plan.format != FORMAT or plan.sha256 != said:
        raise DeptbusError(f"{path} is a plan of another deptbus", mend="Plan anew")
    return plan


def _no_plan(path: Path) -> DeptbusError:
    return DeptbusError(f"{path} is no plan", mend="Make one with `deptbus replay plan`")


# -- whether it may still be applied --------------------------------------------------------------


def why_not(
    plan: Plan,
    *,
    now: datetime,
    cluster: str,
    topic_ids: Mapping[str, str],
    spans: Mapping[tuple[str, int], tuple[int, int]],
    rights: Mapping[str, str],
    known_plans: frozenset[str],
) -> str | None:
    """Why a plan may not be applied any more; None: it may. The first reason that there is:

    1. it is of another cluster, or the cluster's audit does not know it (`known_plans`: hashes);
    2. it has expired;
    3. a canonical topic is not there, is another one, or does not hold what was planned any more
       (`spans`: (dataset, partition) -> where it begins and ends now);
    4. the unit's rights to one of the datasets are not those of the plan (`rights`).
    """
    if cluster != plan.cluster:
        return f"it was made for another cluster ({plan.cluster}, this is {cluster})"
    if plan.sha256 not in known_plans:
        return "bus.audit does not know that it was ever planned here"
    if now >= plan.expires_at:
        return f"it expired at {plan.expires_at:%Y-%m-%d %H:%M} UTC"
    for dataset, topic_id in zip(plan.datasets, plan.topic_ids, strict=True):
        if topic_ids.get(dataset) != topic_id:
            return f"data.{dataset} is not there any more, or was made again since"
    for planned in plan.ranges:
        if planned.start == planned.end:
            continue
        start, end = spans.get((planned.dataset, planned.partition), (0, 0))
        if planned.start < start or planned.end > end:
            return (
                f"data.{planned.dataset}/{planned.partition} holds offsets {start} to {end} by "
                f"now, and {planned.start} to {planned.end} are planned: data is gone"
            )
    for dataset, digest in plan.rights.items():
        if rights.get(dataset, "") != digest:
            return f"the rights of {plan.unit} to {dataset} are not those that it was planned by"
    return None

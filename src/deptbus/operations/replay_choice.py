"""What a person chose to replay, in words and files; and what it means in offsets. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from deptbus.errors import DeptbusError
from deptbus.names import data_topic
from deptbus.operations.logs import Span
from deptbus.operations.replay_plan import PlannedRange
from deptbus.proof.certificate import Certificate, check_is_for

Place = tuple[str, int]  # dataset, partition

_OFFSETS_LINE = re.compile(
    r"(?:data\.)?(?P<dataset>[a-z][a-z0-9_]*):(?P<partition>\d{1,6})"
    r":(?P<start>\d{1,18})(?::(?P<end>\d{1,18}))?"
)
_KEY = re.compile(r"[0-9a-f]{32}")
_MOST_KEYS = 500_000


@dataclass(frozen=True, slots=True)
class Choice:
    """One of: times (either may be None: from the beginning, to the end), offsets, keys."""

    words: str
    begins: datetime | None = None
    ends: datetime | None = None
    # (dataset, partition) -> first offset, the one behind the last (None: the end)
    offsets: Mapping[Place, tuple[int, int | None]] | None = None
    keys: frozenset[bytes] | None = field(default=None, repr=False)
    cluster: str = ""  # in which the offsets count; empty: nobody said


def instant_of(text: str, option: str) -> datetime:
    """A time with its zone, in UTC. Raises DeptbusError."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise DeptbusError(
            f"{option} is no time", mend="Write it so: 2027-03-01T08:00:00+08:00"
        ) from None
    if found.tzinfo is None:
        raise DeptbusError(
            f"{option} has no zone, and this machine's may not be the one that is meant",
            mend="Add it: 2027-03-01T08:00:00+08:00, or Z for UTC",
        )
    return found.astimezone(UTC)


def between(begins: datetime | None, ends: datetime | None) -> Choice:
    """Raises DeptbusError when nothing can lie between."""
    if begins is not None and ends is not None and ends <= begins:
        raise DeptbusError("--to is not after --from", mend="Give the earlier time as --from")
    words = ["changes that came onto the bus"]
    words += [f"from {begins:%Y-%m-%dT%H:%M:%SZ}"] if begins else []
    words += [f"before {ends:%Y-%m-%dT%H:%M:%SZ}"] if ends else []
    return Choice(" ".join(words), begins, ends)


def everything() -> Choice:
    return Choice("every key", offsets=None)


def of_offsets(lines: Sequence[str], name: str) -> Choice:
    """Lines as Kafka's own GetOffsetShell prints them, `data.person:0:1234`: from there to the end,
    or `data.person:0:1234:2000`: up to, not including, that one. Raises DeptbusError."""
    found: dict[Place, tuple[int, int | None]] = {}
    for number, line in _lines(lines):
        match = _OFFSETS_LINE.fullmatch(line)
        if match is None:
            raise DeptbusError(
                f"{name}:{number}: that is no place of a canonical topic",
                mend="Write DATASET:PARTITION:FIRST, or DATASET:PARTITION:FIRST:BEHIND-THE-LAST",
            )
        place = match["dataset"], int(match["partition"])
        start, end = int(match["start"]), None if match["end"] is None else int(match["end"])
        if place in found or (end is not None and end < start):
            raise DeptbusError(f"{name}:{number}: named twice, or ends before it begins")
        found[place] = start, end
    if not found:
        raise DeptbusError(f"{name} names no offsets")
    return Choice(f"offsets of {len(found)} partitions", offsets=found)


def since(certificate: Certificate, unit: str) -> Choice:
    """Everything behind the cuts at which a certificate proved the unit's copies. Raises
    DeptbusError when it is of another unit, or could tell nothing of any copy."""
    check_is_for(certificate, unit=unit)
    found: dict[Place, tuple[int, int | None]] = {}
    for proof in certificate.proofs:
        if proof.leg == "copy" and not proof.could_not_tell:
            for partition, offset in enumerate(proof.cut.get(data_topic(proof.dataset), ())):
                found[proof.dataset, partition] = offset, None
    if not found:
        raise DeptbusError(
            "the certificate proves no copy", mend="Choose by time: --from, with its zone"
        )
    words = f"changes since the certificate of {certificate.made_at:%Y-%m-%dT%H:%M:%SZ}"
    return Choice(words, offsets=found, cluster=certificate.cluster)


def of_keys(lines: Sequence[str], name: str) -> Choice:
    """Lines of 32 hexadecimal digits. Raises DeptbusError, which never quotes a line: it might be a
    resident number."""
    found = set()
    for number, line in _lines(lines):
        if not _KEY.fullmatch(line.lower()):
            raise DeptbusError(
                f"{name}:{number}: that is no bus key",
                mend="Give 32 hexadecimal digits on each line, as quarantine and trace show them",
            )
        found.add(bytes.fromhex(line))
    if not found:
        raise DeptbusError(f"{name} names no keys")
    if len(found) > _MOST_KEYS:
        raise DeptbusError(
            f"{name} names more than {_MOST_KEYS} keys", mend="Choose by time, or take --all"
        )
    return Choice(f"{len(found)} named keys", keys=frozenset(found))


def _lines(lines: Sequence[str]) -> list[tuple[int, str]]:
    stripped = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


# -- in offsets -----------------------------------------------------------------------------------


def ranges_by_time(
    dataset: str,
    spans: Sequence[Span],
    begins: Sequence[int | None] | None,
    ends: Sequence[int | None] | None,
) -> list[PlannedRange]:
    """`begins`, `ends`: by partition, the broker's answer to the two times (the first offset whose
    record is not older; None: there is none); None as a whole: no such time was given.

    1. From the first record that is not older than `--from`; without it from the beginning.
    2. A partition with nothing at or after `--from` has nothing to give, and says so.
    3. Up to the first record that is not older than `--to`; where there is none, up to the end.
    """
    found = []
    for number, span in enumerate(spans):
        begin = span.start if begins is None else begins[number]
        if begin is None:
            note = "nothing came after the first time"
            found.append(_range(dataset, number, span.end, span.end, note))
            continue
        end = None if ends is None else ends[number]
        note = "" if ends is None or end is not None else "nothing came after the last time"
        last = span.end if end is None else min(end, span.end)
        begin = max(begin, span.start)
        found.append(_range(dataset, number, begin, max(begin, last), note))
    return found


def ranges_by_offsets(
    dataset: str, spans: Sequence[Span], offsets: Mapping[Place, tuple[int, int | None]]
) -> list[PlannedRange]:
    """Raises DeptbusError for what lies beyond the end, or in no partition that there is."""
    unknown = sorted(n for d, n in offsets if d == dataset and n >= len(spans))
    if unknown:
        raise DeptbusError(f"{data_topic(dataset)} has no partition {unknown[0]}")
    found = []
    for number, span in enumerate(spans):
        if (dataset, number) not in offsets:
            found.append(_range(dataset, number, span.end, span.end, "not chosen"))
            continue
        start, end = offsets[dataset, number]
        last = span.end if end is None else end
        if start > span.end or last > span.end:
            raise DeptbusError(
                f"{data_topic(dataset)}/{number} ends at offset {span.end}, and "
                f"{max(start, last)} was named",
                mend="Are these offsets of this bus?",
            )
        gone = max(0, min(last, span.start) - start)
        note = f"{gone} offsets before {span.start} are gone by retention" if gone else ""
        begin = max(start, span.start)
        found.append(_range(dataset, number, begin, max(begin, last), note))
    return found


def _range(dataset: str, partition: int, start: int, end: int, note: str) -> PlannedRange:
    return PlannedRange(dataset=dataset, partition=partition, start=start, end=end, note=note)

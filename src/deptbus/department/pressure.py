"""Pure: what the source side of a department needs, from what its database knows and the time.

Rules, in the order in which they are told; each names what is to be done:

0. Capture was installed by an older deptbus: nothing else is known then.
1. Capture gave way: what was missed is on no other desk until a resync.
2. The outbox is full: what is written now is missed. Nearly full: it soon will be.
3. Publishing has stopped (a person must act) or stalled (tried again by itself).
4. Rows wait, and no adapter has given a sign of life for a minute.
5. The rows of a dataset are held: they stay in the outbox until that is mended.
6. Removals are held that are too many at once to be meant (`removal_guard`).
7. Rows wait for long although the adapter lives and nothing is held: the bus is slower than the
   department writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from deptbus.department.capture import INSTALL_AGAIN, CaptureStatus, Hold
from deptbus.department.pulse import SILENT_SECONDS, Publishing

NEARLY_FULL_PERCENT = 80.0
WAITS_LONG_SECONDS = 60.0

RESYNC = (
    "The adapter makes it good by itself where it runs and the data office answers; or run "
    "`deptbus department resync`, then start the adapter again"
)
START = "Start it: `deptbus department run`"


class Finding(NamedTuple):
    """What is wrong, and what to do."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Pressure:
    """How the outbox stands. Percent and seconds; None where nobody knows."""

    fill_percent: float
    publishing: str  # a Publishing's value, `not_seen` (for a minute), or `never_seen`
    reason: str | None
    since_seconds: float | None  # how long it has been so
    seen_seconds_ago: float | None
    findings: tuple[Finding, ...]


def pressure_of(status: CaptureStatus, now_us: int) -> Pressure:
    """See the module. `status` is of an installed capture."""
    if status.outdated:
        finding = Finding(status.outdated, INSTALL_AGAIN)
        return Pressure(0.0, "not_known", None, None, None, (finding,))
    pulse = status.pulse
    fill = fill_percent(status)
    if pulse is None:
        publishing, reason, since, seen = "never_seen", None, None, None
    else:
        publishing, reason = pulse.state.value, pulse.reason
        since = max(0.0, (now_us - pulse.since_us) / 1e6)
        seen = max(0.0, (now_us - pulse.seen_us) / 1e6)
        # One that was stopped is not expected to be heard of: a person must act first.
        if seen > SILENT_SECONDS and pulse.state is not Publishing.STOPPED:
            publishing, since = "not_seen", seen
    found = [*_missed(status, fill), *_not_taken(status, publishing, reason, since)]
    held = pulse.held if pulse is not None else {}
    found += [Finding(f"dataset {name} is held: {why}", "") for name, why in held.items()]
    found += [_held_removals(hold, now_us) for hold in status.holds]
    age = status.oldest_age_seconds
    if not found and age is not None and age > WAITS_LONG_SECONDS:
        found.append(
            Finding(
                f"the oldest row has waited for {spoken(age)} although the adapter runs",
                "It writes faster than the bus takes it: if this lasts, look at the brokers",
            )
        )
    return Pressure(fill, publishing, reason, since, seen, tuple(found))


def fill_percent(status: CaptureStatus) -> float:
    """How near capture is to giving way; 0 when nothing waits."""
    if not status.outbox_rows or not status.cap_rows:
        return 0.0
    used = status.cap_rows - min(status.room_rows, status.cap_rows)
    of_volume = status.outbox_kib / status.cap_kib if status.cap_kib else 0.0
    return round(100.0 * max(used / status.cap_rows, of_volume), 1)


def _missed(status: CaptureStatus, fill: float) -> list[Finding]:
    found = []
    if status.gave_way:
        found.append(Finding(f"capture gave way {status.gave_way} times: resync needed", RESYNC))
    if fill >= 100.0:
        found.append(
            Finding(
                f"the outbox is full ({_caps(status)}): what is written now is missed",
                "See that the adapter publishes, then resync",
            )
        )
    elif fill >= NEARLY_FULL_PERCENT:
        found.append(
            Finding(
                f"the outbox is {fill:.0f} % full: at 100 % changes are not captured any more",
                "See that the adapter publishes, or raise `outbox_cap_rows` and `outbox_cap_mib` "
                "and install again",
            )
        )
    return found


def _caps(status: CaptureStatus) -> str:
    mib = f" or {status.cap_kib // 1024} MiB" if status.cap_kib else ""
    return f"{status.cap_rows} rows{mib}"


def _not_taken(
    status: CaptureStatus, publishing: str, reason: str | None, since: float | None
) -> list[Finding]:
    if publishing == Publishing.STOPPED:
        return [Finding(f"publishing was stopped {spoken(since)} ago: {reason}", "")]
    if publishing == Publishing.STALLED:
        return [Finding(f"publishing has stalled for {spoken(since)}: {reason}", "")]
    if not status.outbox_rows:
        return []
    if publishing == "never_seen":
        return [Finding("rows wait, and its adapter has never run", START)]
    if publishing == "not_seen":
        return [Finding(f"rows wait, and its adapter was last seen {spoken(since)} ago", START)]
    return []


def _held_removals(hold: Hold, now_us: int) -> Finding:
    since = spoken(max(0.0, (now_us - hold.began_us) / 1e6))
    what = f"{hold.keys} removals of {hold.dataset} are held since {since} ago (hold {hold.number})"
    if hold.is_released:
        return Finding(f"{what} and released: the adapter publishes them", "")
    return Finding(
        what,
        f"If they are meant: `deptbus department release --held {hold.number} --yes`. If not, put "
        "the rows back: those that are as they were are not sent",
    )


def spoken(seconds: float | None) -> str:
    """A duration as people say it: `42 s`, `17 min`, `5 h`, `3 days`."""
    if seconds is None:
        return "a time that nobody knows"
    for limit, unit, word in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86_400:.0f} days"

"""Who may do what: one table of role x act, and whose units a person sees. Pure.

Every door asks `Person.may`: a page before it is drawn, an act before it is done. What a page does
not offer is refused all the same when it is asked for directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    CLERK = "clerk"  # of one unit: sees and asks for that unit alone
    AUDITOR = "auditor"


class Act(StrEnum):
    """What can be done here. A value is what the log calls it."""

    VIEW = "view"  # map, units, datasets, lag, proof, saved entries
    SEE_QUARANTINE = "see_quarantine"
    SHOW_RECORD = "show_record"  # of a note: what lies at its place, masked
    FIND = "find"  # by a bus key
    FIND_NATURAL = "find_natural"  # by the number that a person has
    RESEND = "resend"
    DISMISS = "dismiss"
    RETRY = "retry"  # what recipients parked
    HOLD = "hold"
    RESUME = "resume"
    ACKNOWLEDGE = "acknowledge"
    REPLAY = "replay"  # plan one, and propose it
    REPAIR = "repair"  # propose to mend what a proof found
    DECIDE = "decide"  # on what another has proposed
    STEER = "steer"  # pause, go on, cancel a job
    SEE_AUDIT = "see_audit"


# Whoever changes nothing sees no natural key either: an auditor proves acts, not residents.
_MAY: dict[Role, frozenset[Act]] = {
    Role.VIEWER: frozenset({Act.VIEW, Act.SEE_QUARANTINE}),
    Role.OPERATOR: frozenset(Act) - {Act.SEE_AUDIT},
    Role.CLERK: frozenset(
        {Act.VIEW, Act.SEE_QUARANTINE, Act.SHOW_RECORD, Act.FIND_NATURAL, Act.RESEND, Act.RETRY}
    ),
    Role.AUDITOR: frozenset(
        {Act.VIEW, Act.SEE_QUARANTINE, Act.SHOW_RECORD, Act.FIND, Act.SEE_AUDIT}
    ),
}


@dataclass(frozen=True, slots=True)
class Person:
    """Who is logged in. `name` stands in the audit. `unit`: a clerk's own; empty for all others."""

    name: str
    roles: frozenset[Role]
    unit: str = ""

    def may(self, act: Act, unit: str | None = None) -> bool:
        """`unit`: whose matter it is; None where it is of no single one. A clerk may act on his own
        unit alone, whatever his other roles say nothing of."""
        for role in self.roles:
            if act not in _MAY[role]:
                continue
            if role is not Role.CLERK or unit is None or unit == self.unit:
                return True
        return False

    @property
    def own_unit_only(self) -> str:
        """The one unit that this person sees; empty: all of them."""
        return self.unit if self.roles == {Role.CLERK} else ""


def person_of(name: str, roles: frozenset[Role], unit: str) -> Person:
    """Raises ValueError where roles and unit do not fit: a clerk has a unit, and nobody else."""
    if not roles:
        raise ValueError("a role is missing")
    if Role.CLERK in roles:
        if len(roles) > 1:
            raise ValueError("a clerk has no other role")
        if not unit:
            raise ValueError("a clerk needs a unit")
    elif unit:
        raise ValueError("only a clerk has a unit")
    return Person(name, roles, unit)

"""Who receives a change, and which of its fields: pure; no I/O, no clock (design, section 5).

The rules, in the order in which they are asked:

 1. A unit may receive only from another unit that may publish the dataset (`Contract.may_publish`),
    and only about places within that source unit's territory. Intake refuses every change that
    breaks this, so for such a change `route` answers with nothing.
 2. `direction_of` is the table of section 5. It gives a right only where topics.yml has a rule of
    that direction which names the unit's line, and its level or no level. Of several such rules
    the first counts.
 3. A rule opens the unconditional fields of its include-list. Its conditional fields are opened
    by a live grant to the unit that lists them and whose territory covers the place.
 4. A grant is permission by name: what a live grant lists flows, conditional or unconditional,
    whether or not a rule lists it too. Where a rule entitles, direction and rule stay the rule's;
    where none does, the direction is `granted` and the rule is the first grant's name.
 5. A field that is not shared, or that the contract does not classify, never flows.
 6. No field open: no right.
 7. A grant is live when it had started on the day (UTC+8) on which the policy was activated and
    has not ended: rights under one policy number only ever shrink. What widens waits for the
    next policy number, because recipients order deliveries by (version, policy).
 8. An upsert goes to whom the record's place entitles. Of a removed record they get a delete.
 9. Whoever gets neither, but had a right under this policy at the record's place or at a former
    one, gets a withdrawal: it carries no data, so it needs no right that is still live. A record
    that was moved out is withdrawn from everyone.
10. A hold of the policy stops every delivery to its unit, or of its dataset, withdrawals too. What
    it kept back is made good by a job of the policy that lifts it.
"""

from deptbus.routing.grants import CHINA, first_instant, grants_of, last_instant
from deptbus.routing.router import Entitlement, Router, entitlement, settle
from deptbus.routing.table import direction_of, rule_for

__all__ = [
    "CHINA",
    "Entitlement",
    "Router",
    "direction_of",
    "entitlement",
    "first_instant",
    "grants_of",
    "last_instant",
    "rule_for",
    "settle",
]

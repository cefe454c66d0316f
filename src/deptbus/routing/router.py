"""The Router: every delivery of a change under one policy."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from deptbus.change import Change, ChangeOp, Delivery, DeliveryOp, Direction, Reason
from deptbus.contract.model import Grant, Policy, Unit
from deptbus.contract.territory import covers
from deptbus.routing.book import Book, Right
from deptbus.routing.grants import grants_of, last_instant
from deptbus.routing.table import ancestors, direction_of, is_within, rule_for

_UPSERT = ChangeOp.UPSERT
_MAX_DECISIONS = 100_000  # a decision is about 500 bytes; full means thousands of places in play
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What one unit may have of records about one place, and by what right."""

    unit: str
    direction: Direction
    rule: str  # name of the rule in topics.yml, or of the first grant where only grants speak
    grants: tuple[str, ...]  # live grants that open a field which the rule alone does not
    fields: tuple[str, ...]  # in the order of the schema


class Router:
    """Routing under one policy. Answers depend on the arguments alone; caches only make it quick.

    Decisions are kept per (dataset, source unit, op, places, schema version) for the span of time
    in which no grant ends. What a decision costs that is not kept yet grows with the units that
    are related to its places, not with the units of the contract.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._grants = grants_of(policy)
        self._books: dict[str, Book] = {}
        self._ends = sorted({last_instant(g) for g in self._grants})
        self._units = policy.contract.unit_by_name
        self._held_units = frozenset(hold.unit for hold in policy.holds)
        self._held_datasets = frozenset(hold.dataset for hold in policy.holds)
        self._at: dict[str, list[Unit]] = defaultdict(list)
        self._below: dict[str, list[Unit]] = defaultdict(list)
        for unit in policy.contract.units:
            self._at[unit.territory].append(unit)
            for place in ancestors(unit.territory):
                self._below[place].append(unit)
        self._since, self._until = _NEVER, _BEGINNING  # span in which `_decisions` hold: none yet
        self._decisions: dict[tuple, tuple[Delivery, ...]] = {}

    # -- the doors --------------------------------------------------------------------------------

    def route(self, change: Change, now: datetime) -> tuple[Delivery, ...]:
        """All deliveries of a change, one at most per unit, sorted by unit."""
        if not self._since < now <= self._until:
            self._enter_span(now)
        asked = (
            change.dataset,
            change.source_unit,
            change.op is _UPSERT,  # the hash of an enum's member costs more than all the others
            change.reason,
            change.division,
            change.former_divisions,
            change.schema_version,
        )
        decided = self._decisions.get(asked)
        if decided is None:
            if len(self._decisions) >= _MAX_DECISIONS:
                self._decisions.clear()
            decided = self._decisions[asked] = self._decide(change, now)
        return decided

    def held_back(self, change: Change, now: datetime) -> int:
        """How many deliveries `route` leaves out because of a hold."""
        if not (self._held_units or self._held_datasets):
            return 0
        return len(self._entitled(change, now)) - len(self.route(change, now))

    def span(self, now: datetime) -> tuple[datetime, datetime]:
        """From when (exclusive) until when decisions made at `now` hold."""
        if not self._since < now <= self._until:
            self._enter_span(now)
        return self._since, self._until

    def route_for(self, change: Change, unit: str, now: datetime) -> Delivery | None:
        """The one delivery of `route` that goes to `unit`, for jobs."""
        return next((d for d in self.route(change, now) if d.unit == unit), None)

    def withdrawal_for(self, change: Change, unit: str) -> Delivery | None:
        """A withdrawal when this policy may ever have delivered this key to this unit, else None.

        A job asks this of older policies, for a key of which the newest gives the unit nothing.
        The schema version of the change does not matter: what the unit holds is an earlier state.
        """
        known = self._units.get(unit)
        if known is None or not self.policy.contract.may_publish(
            change.source_unit, change.dataset
        ):
            return None
        return self._withdrawal(self._book_of(change.dataset), known, change)

    def entitlement(
        self, unit: str, dataset: str, source_unit: str, place: str, now: datetime
    ) -> Entitlement | None:
        """What `unit` may have now of records that `source_unit` publishes about `place`."""
        known = self._units.get(unit)
        if known is None or not self.policy.contract.may_publish(source_unit, dataset):
            return None
        book = self._book_of(dataset)
        right = self._right(book, known, self._units[source_unit], place, now)
        if right is None:
            return None
        fields = right.fields(book.versions[book.dataset.schema_version])
        if not fields:
            return None
        return Entitlement(unit, right.direction, right.rule, right.grants(fields), fields)

    def recipients(self) -> set[str]:
        """Units that may receive anything at all under this policy."""
        found: set[str] = set()
        for name in self.policy.contract.datasets:
            book = self._book_of(name)
            for source in self.policy.contract.units:
                if self.policy.contract.may_publish(source.unit, name):
                    found |= self._recipients_of(book, source)
        return found

    # -- deciding ---------------------------------------------------------------------------------

    def _decide(self, change: Change, now: datetime) -> tuple[Delivery, ...]:
        if change.dataset in self._held_datasets:
            return ()
        found = self._entitled(change, now)
        return tuple(found[name] for name in sorted(found) if name not in self._held_units)

    def _entitled(self, change: Change, now: datetime) -> dict[str, Delivery]:
        """By unit, those that are held back too."""
        book = self._book(change)
        if book is None:
            return {}
        source = self._units[change.source_unit]
        found: dict[str, Delivery] = {}
        for place in (change.division, *change.former_divisions):
            for unit in self._candidates(book, source, place):
                if unit.unit not in found:
                    delivery = self._delivery(book, unit, change, now)
                    if delivery is not None:
                        found[unit.unit] = delivery
        return found

    def _delivery(self, book: Book, unit: Unit, change: Change, now: datetime) -> Delivery | None:
        """Rules 8 and 9 for one unit."""
        if change.reason != Reason.MOVED_OUT:
            source = self._units[change.source_unit]
            right = self._right(book, unit, source, change.division, now)
            if right is not None and change.op == ChangeOp.DELETE:
                return _of_right(unit, DeliveryOp.DELETE, right, right.grants(book.published))
            if right is not None:
                fields = self._project(book, right, change.schema_version)
                if fields:
                    grants = right.grants(fields)
                    return _of_right(unit, DeliveryOp.UPSERT, right, grants, fields)
        return self._withdrawal(book, unit, change)

    def _withdrawal(self, book: Book, unit: Unit, change: Change) -> Delivery | None:
        """Rule 9: by the widest rights that this policy ever gave, at any place of the record."""
        source = self._units[change.source_unit]
        for place in (change.division, *change.former_divisions):
            right = self._right(book, unit, source, place, self.policy.activated_at)
            if right is not None:
                grants = right.grants(book.published)
                return _of_right(unit, DeliveryOp.WITHDRAW, right, grants)
        return None

    def _right(
        self, book: Book, unit: Unit, source: Unit, place: str, now: datetime
    ) -> Right | None:
        """Rules 1 to 7 for one unit and one place; None when no field is open."""
        if unit.unit == source.unit or not is_within(source.territory, place):
            return None
        direction = direction_of(source, unit, place)
        rule = rule_for(book.dataset, direction, unit)
        by_rule = frozenset(rule.fields) & book.unconditional if rule else frozenset()
        by_grant = tuple(
            (grant.grant, frozenset(grant.fields) & book.published)
            for grant in book.grants_to.get(unit.unit, ())
            if covers(grant.territory, place) and self._is_live(grant, now)
        )
        if not by_rule and not by_grant:
            return None
        if rule is None or direction is None:
            return Right(Direction.GRANTED, by_grant[0][0], by_rule, by_grant)
        return Right(direction, rule.rule, by_rule, by_grant)

    def _is_live(self, grant: Grant, now: datetime) -> bool:
        return now <= last_instant(grant)  # that it had started is asked by `grants_of`

    def _project(self, book: Book, right: Right, schema_version: int) -> tuple[str, ...]:
        return right.fields(book.versions[schema_version])

    # -- looking up -------------------------------------------------------------------------------

    def _book(self, change: Change) -> Book | None:
        """None for a change that intake refuses (rule 1)."""
        if not self.policy.contract.may_publish(change.source_unit, change.dataset):
            return None
        territory = self._units[change.source_unit].territory
        book = self._book_of(change.dataset)
        if change.schema_version not in book.versions or not is_within(territory, change.division):
            return None
        return book

    def _book_of(self, dataset: str) -> Book:
        book = self._books.get(dataset)
        if book is None:
            book = self._books[dataset] = Book(dataset, self.policy, self._grants)
        return book

    def _candidates(self, book: Book, source: Unit, place: str) -> Iterable[Unit]:
        """Every unit that may have a right about this place, and some that have none."""
        if not is_within(source.territory, place):
            return
        around = [place, *ancestors(place)]
        for territory in {source.territory, *ancestors(source.territory), *around}:
            yield from (u for u in self._at.get(territory, ()) if u.line in book.lines)
        yield from (u for u in self._below.get(place, ()) if u.line in book.lines)
        for territory in around:
            for name in book.granted_in.get(territory, ()):
                if name in self._units:
                    yield self._units[name]

    def _recipients_of(self, book: Book, source: Unit) -> set[str]:
        places = [source.territory, *(u.territory for u in self._below.get(source.territory, ()))]
        places += [t for t in book.granted_in if is_within(source.territory, t)]
        return {
            unit.unit
            for place in dict.fromkeys(places)
            for unit in self._candidates(book, source, place)
            if self._right(book, unit, source, place, self.policy.activated_at)
        }

    def _enter_span(self, now: datetime) -> None:
        """Forget the decisions: a grant ended since, or had not yet (clocks are set back too)."""
        index = bisect_left(self._ends, now)
        self._since = self._ends[index - 1] if index else _BEGINNING
        self._until = self._ends[index] if index < len(self._ends) else _NEVER
        self._decisions.clear()


def entitlement(
    policy: Policy, unit: str, dataset: str, source_unit: str, division: str, now: datetime
) -> Entitlement | None:
    """One question to one policy; whoever asks often keeps a Router."""
    return Router(policy).entitlement(unit, dataset, source_unit, division, now)


def settle(
    change: Change, unit: str, now: datetime, newest: Router, older: Iterable[Router]
) -> Delivery | None:
    """What a job owes a unit for the last known state of a key.

    That is what the newest policy gives it of this change, or else a withdrawal when an older one
    may have delivered the key. None: the unit never had a right to it.
    """
    delivery = newest.route_for(change, unit, now)
    if delivery is not None:
        return delivery
    return next((d for r in older if (d := r.withdrawal_for(change, unit)) is not None), None)


def _of_right(
    unit: Unit, op: DeliveryOp, right: Right, grants: tuple[str, ...], fields: tuple[str, ...] = ()
) -> Delivery:
    return Delivery(unit.unit, op, right.direction, right.rule, grants, fields)

"""The planted bugs: each a mistake that somebody could make, which the model must find."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from unittest.mock import patch

from deptbus.change import Change, Delivery
from deptbus.contract.model import Policy, Sharing, Unit
from deptbus.department import store
from deptbus.department.capture import Known
from deptbus.department.fold import fold
from deptbus.department.publication import Batch
from deptbus.operations.due import Digests
from deptbus.routing import Router
from deptbus.routing.book import Book, Right

from .world import Bugs, explore


class ProjectsByExcludeList(Router):
    """Everything flows but what is known to be closed."""

    def _project(self, book: Book, right: Right, schema_version: int) -> tuple[str, ...]:
        hidden = {f for f, s in book.dataset.sharing.items() if s is not Sharing.UNCONDITIONAL}
        granted = {f for _, opened in right.by_grant for f in opened}
        return tuple(f for f in book.versions[schema_version] if f not in hidden or f in granted)


class ForgetsToWithdraw(Router):
    """A move brings the record to its new place, and leaves it at the old one."""

    def _withdrawal(self, book: Book, unit: Unit, change: Change) -> Delivery | None:
        return super()._withdrawal(book, unit, replace(change, former_divisions=()))


class NamesTheLastPlaceOnly(Batch):
    """The source names the place that a record came from, not those before: behind a change that
    was refused the place that still holds a copy is forgotten."""

    def _remember(
        self, pair: tuple[str, bytes], was: str | None, now: str | None = None
    ) -> tuple[str, ...]:
        if was is not None:
            self.known[pair] = replace(self.known.get(pair, Known()), places=())
        return super()._remember(pair, was, now)


def _by_rules_alone(
    policy: Policy, numbers: Iterable[int], plain: Callable[[int], Digests]
) -> Digests:
    """The rules before a hold and behind it are the same, so nothing seems to be due."""
    return plain(policy.number)


def _any_is_newer(pair: tuple[int, int], cause: str, known: object) -> bool:
    return True


def _no_version_check() -> AbstractContextManager[object]:
    def unchecked(*args: object, **more: object) -> object:
        return fold(*args, **more, is_newer=_any_is_newer)  # type: ignore[arg-type]

    return patch.object(store, "fold", unchecked)


@dataclass(frozen=True, slots=True)
class Planted:
    """A mistake, and the mixture of acts and faults in which it shows soonest."""

    mixture: str
    bugs: Bugs = field(default_factory=Bugs)
    planting: Callable[[], AbstractContextManager[object]] = nullcontext


PLANTED = {
    "ack before delivery": Planted("crashes", Bugs(ack_before_delivery=True)),
    "cursor instead of queue on the outbox": Planted("all", Bugs(cursor_on_outbox=True)),
    "no version check": Planted("zombies", planting=_no_version_check),
    "a number that is announced before it is told": Planted(
        "restored often", Bugs(number_told_late=True)
    ),
    "no fence": Planted("zombies", Bugs(no_fence=True)),
    "projection by exclude-list": Planted("all", Bugs(router=ProjectsByExcludeList)),
    "withdrawal forgotten on a move": Planted("all", Bugs(router=ForgetsToWithdraw)),
    "former place forgotten behind a refused change": Planted(
        "refusals", Bugs(batch=NamesTheLastPlaceOnly)
    ),
    "a column left standing when its field was closed": Planted(
        "policies", Bugs(closed_column_stands=True)
    ),
    "a policy delivered anew without waiting for the agents": Planted(
        "policies", Bugs(no_waiting_for_agents=True)
    ),
    "a hold that is lifted without a job": Planted("holds", Bugs(digests=_by_rules_alone)),
    "a replay by the rights that were when it was ordered": Planted(
        "sent again", Bugs(replay_by_old_rights=True)
    ),
    "no keeper": Planted("late", Bugs(no_keeper=True)),
    "a resync that does not delete": Planted("restores", Bugs(resync_without_deletes=True)),
    "a resync that does not wait for its marker": Planted(
        "restores", Bugs(resync_without_marker=True)
    ),
    "a proof whose snapshot is older than its cut": Planted(
        "proofs", Bugs(proof_before_the_cut=True)
    ),
    "a proof of rows that wait in the outbox": Planted("proofs", Bugs(proof_of_what_waits=True)),
    "a proof that does not stop at its marker": Planted("proofs", Bugs(proof_without_marker=True)),
}


def first_counterexample(name: str, seeds: range) -> tuple[int, list[str]] | None:
    """(seed, what is wrong at its end) of the first schedule that shows the bug."""
    planted = PLANTED[name]
    with planted.planting():
        for seed in seeds:
            wrong = explore(seed, planted.bugs, planted.mixture)
            if wrong:
                return seed, wrong
    return None

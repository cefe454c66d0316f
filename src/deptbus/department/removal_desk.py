"""Asks the database what `removal_guard` has to know of a batch, and keeps count between batches.

One desk for one publisher: nobody else writes what is held, but for releases.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import structlog

from deptbus.contract.department import HoldRemovals, Publish
from deptbus.department import removal_guard as guard
from deptbus.department.capture import Capture, Hold, OutboxRow
from deptbus.department.judge import Found
from deptbus.department.publication import Publication
from deptbus.department.speakers import key_in

log = structlog.get_logger(__name__)

_FORGOTTEN_MINUTES = 2 * 1440
_MEND = (
    "If they are meant, `deptbus department release --held {number} --yes`; else put the rows back"
)


class RemovalDesk:
    """`recall` once, by whoever has taken over; then for each batch `sift`, and `settle` when what
    it gave is durable. Raises what the capture raises."""

    def __init__(
        self,
        capture: Capture,
        publishes: Mapping[str, Publish],
    ) -> None:
        self._capture = capture
        self._rules = {name: publish.hold_removals for name, publish in publishes.items()}
        self._holds: tuple[Hold, ...] = ()
        self._lately: dict[str, Counter[int]] = defaultdict(
            Counter
        )  # dataset -> minute -> how many
        self._clear: dict[str, int] = {}  # position up to which what waits was counted: too few
        self._since: Counter[str] = Counter()  # removals read since that were below it
        self._expected: dict[str, tuple[int, int]] = {}  # deletes, moves

    async def recall(self) -> None:
        self._holds = await self._capture.holds()
        for (dataset, minute), count in (await self._capture.removals_lately()).items():
            self._lately[dataset][minute] += count

    def expect(self, dataset: str, deletes: int, moves: int = 0) -> None:
        """So many are about to be enqueued by ourselves; 0 when they have been."""
        self._expected[dataset] = deletes, moves

    async def sift(
        self,
        publications: Mapping[str, Publication],
        rows: Sequence[OutboxRow],
        found: Sequence[Found],
        *,
        is_all: bool,
    ) -> guard.Sifted | None:
        """None: the batch may be judged as it is. `publications`: of all that `rows` are of, and
        nobody changes it meanwhile. `is_all`: no more than these rows waits."""
        if not self._holds and not any(map(guard.may_remove, rows)):
            return None
        last = await self._last_places(rows, found)
        removals = [
            removal
            for at, (row, one) in enumerate(zip(rows, found, strict=True))
            if (removal := guard.removal_of(at, row, one, publications[row.dataset], last))
            is not None
        ]
        if not self._holds and not removals:
            return None
        removals, left_out = guard.netted(rows, found, removals, publications)
        held = {}
        if self._holds:
            asked = {
                (row.dataset, key)
                for row, one in zip(rows, found, strict=True)
                if (key := key_in(one)) is not None
            }
            held = await self._capture.held(list(asked))
        fresh = [removal for removal in removals if removal.pair not in held]
        crowded, begun = await self._crowded(rows, fresh, is_all=is_all)
        doubtful = [*held, *(r.pair for r in fresh if r.minute in crowded.get(r.pair[0], ()))]
        known = await self._capture.known(doubtful) if doubtful else {}
        outlook = guard.Outlook(
            publications,
            crowded,
            held,
            {hold.dataset: hold.number for hold in (*self._open(), *begun)},
            {pair for pair, memory in known.items() if memory.variants},
        )
        sifted = guard.sift(rows, found, removals, left_out, outlook)
        begun_for = {one.hold for one in sifted.holding.held}
        sifted.holding.begun = [hold for hold in begun if hold.number in begun_for]
        if sifted.holding.removals:
            newest = max(minute for _, minute in sifted.holding.removals)
            sifted.holding.forget_before = newest - _FORGOTTEN_MINUTES
        return sifted

    async def _last_places(
        self, rows: Sequence[OutboxRow], found: Sequence[Found]
    ) -> dict[guard.Pair, str]:
        """Rule 8: where the bus has the keys that a resync found elsewhere."""
        moved = {
            (row.dataset, key)
            for row, one in zip(rows, found, strict=True)
            if row.job == guard.MOVED and (key := key_in(one)) is not None
        }
        known = await self._capture.known(list(moved)) if moved else {}
        return {pair: memory.places[-1] for pair, memory in known.items() if memory.places}

    def _open(self) -> list[Hold]:
        return [hold for hold in self._holds if not hold.is_released]

    async def _crowded(
        self, rows: Sequence[OutboxRow], removals: Sequence[guard.Removal], *, is_all: bool
    ) -> tuple[dict[str, frozenset[int]], list[Hold]]:
        """Rules 1 and 2: minutes by dataset, and the holds that begin with them."""
        crowded, begun = {}, []
        by_dataset: dict[str, list[guard.Removal]] = defaultdict(list)
        for removal in removals:
            by_dataset[removal.pair[0]].append(removal)
        open_now = {hold.dataset: hold for hold in self._open()}
        number = max((hold.number for hold in self._holds), default=0)
        for dataset, some in by_dataset.items():
            hold = open_now.get(dataset)
            found, size = await self._crowded_in(dataset, rows, some, hold, is_all=is_all)
            if not found:
                continue
            crowded[dataset] = found
            if hold is None:
                number = max(number + 1, await self._capture.next_hold())
                begun.append(Hold(number, dataset, time.time_ns() // 1000, size))
        return crowded, begun

    async def _crowded_in(
        self,
        dataset: str,
        rows: Sequence[OutboxRow],
        removals: Sequence[guard.Removal],
        hold: Hold | None,
        *,
        is_all: bool,
    ) -> tuple[frozenset[int], int]:
        rule = self._rules.get(dataset, HoldRemovals())
        here = Counter(removal.minute for removal in removals)
        deletes = sum(rows[removal.at].op == "d" for removal in removals)
        counts = self._lately[dataset] + here
        found, size = await self._too_many(dataset, counts, rule, deletes, hold)
        gone, moves = self._expected.get(dataset, (0, 0))
        expected = gone + moves
        self._since[dataset] += here.total()
        # What commits late lies below a position that was counted: so many are looked at anew.
        is_counted = is_all or (
            rows[-1].position <= self._clear.get(dataset, 0)
            and self._since[dataset] < rule.at_least
        )
        if found.issuperset(here) or (is_counted and not expected):
            return found, size
        ahead, upto = await self._capture.removals_ahead(dataset, rows[0].position)
        counts = self._lately[dataset] + Counter({m: n for m, (n, _) in ahead.items()})
        counts[max(here)] += expected
        deletes = gone + sum(n for _, n in ahead.values())
        found, size = await self._too_many(dataset, counts, rule, deletes, hold)
        if not found and not expected:
            self._clear[dataset], self._since[dataset] = upto, 0
        return found, size

    async def _too_many(
        self,
        dataset: str,
        counts: Counter[int],
        rule: HoldRemovals,
        deletes: int,
        hold: Hold | None,
    ) -> tuple[frozenset[int], int]:
        """Rule 2, and the size of the dataset: its rows and those that were just deleted."""
        most = guard.busiest(counts, rule)
        if most < rule.at_least or rule.percent >= 100:
            return frozenset(), 0
        if hold is not None:
            return guard.crowded(counts, rule, hold.size), hold.size
        enough = int(most * 100 / rule.percent) + 1
        size = deletes + await self._capture.count(dataset, enough)
        return guard.crowded(counts, rule, size), size

    async def settle(self, sifted: guard.Sifted) -> None:
        """What `sift` gave is durable."""
        holding = sifted.holding
        for (dataset, minute), count in holding.removals.items():
            self._lately[dataset][minute] += count
            for old in [m for m in self._lately[dataset] if m < holding.forget_before]:
                del self._lately[dataset][old]
        for hold in holding.begun:
            log.error(
                "removals_held",
                dataset=hold.dataset,
                hold=hold.number,
                mend=_MEND.format(number=hold.number),
            )
        self._holds = (*self._holds, *holding.begun)
        if holding.given_back:
            await self.look()

    async def look(self) -> None:
        """Holds as they are now: a person releases, and what is given back ends one."""
        before, self._holds = self._holds, await self._capture.holds()
        now = {hold.number: hold for hold in self._holds}
        for hold in before:
            if hold.number not in now:
                log.info("hold_of_removals_ended", dataset=hold.dataset, hold=hold.number)
            elif now[hold.number].is_released and not hold.is_released:
                log.info("removals_released", dataset=hold.dataset, hold=hold.number)
                # They were meant: what comes now is counted anew.
                self._lately[hold.dataset].clear()

"""What one store does about rebuilds: takes orders, remembers jobs, swaps when it is time, and
tidies up behind itself. Rules: `rebuild`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from deptbus.department.rebuild import Rebuild, State
from deptbus.department.rebuild_port import Shadows
from deptbus.department.rebuild_swap import swap
from deptbus.errors import DatabaseBusy, DatabaseUnavailable, RowRefused
from deptbus.wire.control import RebuildOrder

if TYPE_CHECKING:
    from deptbus.department.store import Store

log = structlog.get_logger(__name__)

CHANGED_MAPPING = "its mapping was changed since it was begun, or its table is gone"


class RebuildDesk:
    """`open` once the store has its targets and positions; then `take` orders as they come, `swap`
    and `tidy_some` between two batches. All raise as `Store.apply`: do it again then."""

    def __init__(self, store: Store, shadows: Shadows) -> None:
        self._store, self._shadows = store, shadows
        self.known: dict[str, Rebuild] = {}  # by job
        self.jobs: dict[str, str] = {}  # dataset -> the job that is open

    async def open(self, now_us: int) -> None:
        self.known = {rebuild.job: rebuild for rebuild in await self._shadows.load()}
        for rebuild in list(self.known.values()):
            if not rebuild.is_open:
                continue
            is_mapped = rebuild.dataset in self._store.targets
            if is_mapped and await self._shadows.attach(rebuild.dataset):
                self._joined(rebuild)
            else:
                await self._close(rebuild, "refused", now_us, CHANGED_MAPPING)

    # -- orders ------------------------------------------------------------------------------------

    async def take(self, order: RebuildOrder, now_us: int) -> None:
        """Durable when this returns."""
        known = self.known.get(order.job)
        if order.action == "begin" and known is None:
            await self._begin(order, now_us)
        elif order.action == "swap" and known is not None and known.state == "filling":
            await self._note(
                known._replace(state="swapping", ends=order.ends, changed_at_us=now_us)
            )
        elif order.action == "drop":
            if known is None:
                # Its beginning is read later on, in another partition.
                await self._note(_new(order, "dropped", now_us)._replace(is_tidy=True))
            elif known.is_open:
                await self._close(known, "dropped", now_us)

    async def _begin(self, order: RebuildOrder, now_us: int) -> None:
        if order.dataset not in self._store.targets:
            await self._note(_new(order, "not_here", now_us)._replace(is_tidy=True))
            return
        for other in [r for r in self.known.values() if r.dataset == order.dataset]:
            if other.is_open:
                await self._close(other, "dropped", now_us)
        for other in [r for r in self.known.values() if r.dataset == order.dataset]:
            while not self.known[other.job].is_tidy:
                await self._tidy(self.known[other.job])
        rebuild = _new(order, "filling", now_us)
        try:
            await self._shadows.begin(rebuild)
        except DatabaseBusy:
            raise
        except DatabaseUnavailable as error:
            # No right to make a table, or the like: not the matter of the copy in use. If it is the
            # connection that is gone, this is not noted either.
            await self._note(rebuild._replace(state="refused", reason=error.what, is_tidy=True))
            log.warning("rebuild_refused", dataset=order.dataset, job=order.job, error=error.what)
            return
        await self._shadows.attach(rebuild.dataset)
        self._joined(rebuild)
        log.info("rebuild_begun", dataset=order.dataset, job=order.job)

    def _joined(self, rebuild: Rebuild) -> None:
        self.known[rebuild.job] = rebuild
        self.jobs[rebuild.dataset] = rebuild.job
        self._store.share_floors(rebuild.dataset)

    # -- between two batches -----------------------------------------------------------------------

    @property
    def due(self) -> Rebuild | None:
        """One whose swap may be carried out now: rule 4."""
        for job in self.jobs.values():
            rebuild = self.known[job]
            if rebuild.state == "swapping" and all(
                number in self._store.positions and self._store.positions[number].next_offset >= end
                for number, end in enumerate(rebuild.ends)
            ):
                return rebuild
        return None

    async def swap(self, rebuild: Rebuild, now_us: int) -> Rebuild:
        """The job as it stands then: swapped, or refused and nothing was done."""
        try:
            done = await swap(self._store, self._shadows, rebuild, now_us)
        except RowRefused as error:
            log.warning("swap_refused", dataset=rebuild.dataset, job=rebuild.job, error=error.what)
            return await self._close(rebuild, "refused", now_us, error.what)
        self._left(done)
        log.info("copy_swapped", dataset=done.dataset, job=done.job, **dict(done.counts))
        return done

    @property
    def untidy(self) -> Rebuild | None:
        return next((r for r in self.known.values() if not (r.is_open or r.is_tidy)), None)

    async def tidy_some(self) -> bool:
        """Some of what is left of a second copy; whether more may be."""
        rebuild = self.untidy
        if rebuild is not None:
            await self._tidy(rebuild)
        return self.untidy is not None

    async def _tidy(self, rebuild: Rebuild) -> None:
        if await self._shadows.tidy(rebuild):
            self.known[rebuild.job] = rebuild._replace(is_tidy=True)

    # -- parts -------------------------------------------------------------------------------------

    async def _close(
        self, rebuild: Rebuild, state: State, now_us: int, reason: str = ""
    ) -> Rebuild:
        closed = rebuild._replace(state=state, reason=reason, changed_at_us=now_us)
        await self._shadows.note(closed)
        self._left(closed)
        return closed

    def _left(self, closed: Rebuild) -> None:
        """It is over, which is committed."""
        self.known[closed.job] = closed
        if self.jobs.get(closed.dataset) == closed.job:
            del self.jobs[closed.dataset]
            self._shadows.detach(closed.dataset)

    async def _note(self, rebuild: Rebuild) -> None:
        await self._shadows.note(rebuild)
        self.known[rebuild.job] = rebuild

    def last(self) -> list[Rebuild]:
        """Of each dataset the job that changed last."""
        found: dict[str, Rebuild] = {}
        for rebuild in self.known.values():
            held = found.get(rebuild.dataset)
            if held is None or rebuild.changed_at_us >= held.changed_at_us:
                found[rebuild.dataset] = rebuild
        return list(found.values())


def _new(order: RebuildOrder, state: State, now_us: int) -> Rebuild:
    return Rebuild(order.job, order.dataset, state, "", (), {}, False, now_us)

"""Proves sources and copies at the hour of the contract, one after the other, and keeps what came
of it with its certificate: a duty of the leading operations process.

1. What is due follows from `bus.proofs` alone (`proof_rounds`).
2. A unit that never joined has nothing to prove and is passed over.
3. What could not be told is told by the log and tried again after AGAIN, in the same round; it is
   no outcome, so that `deptbus status` goes on to show how old the last proof is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import Policy
from deptbus.errors import DeptbusError
from deptbus.operations.audit import Operator
from deptbus.operations.groups import Groups
from deptbus.operations.leg import LegResult
from deptbus.operations.office import Duty, Office
from deptbus.operations.outcomes import keep_results
from deptbus.operations.proof_rounds import due_subjects
from deptbus.operations.proofs import Subject, outcomes_of, subjects_of
from deptbus.operations.reconcile import Reconciled
from deptbus.operations.reconcile_copy import prove_copy
from deptbus.operations.reconcile_source import prove_source
from deptbus.stream.log import end_offsets, read_to_end

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = structlog.get_logger(__name__)

AGAIN = timedelta(minutes=30)
OPERATOR = Operator("nightly")  # in certificates that nobody asked for
_LOOK_SECONDS = 20.0

Key = Callable[[], "Ed25519PrivateKey"]


def nightly(connection: Connection, key: Key | None) -> Duty:
    """`key` None: outcomes without a certificate."""
    return lambda office: Nightly(connection, office, key).run()


class Nightly:
    """`run` until cancelled."""

    def __init__(self, connection: Connection, office: Office, key: Key | None) -> None:
        self._connection, self._office, self._key = connection, office, key
        self._tried: dict[Subject, datetime] = {}
        self._told = ""

    async def run(self) -> None:
        while True:
            try:
                while await self.prove_next():
                    self._told = ""
            except DeptbusError as error:
                if error.what != self._told:
                    self._told = error.what
                    log.warning("proofs_interrupted", error=error.what)
            await asyncio.sleep(_LOOK_SECONDS)

    async def prove_next(self) -> bool:
        """Tries the next one that is due; False when none is."""
        policy = self._office.policies.current()
        if policy.contract.proofs is None:
            return False
        outcomes = outcomes_of(await read_to_end(self._connection, names.PROOFS))
        subject = await self._next(policy, {s: o.proved_at_us for s, o in outcomes.items()})
        if subject is None:
            return False
        self._tried[subject] = self._office.tools.now()
        began = time.monotonic()
        results = await self._prove(subject, policy.contract.proofs.deep)
        await self._keep(Reconciled(tuple(results), (), time.monotonic() - began))
        return True

    async def _next(self, policy: Policy, proved: Mapping[Subject, int]) -> Subject | None:
        now = self._office.tools.now()
        self._tried = {s: at for s, at in self._tried.items() if now - at < AGAIN}
        subjects = {s: proved.get(s) for s in subjects_of(policy)}
        for subject in due_subjects(policy.contract, subjects, now):
            if subject not in self._tried and await self._has_joined(subject):
                return subject
        return None

    async def _prove(self, subject: Subject, deep: bool) -> list[LegResult]:
        unit, dataset, leg = subject
        if leg == "source":
            return [await prove_source(self._office, self._connection, unit, dataset)]
        proved = await prove_copy(self._office, self._connection, unit, dataset, deep=deep)
        return [one.result for one in proved]

    async def _keep(self, found: Reconciled) -> None:
        for result in found.untold:
            log.warning(
                "table_not_proved",
                unit=result.unit,
                dataset=result.dataset,
                leg=result.leg,
                reason=result.could_not_tell,
            )
        from deptbus.operations.reconcile_certificate import certify  # not needed to start

        signed, unit = b"", found.results[0].unit
        if self._key is not None and not found.untold:
            key = await asyncio.to_thread(self._key)
            signed = await certify(self._office, self._connection, unit, found, OPERATOR, key)
        await keep_results(self._office, found.results, operator=OPERATOR.name, certificate=signed)

    async def _has_joined(self, subject: Subject) -> bool:
        """Rule 2: a source announces itself before anything else, a recipient commits what it has
        applied."""
        if subject.leg == "source":
            return any(await end_offsets(self._connection, names.out_topic(subject.unit)))
        inbox = names.in_topic(subject.unit)
        ends = await end_offsets(self._connection, inbox)
        unit = self._office.policies.current().contract.unit_by_name[subject.unit]
        places = [(inbox, number) for number in range(len(ends))]
        async with Groups(self._connection) as groups:
            for system in unit.systems:
                if await groups.committed(names.adapter_group(subject.unit, system), places):
                    return True
        return False

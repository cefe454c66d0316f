"""Signs what a proof came to, and says in `bus.audit` that it did."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deptbus import names
from deptbus.connection import Connection
from deptbus.operations import audit
from deptbus.operations.office import Office
from deptbus.operations.reconcile import Reconciled
from deptbus.proof.certificate import Certificate, sign
from deptbus.stream.brokers import consumer_of
from deptbus.stream.identity import topic_identity


async def certify(
    office: Office,
    connection: Connection,
    unit: str,
    found: Reconciled,
    by: audit.Operator,
    private_key: Ed25519PrivateKey,
) -> bytes:
    """The bytes of the file. Says as well what could not be told; what a unit has no table for is
    left out. Raises BusUnreachable, BusRefused."""
    policy = office.policies.current()
    async with consumer_of(connection) as consumer:
        cluster, _ = await topic_identity(consumer._client, names.CONTRACT)
    certificate = Certificate(
        cluster=cluster,
        unit=unit,
        policy=policy.number,
        contract=policy.contract.digest,
        made_at=office.tools.now(),
        operator=by.name,
        proofs=tuple(result.as_proof() for result in found.results if not result.absent),
    )
    content = sign(certificate, private_key)
    told = f"{found.differences} differences, {len(found.untold)} could not tell"
    for act in audit.acts_of(
        by,
        audit.CERTIFICATE,
        told,
        unit=unit,
        subjects=(f"sha256 {sha256(content).hexdigest()}",),
    ):
        await audit.record(office.tools.sender, act)
    return content

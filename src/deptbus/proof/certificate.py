"""The certificate of a proof: what was compared with what, where it was cut, and what came of it.

A file is one JSON document in one form only (keys sorted, no spaces, ASCII, a line's end last), so
that every altered byte is seen, spaces too; Ed25519 over the certificate in that same form, behind
a text of its own, so that no other signature of that key can pass for one.
"""

from __future__ import annotations

import base64
import binascii
import json
from hashlib import sha256
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from deptbus.errors import DeptbusError, Exit

FORMAT: Literal["deptbus-certificate/1"] = "deptbus-certificate/1"
# wire/digest.py, proof/item.py and the roots of proof/merkle.py: changes with any byte they digest.
ENCODER = "blake2b-128/2"
HELD = "held"  # the class of keys whose removal their source holds
_PURPOSE = FORMAT.encode() + b"\n"
_HEX_HASH = Field(pattern=r"^[0-9a-f]{64}$")


class CertificateRefused(DeptbusError):
    """The file is no certificate of that key, or not of what was asked for. The answer is no."""

    exit_code = Exit.ANSWER_IS_NO


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Part):
    """One side of a leg: how many rows, and the roots that bind them (hexadecimal)."""

    rows: int = Field(ge=0)
    leaf_root: str = _HEX_HASH
    sorted_root: str = _HEX_HASH


class Proof(_Part):
    """One leg of one dataset. `cut`: topic -> offset of each partition before which it holds.

    `differences`: class -> how many; empty when the sides are equal. Among them are keys that are
    HELD, which differ on purpose and are counted apart. With `could_not_tell` there
    is a reason and nothing else is known.
    """

    dataset: str
    leg: Literal["source", "copy"]
    unit: str = ""  # whose table it is, of the source leg another unit's; empty: the certificate's
    system: str = ""  # of that unit; empty where nothing could be told of any, and in older files
    cut: dict[str, tuple[int, ...]]
    bus: Side | None = None
    other: Side | None = None
    differences: dict[str, int] = Field(default_factory=dict)
    deep: bool = False
    could_not_tell: str = ""


class Certificate(_Part):
    """What was proved of one unit under one contract, at one time, by whom."""

    format: Literal["deptbus-certificate/1"] = FORMAT
    encoder: str = ENCODER
    cluster: str
    unit: str
    policy: int = Field(ge=0)
    contract: str = _HEX_HASH  # digest of the contract in force
    made_at: AwareDatetime
    operator: str
    proofs: tuple[Proof, ...]

    @property
    def differences(self) -> int:
        """How many in all, of every class but HELD."""
        return sum(sum(proof.differences.values()) for proof in self.proofs) - self.held

    @property
    def held(self) -> int:
        return sum(proof.differences.get(HELD, 0) for proof in self.proofs)

    @property
    def could_tell(self) -> bool:
        """False where anything was left unproved: then 0 differences say nothing."""
        return bool(self.proofs) and not any(proof.could_not_tell for proof in self.proofs)

    @property
    def is_equal(self) -> bool:
        return self.could_tell and self.differences == 0 and self.held == 0


def sign(certificate: Certificate, private_key: Ed25519PrivateKey) -> bytes:
    """The bytes of the file."""
    content = certificate.model_dump(mode="json")
    signature = private_key.sign(_PURPOSE + _canonical(content))
    return _file(content, fingerprint(private_key.public_key()), signature)


def verify(data: bytes, public_key: Ed25519PublicKey) -> Certificate:
    """What the file says, after it was found to be signed by that key and not altered since.

    Raises CertificateRefused.
    """
    try:
        document = json.loads(data)
        content, signed_by = document["certificate"], document["key"]
        signature = base64.b64decode(document["signature"], validate=True)
        whole = _file(content, signed_by, signature)
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        raise CertificateRefused("this is no certificate") from None
    if whole != data:
        raise CertificateRefused("the certificate was altered: it is not in its one form")
    if signed_by != fingerprint(public_key):
        raise CertificateRefused(f"the certificate was signed with another key: {signed_by}")
    try:
        public_key.verify(signature, _PURPOSE + _canonical(content))
    except InvalidSignature:
        raise CertificateRefused("the certificate was altered: its signature is wrong") from None
    try:
        return Certificate.model_validate(content)
    except ValidationError:
        raise CertificateRefused("the certificate is of another version of deptbus") from None


def check_is_for(
    certificate: Certificate,
    *,
    unit: str | None = None,
    dataset: str | None = None,
    contract: str | None = None,
) -> None:
    """Raises CertificateRefused where it was made for another unit, dataset or contract (by its
    digest) than the one that is asked for; None asks for nothing."""
    if unit is not None and certificate.unit != unit:
        raise CertificateRefused(f"the certificate is of another unit: {certificate.unit}")
    datasets = {proof.dataset for proof in certificate.proofs}
    if dataset is not None and dataset not in datasets:
        raise CertificateRefused(
            f"the certificate is of other datasets: {', '.join(sorted(datasets)) or 'none'}"
        )
    if contract is not None and certificate.contract != contract:
        raise CertificateRefused(
            f"the certificate was made under another contract: policy {certificate.policy}, "
            f"digest {certificate.contract}"
        )


def fingerprint(public_key: Ed25519PublicKey) -> str:
    """How a key is called: SHA-256 of its 32 raw bytes, in hexadecimal."""
    return sha256(public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _file(content: Any, signed_by: str, signature: bytes) -> bytes:
    text = base64.b64encode(signature).decode()
    return _canonical({"certificate": content, "key": signed_by, "signature": text}) + b"\n"

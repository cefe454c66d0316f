"""A certificate is believed as it was signed, for what it was made for, and not otherwise."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deptbus.proof import certificate as module
from deptbus.proof.certificate import (
    Certificate,
    CertificateRefused,
    Proof,
    Side,
    check_is_for,
    fingerprint,
    sign,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()


def certificate(**others) -> Certificate:
    side = Side(rows=1000, leaf_root="ab" * 32, sorted_root="cd" * 32)
    proof = Proof(
        dataset="resident", leg="copy", cut={"data.resident": (1, 2)}, bus=side, other=side
    )
    words = {
        "cluster": "c",
        "unit": "housing@330106",
        "policy": 3,
        "contract": "ef" * 32,
        "made_at": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        "operator": "auditor 审计",
        "proofs": (proof,),
    }
    return Certificate(**(words | others))


SIGNED = sign(certificate(), KEY)


def test_what_was_signed_is_read_back():
    assert verify(SIGNED, PUBLIC) == certificate()


def test_one_of_before_systems_were_named_is_still_genuine():
    content = certificate().model_dump(mode="json")
    del content["proofs"][0]["system"]
    signature = KEY.sign(module._PURPOSE + module._canonical(content))
    older = module._file(content, fingerprint(PUBLIC), signature)
    assert verify(older, PUBLIC) == certificate()
    assert b'"system"' not in older


def test_a_unit_of_two_systems_has_a_proof_of_each():
    (proof,) = certificate().proofs
    both = tuple(proof.model_copy(update={"system": name}) for name in ("old", "new"))
    found = verify(sign(certificate(proofs=both), KEY), PUBLIC)
    assert [one.system for one in found.proofs] == ["old", "new"]


def test_one_altered_byte_is_refused_wherever_it_is():
    for at in range(len(SIGNED)):
        for bits in (0x01, 0x20, 0x80):
            altered = bytearray(SIGNED)
            altered[at] ^= bits
            with pytest.raises(CertificateRefused):
                verify(bytes(altered), PUBLIC)


def test_one_byte_more_or_less_is_refused_wherever_it_is():
    for at in range(len(SIGNED)):
        with pytest.raises(CertificateRefused):
            verify(SIGNED[:at] + SIGNED[at + 1 :], PUBLIC)
        with pytest.raises(CertificateRefused):
            verify(SIGNED[:at] + b" " + SIGNED[at:], PUBLIC)
    with pytest.raises(CertificateRefused):
        verify(SIGNED + b"\n", PUBLIC)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"certificate":1}', b"1e999"],
)
def test_anything_else_is_refused(data):
    with pytest.raises(CertificateRefused):
        verify(data, PUBLIC)


def test_a_certificate_of_another_key_is_refused_and_names_it():
    other = Ed25519PrivateKey.generate()
    with pytest.raises(CertificateRefused, match=fingerprint(other.public_key())):
        verify(sign(certificate(), other), PUBLIC)


def test_a_signature_of_the_key_over_anything_else_is_none():
    """Planted: the same key signs the same document, but not as a certificate."""
    content = certificate().model_dump(mode="json")
    bare = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    document = {
        "certificate": content,
        "key": fingerprint(PUBLIC),
        "signature": base64.b64encode(KEY.sign(bare)).decode(),
    }
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(CertificateRefused, match="signature"):
        verify(data, PUBLIC)


def test_a_genuine_file_of_another_version_says_so():
    content = certificate().model_dump(mode="json") | {"format": "deptbus-certificate/9"}
    signature = KEY.sign(module._PURPOSE + module._canonical(content))
    with pytest.raises(CertificateRefused, match="version"):
        verify(module._file(content, fingerprint(PUBLIC), signature), PUBLIC)


@pytest.mark.parametrize(
    "asked",
    [{"unit": "health@330106"}, {"dataset": "household"}, {"contract": "00" * 32}],
)
def test_made_for_something_else_it_is_refused(asked):
    with pytest.raises(CertificateRefused, match="other"):
        check_is_for(certificate(), **asked)


def test_made_for_what_is_asked_it_is_not_refused():
    check_is_for(certificate(), unit="housing@330106", dataset="resident", contract="ef" * 32)
    check_is_for(certificate())


def test_equal_is_only_what_was_proved_to_be():
    assert certificate().is_equal
    assert not certificate(proofs=()).is_equal
    differs = Proof(dataset="d", leg="copy", cut={}, differences={"missing": 1, "stale": 0})
    assert not certificate(proofs=(differs,)).is_equal
    held = Proof(dataset="d", leg="source", cut={}, differences={"held": 60})
    assert not certificate(proofs=(held,)).is_equal
    assert (certificate(proofs=(held,)).differences, certificate(proofs=(held,)).held) == (0, 60)
    unknown = Proof(dataset="d", leg="copy", cut={}, could_not_tell="a job is open")
    assert not certificate(proofs=(unknown,)).is_equal
    assert certificate(proofs=(differs, unknown)).differences == 1

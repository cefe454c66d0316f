"""The key is made once and kept from others; a certificate is verified by whoever has its half."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from deptbus.cli.main import run
from deptbus.errors import DeptbusError
from deptbus.operations.certificate_key import ensure_key, read_key
from deptbus.proof.certificate import Certificate, Proof, sign


@pytest.fixture
def signed(tmp_path):
    """A certificate signed with the key of a folder; its public key beside it."""
    public_key = str(tmp_path / "p")
    assert run(["certificate", "key", "--data", str(tmp_path), "--public-key", public_key]) == 0
    private_key = read_key(tmp_path / "certificate.key")
    proof = Proof(dataset="resident", leg="copy", cut={"data.resident": (7,)})

    def make(**words):
        content = {
            "cluster": "c",
            "unit": "housing@330106",
            "policy": 1,
            "contract": "ab" * 32,
            "made_at": datetime(2026, 1, 2, tzinfo=UTC),
            "operator": "wang",
            "proofs": (proof,),
        } | words
        file = tmp_path / "certificate.json"
        file.write_bytes(sign(Certificate(**content), private_key))
        return str(file)

    return make


def verify(tmp_path, file, *words):
    return run(["certificate", "verify", file, "--public-key", str(tmp_path / "p"), *words])


def test_the_key_is_made_once_for_its_owner_only_and_never_printed(tmp_path, capsys):
    first = run(["certificate", "key", "--data", str(tmp_path), "-o", "json"])
    made = json.loads(capsys.readouterr().out)
    again = run(["certificate", "key", "--data", str(tmp_path), "-o", "json"])
    kept = json.loads(capsys.readouterr().out)
    assert (first, again, made["made"], kept["made"]) == (0, 0, True, False)
    assert made["fingerprint"] == kept["fingerprint"]
    file = tmp_path / "certificate.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["certificate.key"]
    assert file.read_text().splitlines()[1] not in json.dumps(made)


def test_a_key_that_others_may_read_is_refused(tmp_path):
    key, _ = ensure_key(tmp_path / "k")
    (tmp_path / "k").chmod(0o640)
    with pytest.raises(DeptbusError, match="others may read"):
        ensure_key(tmp_path / "k")
    (tmp_path / "k").chmod(0o600)
    assert read_key(tmp_path / "k").private_bytes_raw() == key.private_bytes_raw()


@pytest.mark.parametrize("content", [b"", b"no key", b"\x00" * 48])
def test_what_is_no_key_is_refused_and_kept(tmp_path, content):
    file = tmp_path / "k"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(DeptbusError, match="no private key"):
        ensure_key(file)
    assert file.read_bytes() == content


def test_a_key_cannot_be_made_where_there_is_no_folder(tmp_path, capsys):
    assert run(["certificate", "key", "--certificate-key", str(tmp_path / "no" / "k")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_no_key_named_is_said(monkeypatch, capsys):
    monkeypatch.delenv("DEPTBUS_CERTIFICATE_KEY", raising=False)
    assert run(["certificate", "key"]) == 2
    assert "--data" in capsys.readouterr().err


def test_who_has_the_public_key_verifies(tmp_path, signed, capsys):
    file = signed()
    assert verify(tmp_path, file, "--unit", "housing@330106", "--equal") == 0
    assert "genuine: housing@330106" in capsys.readouterr().out
    assert verify(tmp_path, file, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["unit"] == "housing@330106"
    assert run(["certificate", "verify", file, "--data", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    "asked", [("--unit", "health@330106"), ("--dataset", "house"), ("--contract", "00" * 32)]
)
def test_one_made_for_something_else_is_refused(tmp_path, signed, asked, capsys):
    assert verify(tmp_path, signed(), *asked) == 1
    assert "other" in capsys.readouterr().err


def test_one_made_under_the_contract_in_a_folder_is_known(tmp_path, signed):
    from deptbus.contract.bundled import bundled
    from deptbus.contract.load import load

    folder = bundled()
    file = signed(contract=load(folder).digest)
    assert verify(tmp_path, file, "--contract", str(folder)) == 0


def test_an_altered_one_is_refused(tmp_path, signed, capsys):
    file = signed()
    (tmp_path / "certificate.json").write_bytes(
        (tmp_path / "certificate.json").read_bytes().replace(b"housing@330106", b"housing@330105")
    )
    assert verify(tmp_path, file) == 1
    assert "altered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (Proof(dataset="d", leg="copy", cut={}, differences={"missing": 12}), "12 differences"),
        (Proof(dataset="d", leg="copy", cut={}, could_not_tell="a job is open"), "could not tell"),
    ],
)
def test_a_genuine_one_that_is_not_equal_is_shown_and_refused_when_equal_is_asked(
    tmp_path, signed, proof, said, capsys
):
    file = signed(proofs=(proof,))
    assert verify(tmp_path, file) == 0
    assert said in capsys.readouterr().out
    assert verify(tmp_path, file, "--equal") == 1
    assert said in capsys.readouterr().err


def test_what_cannot_be_read_could_not_be_done(tmp_path, signed):
    file = signed()
    assert verify(tmp_path, str(tmp_path / "absent")) == 2
    assert run(["certificate", "verify", file, "--public-key", str(tmp_path / "absent")]) == 2
    assert run(["certificate", "verify", file, "--public-key", file]) == 2

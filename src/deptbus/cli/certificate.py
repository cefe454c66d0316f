"""`deptbus certificate`: verify what a proof left behind, and keep the key that signs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import CertificateKey, Data, Output, OutputOption
from deptbus.errors import DeptbusError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from deptbus.proof.certificate import Certificate

app = typer.Typer(help="Verify certificates of proofs; keep their key.", no_args_is_help=True)

_HEX_DIGEST = 64


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The certificate.")],
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", help="The office's public key; else that of --certificate-key, --data."
        ),
    ] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", help="Refuse one of another unit, `line@territory`.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Refuse one that does not name this dataset.")
    ] = None,
    contract: Annotated[
        str | None,
        typer.Option("--contract", help="Refuse one of another contract: its folder or digest."),
    ] = None,
    equal: Annotated[
        bool, typer.Option("--equal", help="Refuse one that names differences or could not tell.")
    ] = False,
    key: CertificateKey = None,
    data: Data = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say whether a certificate is genuine, unaltered and of what was asked for, and show it.

    Needs no bus. Exit code 1 when it is refused, with the reason.
    """
    from deptbus.proof.certificate import CertificateRefused, check_is_for
    from deptbus.proof.certificate import verify as verified

    certificate = verified(read_file(file), public_key_of(public_key, data, key))
    check_is_for(
        certificate,
        unit=unit,
        dataset=dataset,
        contract=None if contract is None else _contract_digest(contract),
    )
    if equal and not certificate.is_equal:
        raise CertificateRefused(f"the certificate is genuine and says: {_verdict(certificate)}")
    if output is Output.JSON:
        print(json.dumps(certificate.model_dump(mode="json"), ensure_ascii=False))
    else:
        _print(certificate)


@app.command("key")
def show_key(
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="Write the public key to this file, too.")
    ] = None,
    key: CertificateKey = None,
    data: Data = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the public key that others verify certificates with; makes the key when there is none.

    The key itself is never printed. Who has it can sign in the office's name; who loses it signs
    with another from then on, and verifies older certificates with the old public key.
    """
    from deptbus.operations.certificate_key import ensure_key, key_path, public_pem
    from deptbus.proof.certificate import fingerprint

    path = key_path(data, key)
    private_key, was_made = ensure_key(path)
    pem, name = public_pem(private_key), fingerprint(private_key.public_key())
    if public_key is not None:
        _write(public_key, pem)
    if output is Output.JSON:
        document = {"file": str(path), "fingerprint": name, "public_key": pem.decode()}
        print(json.dumps(document | {"made": was_made}))
    else:
        print(f"{'made' if was_made else 'kept'} in {path}", f"fingerprint {name}", sep="\n")
        print(pem.decode(), end="")


def public_key_of(file: Path | None, data: Path | None, key: Path | None) -> Ed25519PublicKey:
    from deptbus.operations.certificate_key import key_path, read_key, read_public_key

    if file is not None:
        return read_public_key(file)
    if data is None and key is None:
        raise DeptbusError(
            "no key to verify with",
            mend="Give --public-key FILE, as `deptbus certificate key` wrote it",
        )
    return read_key(key_path(data, key)).public_key()


def _contract_digest(text: str) -> str:
    from deptbus.contract.load import load

    if len(text) == _HEX_DIGEST and all(letter in "0123456789abcdef" for letter in text):
        return text
    return load(Path(text)).digest


def read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DeptbusError(f"{file} cannot be read ({error.strerror})") from None


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise DeptbusError(f"{file} cannot be written ({error.strerror})") from None


def _verdict(certificate: Certificate) -> str:
    if not certificate.could_tell:
        return "could not tell"
    if certificate.held:
        return (
            f"{certificate.differences} differences, and {certificate.held} keys are held at their "
            "source"
        )
    return f"{certificate.differences} differences" if certificate.differences else "equal"


def _print(certificate: Certificate) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        escape(
            f"genuine: {certificate.unit}, {certificate.made_at:%Y-%m-%d %H:%M:%S %z} by "
            f"{certificate.operator}\n"
            f"policy {certificate.policy}, contract {certificate.contract}, "
            f"cluster {certificate.cluster}"
        )
    )
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("dataset", "leg", "table of", "rows on the bus", "rows there", "result", "cut"):
        table.add_column(heading, overflow="fold")
    for proof in certificate.proofs:
        rows = [f"{side.rows:,}" if side is not None else "" for side in (proof.bus, proof.other)]
        result = proof.could_not_tell or ", ".join(
            f"{count:,} {name}" for name, count in sorted(proof.differences.items()) if count
        )
        cut = " ".join(f"{topic} {list(ends)}" for topic, ends in sorted(proof.cut.items()))
        leg = f"{proof.leg}, deep" if proof.deep else proof.leg
        of = f"{proof.unit or certificate.unit} {proof.system}".rstrip()
        table.add_row(*map(escape, (proof.dataset, leg, of, *rows, result or "equal", cut)))
    console.print(table)
    console.print(_verdict(certificate))

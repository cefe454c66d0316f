"""The office's key that signs certificates: a file for its owner alone, made when there is none."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from deptbus.errors import DeptbusError
from deptbus.names import CERTIFICATE_KEY, CERTIFICATE_KEY_FILE

_NOT_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def key_path(data: Path | None, key: Path | None) -> Path:
    """The file that is meant: `key`, else that of the bus in folder `data`. Raises DeptbusError."""
    if key is not None:
        return key
    if data is None:
        raise DeptbusError(
            "no key that signs certificates is named",
            mend=f"Give --certificate-key FILE or --data DIR, or set {CERTIFICATE_KEY}",
        )
    return data / CERTIFICATE_KEY_FILE


def ensure_key(path: Path) -> tuple[Ed25519PrivateKey, bool]:
    """The key in this file (PEM, mode 600), made when there is none; True when it was.

    Made whole and without a moment in which others may read it, and never replaced: certificates
    that were signed with it would have no key any more. Raises DeptbusError.
    """
    if path.exists():
        return read_key(path), False
    private_key = Ed25519PrivateKey.generate()
    pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)  # unlike a rename this does not replace what another has made
        finally:
            part.unlink()
    except FileExistsError:
        return read_key(path), False
    except OSError as error:
        raise DeptbusError(
            f"the key {path} cannot be written ({error.strerror})",
            mend="Make its folder and let it be written to, or name another by --certificate-key",
        ) from None
    return private_key, True


def read_key(path: Path) -> Ed25519PrivateKey:
    """Raises DeptbusError where it is none, or where others may read it."""
    if _mode(path) & _NOT_FOR_OTHERS:
        raise DeptbusError(
            f"others may read the key {path}", mend=f"Let only its owner: chmod 600 {path}"
        )
    found = None
    # Told below, outside: the parser's message may quote the key.
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        found = load_pem_private_key(_bytes(path), password=None)
    if not isinstance(found, Ed25519PrivateKey):
        raise DeptbusError(
            f"{path} is no private key for Ed25519 without a password",
            mend="Name the file that `deptbus certificate key` made",
        )
    return found


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Of a file in PEM form. Raises DeptbusError."""
    found = None
    with suppress(ValueError, UnsupportedAlgorithm):
        found = load_pem_public_key(_bytes(path))
    if not isinstance(found, Ed25519PublicKey):
        raise DeptbusError(
            f"{path} is no public key for Ed25519",
            mend="Ask the data office for what `deptbus certificate key` prints",
        )
    return found


def public_pem(private_key: Ed25519PrivateKey) -> bytes:
    """What may be given to everybody, in PEM form."""
    public_key = private_key.public_key()
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> DeptbusError:
    return DeptbusError(f"the key {path} cannot be read ({error.strerror})")

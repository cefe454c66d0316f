"""TLS to the brokers: the context of a client, and what a handshake that fails means to whoever has
to mend it, in one line each. Kafka's clients say "SSL handshake failed" or nothing at all.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from deptbus.errors import BusRefused, DeptbusError

PROBE_SECONDS = 3.0

# Of OpenSSL, x509_vfy.h.
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}
_OTHER_NAME = {62, 64}
_SETTINGS = "docs/contract.md, section 'Reaching the bus'"


def client_context(
    ca_file: Path | None, certificate_file: Path | None, key_file: Path | None
) -> ssl.SSLContext:
    """Checks brokers by `ca_file` (None: the system's authorities), by name too. Raises
    DeptbusError that names the file which cannot be used."""
    for setting, path in (
        ("ssl_ca_file", ca_file),
        ("ssl_certificate_file", certificate_file),
        ("ssl_key_file", key_file),
    ):
        if path is not None:
            _check_readable(setting, path)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise DeptbusError(
            f"ssl_ca_file {ca_file} holds no certificate", mend="Give the authority's, as PEM"
        ) from None
    if certificate_file is not None:
        try:
            context.load_cert_chain(certificate_file, key_file, password=_no_password)
        except (ssl.SSLError, _Locked) as error:
            raise DeptbusError(
                f"ssl_certificate_file {certificate_file} cannot be used with its key: "
                f"{_word_of(error)}",
                mend="Give certificate and key as PEM, the key without a password",
            ) from None
    return context


class _Locked(Exception):
    """The key asks for a password, which OpenSSL would ask of the terminal."""

    def __str__(self) -> str:
        return "the key has a password"


def _no_password() -> str:
    raise _Locked


def _word_of(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)


def _check_readable(setting: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise DeptbusError(
            f"{setting} {path} cannot be read: {error.strerror}", mend=f"See {_SETTINGS}"
        ) from None


def trouble_at(
    bootstrap: str, make_context: Callable[[], ssl.SSLContext] | None, own: Path | None
) -> BusRefused | None:
    """Why no client gets through to any of these brokers, as far as TLS is the reason; None when it
    is not, or nothing answers. Blocks for at most PROBE_SECONDS an address.

    `make_context` None: the client speaks no TLS. `own`: its own certificate's file.
    """
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        with suppress(OSError, ValueError):  # it does not answer: that is another reason
            plain = socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS)
            with plain:
                if make_context is None:
                    found = _speaks_tls(plain, address)
                else:
                    found = _handshake(plain, host.strip("[]"), address, make_context())
                if found is not None:
                    return found
    return _own_expired(own) if own is not None else None


def _handshake(
    plain: socket.socket, host: str, address: str, context: ssl.SSLContext
) -> BusRefused | None:
    try:
        with context.wrap_socket(plain, server_hostname=host):
            return None
    except ssl.SSLError as error:
        return refusal(error, address)


def _speaks_tls(plain: socket.socket, address: str) -> BusRefused | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(plain):
            pass
    except ssl.SSLError:
        return None
    return BusRefused(
        f"the broker at {address} speaks TLS, and this client does not",
        mend="Set security_protocol to SSL or SASL_SSL",
    )


def refusal(error: ssl.SSLError, address: str) -> BusRefused:
    """Pure: what an error of a handshake means."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return BusRefused(
            f"the broker at {address} does not speak TLS as this client does ({_word_of(error)})",
            mend="Check the port, and security_protocol",
        )
    whose = f"the certificate of the broker at {address}"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        state = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return BusRefused(
            f"{whose} {state}", mend="Give the broker a new one, or check this machine's clock"
        )
    if error.verify_code in _UNKNOWN_ISSUER:
        return BusRefused(
            f"{whose} is not by an authority that is known here",
            mend="Name the authority's own certificate by ssl_ca_file",
        )
    if error.verify_code in _OTHER_NAME:
        return BusRefused(
            f"{whose} is made out to another name",
            mend="Name the broker as its certificate does, or have a new one made",
        )
    return BusRefused(f"{whose} is refused: {error.verify_message}", mend=f"See {_SETTINGS}")


def _own_expired(path: Path) -> BusRefused | None:
    """A broker that refuses our certificate says so behind the handshake, by hanging up."""
    from cryptography import x509  # slow to import, and needed where something is wrong only

    try:
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
    if ends > datetime.now(UTC):
        return None
    return BusRefused(
        f"our own certificate {path} has expired ({ends:%Y-%m-%d})",
        mend="Have a new one made, and name it by ssl_certificate_file",
    )

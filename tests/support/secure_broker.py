"""One broker that lets in whom it knows only: TLS with SCRAM-SHA-512, certificates that are good,
expired, made out to somebody else; mutual TLS; and the plain listener by which users are made.

Certificates are made when it starts, by an authority of its own.
"""

from __future__ import annotations

import ipaddress
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.lifeline import bound
from deptbus.cluster.ports import LOOPBACK, free_port
from deptbus.connection import Connection

START_SECONDS = 90.0
ADMIN = "admin"
LISTENERS = ("SECURE", "EXPIRED", "STRANGER", "MUTUAL")


class Authority:
    """Signs certificates; `file` is its own."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        made = self._builder(self._name, self._name, self._key.public_key(), days=30)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.file.write_bytes(_pem(made.sign(self._key, hashes.SHA256())))

    def certificate(
        self, name: str, *, days: int = 30, address: str = LOOPBACK
    ) -> tuple[Path, Path]:
        """(certificate, key) as files; `days` from now on, or ago: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(subject, self._name, key.public_key(), days=days)
        there = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        made = made.add_extension(there, critical=False)
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        files[0].write_bytes(_pem(made.sign(self._key, hashes.SHA256())))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    @staticmethod
    def _builder(
        subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class SecureBroker:
    """`with SecureBroker(folder) as broker`; from the main thread."""

    def __init__(self, folder: Path) -> None:
        self._broker = EmbeddedBroker(folder / "broker", free_port())
        self.authority = Authority(folder / "certificates", "authority")
        self._ports = dict(zip(LISTENERS, _ports(len(LISTENERS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def plain(self) -> Connection:
        """Who comes by this may do everything."""
        return self._broker.connection

    def address(self, listener: str = "SECURE") -> str:
        return f"{LOOPBACK}:{self._ports[listener]}"

    def connection(self, user: str, password: str | None = None) -> Connection:
        return Connection(
            bootstrap=self.address(),
            security_protocol="SASL_SSL",
            sasl_username=user,
            sasl_password=password if password is not None else password_of(user),  # type: ignore[arg-type]
            ssl_ca_file=self.authority.file,
        )

    def add_users(self, *users: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.plain.bootstrap, "log_level": 0})
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        wanted = [
            UserScramCredentialUpsertion(user, how, password_of(user).encode()) for user in users
        ]
        for made in admin.alter_user_scram_credentials(wanted).values():
            made.result(30)

    def __enter__(self) -> SecureBroker:
        argv = self._broker.prepare()
        file = Path(argv[-1])
        settings = dict(line.split("=", 1) for line in file.read_text("utf-8").splitlines())
        file.write_text("".join(f"{n}={v}\n" for n, v in self._secured(settings)), "utf-8")
        with self._broker.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                bound(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._broker.is_ready():
            assert self._process.poll() is None, self._broker.log_file.read_text("utf-8")[-3000:]
            assert time.monotonic() < deadline, "the broker is not ready"
            time.sleep(0.1)
        self.add_users(ADMIN)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        self._broker.release()

    def _secured(self, settings: dict[str, str]) -> Iterator[tuple[str, str]]:
        certificates = {
            "SECURE": self.authority.certificate("broker"),
            "EXPIRED": self.authority.certificate("expired", days=-1),
            "STRANGER": self.authority.certificate("stranger", address="192.0.2.1"),
            "MUTUAL": self.authority.certificate("mutual"),
        }
        more = ",".join(f"{name}://{self.address(name)}" for name in LISTENERS)
        for name in ("listeners", "advertised.listeners"):
            settings[name] += f",{more}"
        for name in LISTENERS:
            is_mutual = name == "MUTUAL"
            settings["listener.security.protocol.map"] += f",{name}:" + (
                "SSL" if is_mutual else "SASL_SSL"
            )
            store = certificates[name][0].with_suffix(".store")
            store.write_bytes(b"".join(part.read_bytes() for part in reversed(certificates[name])))
            prefix = f"listener.name.{name.lower()}."
            settings[f"{prefix}ssl.keystore.type"] = "PEM"
            settings[f"{prefix}ssl.keystore.location"] = str(store)
            if is_mutual:
                settings[f"{prefix}ssl.client.auth"] = "required"
                settings[f"{prefix}ssl.truststore.type"] = "PEM"
                settings[f"{prefix}ssl.truststore.location"] = str(self.authority.file)
            else:
                settings[f"{prefix}scram-sha-512.sasl.jaas.config"] = (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                )
        settings |= {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:ANONYMOUS;User:{ADMIN}",
        }
        yield from settings.items()


def password_of(user: str) -> str:
    return f"password of {user}"


def _ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)

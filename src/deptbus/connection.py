"""How to reach the bus: one settings object, turned into the words of each Kafka client.

Settings come, in this order, from arguments, a client file of `name=value` lines
(`DEPTBUS_CLIENT_FILE`) and the environment (`DEPTBUS_BOOTSTRAP`, `DEPTBUS_SASL_USERNAME`, ...).
"""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from deptbus.errors import BusRefused, DeptbusError
from deptbus.tls import client_context, trouble_at

RUN_FILE = "run.json"
_ENVIRONMENT = "DEPTBUS_"


class Connection(BaseModel):
    """Where the brokers are and who we are to them; values are those of Kafka's own settings. What
    is not given is taken from the environment."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    bootstrap: str = Field(description="host:port of one or more brokers, comma separated")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_file: Path | None = None
    ssl_certificate_file: Path | None = None
    ssl_key_file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        found = {name: os.environ.get(f"{_ENVIRONMENT}{name.upper()}") for name in cls.model_fields}
        return {name: value for name, value in found.items() if value is not None} | given

    def aiokafka(self) -> dict[str, Any]:
        """Keyword arguments that every aiokafka client takes. Raises as `ssl_context`."""
        words: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.startswith("SASL"):
            words |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self._password(),
            }
        if self.security_protocol.endswith("SSL"):
            words["ssl_context"] = self.ssl_context()
        return words

    def librdkafka(self) -> dict[str, Any]:
        """Configuration of a confluent-kafka client (administration only). Raises DeptbusError that
        names a file which cannot be used."""
        if self.security_protocol.endswith("SSL"):
            self.ssl_context()  # says which file is wrong; librdkafka says "Local: SSL error"
        words: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.security_protocol,
        }
        if self.security_protocol.startswith("SASL"):
            words |= {
                "sasl.mechanism": self.sasl_mechanism,
                "sasl.username": self.sasl_username,
                "sasl.password": self._password(),
            }
        for name, path in (
            ("ssl.ca.location", self.ssl_ca_file),
            ("ssl.certificate.location", self.ssl_certificate_file),
            ("ssl.key.location", self.ssl_key_file),
        ):
            if path is not None:
                words[name] = str(path)
        return words

    def environment(self) -> dict[str, str]:
        """The same settings as environment variables, for a child process."""
        words = {
            f"{_ENVIRONMENT}{name.upper()}": str(value)
            for name, value in self.model_dump().items()
            if value is not None and name != "sasl_password"
        }
        if self.sasl_password is not None:
            words["DEPTBUS_SASL_PASSWORD"] = self._password()
        return words

    def ssl_context(self) -> ssl.SSLContext:
        """Raises DeptbusError that names the file which cannot be used."""
        return client_context(self.ssl_ca_file, self.ssl_certificate_file, self.ssl_key_file)

    def tls_trouble(self) -> BusRefused | None:
        """Why none of the brokers lets us in, as far as TLS is the reason. Blocks for seconds."""
        has_tls = self.security_protocol.endswith("SSL")
        own = self.ssl_certificate_file if has_tls else None
        return trouble_at(self.bootstrap, self.ssl_context if has_tls else None, own)

    def _password(self) -> str:
        return "" if self.sasl_password is None else self.sasl_password.get_secret_value()


def find_connection(
    *, data: Path | None = None, bootstrap: str | None = None, client_file: Path | None = None
) -> Connection:
    """The bus that a command means: `--bootstrap`, else `--data DIR`, else the client file's, else
    the environment's.

    Raises DeptbusError that says how to start a bus when none is named.
    """
    words: dict[str, Any] = {}
    if client_file is not None:
        words |= _client_file(client_file)
    if bootstrap is not None:
        words["bootstrap"] = bootstrap
    elif data is not None:
        words["bootstrap"] = _run_file(data)["bootstrap"]
    try:
        return Connection(**words)
    except ValidationError as error:
        missing = {e["loc"][0] for e in error.errors() if e["type"] == "missing"}
        if "bootstrap" in missing:
            raise DeptbusError(
                "no bus named",
                mend="Give --data DIR or --bootstrap HOST:PORT, set DEPTBUS_BOOTSTRAP, "
                "or start one with `deptbus up --embedded --data DIR`",
            ) from None
        first = error.errors()[0]
        raise DeptbusError(
            f"setting {first['loc'][0]}: {first['msg']}",
            mend="See docs/contract.md, section 'Reaching the bus'",
        ) from None


def _run_file(data: Path) -> dict[str, Any]:
    path = data / RUN_FILE
    mend = f"Start one with `deptbus up --embedded --data {data}`"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        brokers = [p["pid"] for p in content["processes"] if p["name"] == "broker"]
    except FileNotFoundError:
        raise DeptbusError(f"no bus runs in {data}", mend=mend) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DeptbusError(f"{path} cannot be read: {error}", mend="Start the bus anew") from None
    if not any(map(_is_alive, brokers)):
        # Left behind by an `up` that was killed: it could not remove it.
        raise DeptbusError(f"no bus runs in {data} any more", mend=mend)
    return content


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it runs as another user
    return True


def lines_of(path: Path, called: str) -> list[str]:
    """The lines of a small file of settings; `called` says what it is. Raises DeptbusError."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DeptbusError(f"{called} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DeptbusError(
            f"{called} {path} is not UTF-8 (byte {error.start + 1})", mend="Save it as UTF-8"
        ) from None


def _client_file(path: Path) -> dict[str, str]:
    """`name=value` lines, `#` comments; names as in Connection, dots and dashes as underscores."""
    words: dict[str, str] = {}
    lines = lines_of(path, "client file")
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        name = name.strip().lower().replace(".", "_").replace("-", "_")
        if not equals or name not in Connection.model_fields:
            raise DeptbusError(
                f"{path}:{number}: not a setting of a client file",
                mend=f"One of: {', '.join(sorted(Connection.model_fields))}",
            )
        value = value.strip()
        # A file that a client file names lies beside it, from wherever the command is started.
        words[name] = str(path.absolute().parent / value) if name.endswith("_file") else value
    return words

"""What the console is told: where it listens, who may come in, whose keys it has.

From a YAML file (`--config console.yml`), and from options, which win. Where it may be reached from
other machines is refused without TLS: passwords and sessions would cross the network in clear.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from deptbus.console.roles import Role
from deptbus.errors import DeptbusError
from deptbus.metrics.address import address_of

DEFAULT_LISTEN = "127.0.0.1:8420"
_PAGE = "See docs/console.md, section 'Settings'"


class OpenId(BaseModel):
    """A provider of OpenID Connect. Roles: value of the claim -> role here; others come in not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str
    client_id: str
    client_secret_file: Path | None = None
    title: str = "OpenID Connect"
    scopes: tuple[str, ...] = ("openid", "profile")
    name_claim: str = "preferred_username"
    role_claim: str = "roles"
    roles: Mapping[str, Role] = Field(min_length=1)
    unit_claim: str = "unit"  # of clerks

    def secret(self) -> SecretStr | None:
        if self.client_secret_file is None:
            return None
        try:
            return SecretStr(self.client_secret_file.read_text(encoding="utf-8").strip())
        except OSError as error:
            raise DeptbusError(
                f"{self.client_secret_file} cannot be read: {error.strerror}"
            ) from None


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str = DEFAULT_LISTEN
    # As people type it, behind a proxy that ends TLS: https://console.example
    public_url: str | None = None
    trusted_proxies: tuple[str, ...] = ()  # whose X-Forwarded-For is believed
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    accounts: Path | None = None
    openid: OpenId | None = None
    # Files department.yml of units whose records may be looked for by their natural key here.
    departments: tuple[Path, ...] = ()
    tickets: Path | None = None  # folder of one-time tickets: of a bus on this machine

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def has_tls(self) -> bool:
        return self.tls_certificate is not None

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach it by https."""
        return self.has_tls or (self.public_url or "").startswith("https://")

    @property
    def is_loopback(self) -> bool:
        return self.host == "localhost" or _is_loopback(self.host)

    @property
    def base_url(self) -> str:
        """Without a slash at its end."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.has_tls else 'http'}://{host}:{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        """What a request may name as its host; anything else is another name that was pointed at
        us (DNS rebinding)."""
        names = {urlsplit(self.base_url).netloc}
        if self.is_loopback:
            names |= {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        return frozenset(name.lower() for name in names)

    def check(self) -> None:
        """Raises DeptbusError that says what does not go together."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise DeptbusError("tls_certificate and tls_key belong together", mend=_PAGE)
        if self.public_url is not None:
            parts = urlsplit(self.public_url)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
                raise DeptbusError(
                    "public_url is not the address of a console",
                    mend="Write it as https://console.example, without a path",
                )
        if not self.is_loopback and not self.is_secure:
            raise DeptbusError(
                f"{self.listen} can be reached from other machines, and passwords would cross the "
                "network in clear",
                mend="Give tls_certificate and tls_key, or public_url: https://... of the proxy "
                "that stands before it",
            )
        if self.accounts is None and self.openid is None and self.tickets is None:
            raise DeptbusError(
                "nobody could log in",
                mend="Name an accounts file (`--accounts FILE`; `deptbus console account add` "
                "makes it), or openid: in the settings",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(path: Path | None, **given: Any) -> Settings:
    """From the file, and what is given beside it, which wins where it is not None. Paths in the
    file are relative to its folder. Raises DeptbusError."""
    words: dict[str, Any] = {}
    if path is not None:
        try:
            words = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise DeptbusError(f"{path} cannot be read ({type(error).__name__})") from None
        if not isinstance(words, dict):
            raise DeptbusError(f"{path} is not a file of settings", mend=_PAGE)
        words = _with_paths(words, path.absolute().parent)
    words |= {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings(**words)
        address_of(settings.listen)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DeptbusError(f"setting {where}: {first['msg']}", mend=_PAGE) from None
    except DeptbusError:
        raise DeptbusError(f"setting listen: {words.get('listen')!r}", mend="HOST:PORT") from None
    settings.check()
    return settings


def _with_paths(words: dict[str, Any], base: Path) -> dict[str, Any]:
    found = dict(words)
    for name in ("tls_certificate", "tls_key", "accounts"):
        if isinstance(found.get(name), str):
            found[name] = base / found[name]
    if isinstance(found.get("departments"), list):
        found["departments"] = [base / str(one) for one in found["departments"]]
    openid = found.get("openid")
    if isinstance(openid, dict) and isinstance(openid.get("client_secret_file"), str):
        found["openid"] = {**openid, "client_secret_file": base / openid["client_secret_file"]}
    return found

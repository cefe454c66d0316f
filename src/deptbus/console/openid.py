"""OpenID Connect: the code flow with PKCE, state and nonce, by authlib; roles by a claim.

Nothing of it is imported where no provider is configured. The provider's addresses come from its
discovery document, which has to name the very issuer that is configured. An ID token counts only
when one of the provider's keys signed it, for this client, in answer to this very request.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oidc.core import CodeIDToken
from httpx2 import AsyncClient, HTTPError
from joserfc import jwk, jwt
from joserfc.errors import JoseError
from starlette.responses import RedirectResponse, Response

from deptbus.console.accounts import checked_name
from deptbus.console.login import address_of, come_in
from deptbus.console.roles import Person, Role, person_of
from deptbus.console.settings import OpenId
from deptbus.console.visit import Visit, local_path
from deptbus.errors import DeptbusError

log = structlog.get_logger(__name__)

_ANSWER_SECONDS = 600.0  # within which the provider has to send the person back
_KEYS_SECONDS = 600.0
_TIMEOUT_SECONDS = 10.0
_MOST_OPEN = 1000
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
_LEEWAY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class _Begun:
    """One log-in that waits for the provider's answer; it is for the browser that began it."""

    cookie: str
    verifier: str
    nonce: str
    following: str
    began_at: float


class Provider:
    """One provider, and the log-ins that are under way. `redirect_uri`: our own address."""

    def __init__(self, settings: OpenId, redirect_uri: str) -> None:
        self._settings, self._redirect_uri = settings, redirect_uri
        self.title = settings.title
        self._begun: dict[str, _Begun] = {}
        self._metadata: dict[str, Any] = {}
        self._keys: jwk.KeySet | None = None
        self._keys_at = float("-inf")

    async def begin(self, visit: Visit) -> Response:
        """Sends the browser to the provider. A POST, so that no other page can begin it."""
        try:
            metadata = await self._discover()
        except (HTTPError, ValueError, KeyError, TypeError) as error:
            return self._refuse(visit, "provider_away", error)
        now = time.monotonic()
        self._begun = {s: b for s, b in self._begun.items() if now - b.began_at < _ANSWER_SECONDS}
        while len(self._begun) >= _MOST_OPEN:
            self._begun.pop(next(iter(self._begun)))
        state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        begun = _Begun(
            visit.cookie, generate_token(64), nonce, local_path(visit.form.one("next")), now
        )
        async with self._client() as client:
            url, _ = client.create_authorization_url(
                metadata["authorization_endpoint"],
                state=state,
                nonce=nonce,
                code_verifier=begun.verifier,
            )
        self._begun[state] = begun
        return RedirectResponse(url, 303)

    async def come_back(self, visit: Visit) -> Response:
        """The provider's answer. Every state is good for one answer, of the browser that asked."""
        state = visit.query.get("state", "")
        begun = self._begun.pop(state, None)
        if (
            begun is None
            or not secrets.compare_digest(begun.cookie.encode(), visit.cookie.encode())
            or time.monotonic() - begun.began_at > _ANSWER_SECONDS
        ):
            return self._refuse(visit, "state")
        if "code" not in visit.query:
            return self._refuse(visit, "provider_refused")
        try:
            claims = await self._claims(visit.query["code"], begun)
        except (OAuthError, JoseError, HTTPError, ValueError, KeyError) as error:
            return self._refuse(visit, "token", error)
        try:
            person = person_of_claims(self._settings, claims)
        except (DeptbusError, ValueError) as error:
            return self._refuse(visit, "no_role", error)
        return come_in(visit, person, begun.following)

    async def _claims(self, code: str, begun: _Begun) -> CodeIDToken:
        metadata = await self._discover()
        async with self._client() as client:
            token = await client.fetch_token(
                metadata["token_endpoint"], code=code, code_verifier=begun.verifier
            )
        id_token = token["id_token"]
        try:
            decoded = jwt.decode(id_token, await self._key_set(), algorithms=list(_ALGORITHMS))
        except (JoseError, ValueError):
            self._keys_at = float("-inf")  # a provider may have changed its keys: once more
            decoded = jwt.decode(id_token, await self._key_set(), algorithms=list(_ALGORITHMS))
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            {
                "iss": {"essential": True, "value": self._settings.issuer},
                "aud": {"essential": True, "value": self._settings.client_id},
            },
            {
                "nonce": begun.nonce,
                "client_id": self._settings.client_id,
                "access_token": token.get("access_token"),
            },
        )
        claims.validate(leeway=_LEEWAY_SECONDS)
        return claims

    async def _discover(self) -> dict[str, Any]:
        if not self._metadata:
            issuer = self._settings.issuer.rstrip("/")
            async with AsyncClient(timeout=_TIMEOUT_SECONDS) as client:
                answer = await client.get(f"{issuer}/.well-known/openid-configuration")
                answer.raise_for_status()
                found = answer.json()
            if found["issuer"] != self._settings.issuer:
                raise ValueError("the discovery document is of another issuer")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                _check_address(str(found[name]), self._settings.issuer)
            self._metadata = found
        return self._metadata

    async def _key_set(self) -> jwk.KeySet:
        if self._keys is None or time.monotonic() - self._keys_at > _KEYS_SECONDS:
            metadata = await self._discover()
            async with AsyncClient(timeout=_TIMEOUT_SECONDS) as client:
                answer = await client.get(metadata["jwks_uri"])
                answer.raise_for_status()
                self._keys = jwk.KeySet.import_key_set(answer.json())
            self._keys_at = time.monotonic()
        return self._keys

    def _client(self) -> AsyncOAuth2Client:
        secret = self._settings.secret()
        return AsyncOAuth2Client(
            self._settings.client_id,
            None if secret is None else secret.get_secret_value(),
            token_endpoint_auth_method="none" if secret is None else "client_secret_basic",
            scope=" ".join(self._settings.scopes),
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_SECONDS,
        )

    def _refuse(self, visit: Visit, why: str, error: Exception | None = None) -> Response:
        """The log names kinds of errors, never what a provider or a browser sent."""
        log.warning(
            "openid_refused",
            why=why,
            error=None if error is None else type(error).__name__,
            address=address_of(visit.request),
        )
        return visit.redirect("/login", refused=why)


def _check_address(address: str, issuer: str) -> None:
    """What the provider names is asked by TLS as the provider itself is, or is on its own host."""
    parts, home = urlsplit(address), urlsplit(issuer)
    if parts.scheme != home.scheme or (parts.scheme != "https" and parts.netloc != home.netloc):
        raise ValueError("the discovery document names an address without TLS")


def person_of_claims(settings: OpenId, claims: dict[str, Any]) -> Person:
    """By the mapping of the settings; values of the claim that it does not have count for nothing.
    Raises ValueError where nothing is left, DeptbusError where the name cannot be one."""
    name = checked_name(str(claims.get(settings.name_claim) or claims["sub"]))
    given = claims.get(settings.role_claim)
    values = given if isinstance(given, list) else [given]
    roles: frozenset[Role] = frozenset(
        settings.roles[v] for v in values if isinstance(v, str) and v in settings.roles
    )
    unit = claims.get(settings.unit_claim)
    is_clerk = roles == {Role.CLERK}
    return person_of(name, roles, unit if is_clerk and isinstance(unit, str) else "")

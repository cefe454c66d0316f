"""A provider of OpenID Connect on the loopback: keeps to the standard, unless told to cheat."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from joserfc import jwk, jwt

CLIENT, SECRET = "deptbus", "a secret of the client"


@cache
def rsa_key(number: int) -> jwk.RSAKey:
    """Made once: it takes long. All have one name, so that a name alone proves nothing."""
    return jwk.RSAKey.generate_key(2048, {"kid": "k1"}, auto_kid=False)


@dataclass
class OpenIdProvider:
    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=dict)  # of whoever logs in
    cheat: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
    signs_with: jwk.RSAKey | None = None  # None: the key that it publishes
    key: jwk.RSAKey = field(default_factory=lambda: rsa_key(1))
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)  # to authorize

    def authorize(self, query: dict[str, str]) -> str:
        """As if the person had just given his password there: where the browser is sent."""
        self.asked.append(query)
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        begun = self.codes.pop(form.get("code", ""), None)
        if authorization != f"Basic {basic}" or begun is None:
            return 401, {"error": "invalid_client"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        same = form.get("redirect_uri") == begun["redirect_uri"]
        if begun.get("code_challenge_method") != "S256" or challenge != begun["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        if not same:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT, "sub": "4711", "iat": now, "exp": now + 300,
            "nonce": begun["nonce"], **self.claims,
        }  # fmt: skip
        key = self.signs_with or self.key
        signed = jwt.encode({"alg": "RS256", "kid": "k1"}, self.cheat(claims), key)
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": signed}

    def document(self) -> dict[str, str]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }


@contextmanager
def openid_provider() -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/.well-known/openid-configuration":
                self.answer(200, provider.document())
            elif parts.path == "/keys":
                keys = jwk.KeySet([provider.key])
                self.answer(200, keys.as_dict(private=False))
            elif parts.path == "/authorize":
                self.send_response(302)
                self.send_header("Location", provider.authorize(dict(parse_qsl(parts.query))))
                self.end_headers()
            else:
                self.answer(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self.answer(*provider.token(form, self.headers.get("authorization", "")))

        def answer(self, status: int, document: Any) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.issuer = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()

"""OpenID Connect against a provider of our own on the loopback: what is right comes in, what is
forged, replayed, stale or another's does not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from console_world import HOUSING, World, console_world, token_of
from openid_provider import CLIENT, SECRET, OpenIdProvider, openid_provider, rsa_key
from starlette.testclient import TestClient

from deptbus.console import openid
from deptbus.console.openid import person_of_claims
from deptbus.console.roles import Role
from deptbus.console.settings import OpenId
from deptbus.errors import DeptbusError

ROLES = {"ops": Role.OPERATOR, "audit": Role.AUDITOR, "clerks": Role.CLERK}


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    with openid_provider() as made:
        made.claims = {"preferred_username": "olga", "roles": ["ops", "something else"]}
        yield made


@pytest.fixture
def world(provider: OpenIdProvider, tmp_path: Path) -> World:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n", encoding="utf-8")
    return console_world(
        openid=OpenId(
            issuer=provider.issuer, client_id=CLIENT, client_secret_file=secret, roles=ROLES
        )
    )


def begin(world: World) -> tuple[TestClient, str]:
    """A browser, and the address of the provider that it was sent to."""
    browser = world.browser()
    token = token_of(browser.get("/login").text)
    answer = browser.post("/openid/begin", data={"csrf": token, "next": "/lag"})
    assert answer.status_code == 303
    return browser, answer.headers["location"]


def come_back(provider: OpenIdProvider, address: str) -> str:
    """What the provider answers to that address: where the browser is sent, as a path."""
    parts = urlsplit(provider.authorize(dict(parse_qsl(urlsplit(address).query))))
    return f"{parts.path}?{parts.query}"


def sign_in(world: World, provider: OpenIdProvider) -> tuple[TestClient, str]:
    """A browser, and where it was sent in the end."""
    browser, address = begin(world)
    return browser, browser.get(come_back(provider, address)).headers["location"]


def test_who_has_a_role_comes_in_and_goes_where_he_wanted(
    world: World, provider: OpenIdProvider
) -> None:
    browser, where = sign_in(world, provider)
    assert where == "/lag"
    page = browser.get("/lag").text
    assert "olga" in page
    assert browser.get("/audit").status_code == 403


def test_the_provider_is_asked_with_pkce_state_and_nonce(
    world: World, provider: OpenIdProvider
) -> None:
    sign_in(world, provider)
    sign_in(world, provider)
    first, second = provider.asked
    assert first["code_challenge_method"] == "S256"
    assert first["redirect_uri"] == "http://127.0.0.1:8420/openid/return"
    assert first["scope"] == "openid profile"
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name]) >= 32
        assert first[name] != second[name]


def test_a_clerk_has_the_unit_that_the_claim_says(world: World, provider: OpenIdProvider) -> None:
    provider.claims = {"preferred_username": "carl", "roles": "clerks", "unit": HOUSING}
    browser, _ = sign_in(world, provider)
    assert browser.get(f"/units/{HOUSING}").status_code == 200
    assert browser.get("/units/health@330106").status_code == 404


CHEATS: dict[str, Any] = {
    "another nonce": lambda c: {**c, "nonce": "x" * 43},
    "no nonce": lambda c: {k: v for k, v in c.items() if k != "nonce"},
    "for another client": lambda c: {**c, "aud": "somebody"},
    "of another issuer": lambda c: {**c, "iss": "http://127.0.0.1:1"},
    "expired": lambda c: {**c, "exp": int(time.time()) - 3600},
    "without an end": lambda c: {k: v for k, v in c.items() if k != "exp"},
    "for several, of another": lambda c: {**c, "aud": [CLIENT, "x"], "azp": "x"},
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_token_that_is_not_for_this_very_log_in_is_refused(
    world: World, provider: OpenIdProvider, cheat: str
) -> None:
    provider.cheat = CHEATS[cheat]
    browser, where = sign_in(world, provider)
    assert where == "/login?refused=token"
    assert browser.get("/lag").status_code == 303


def test_a_token_that_another_key_signed_is_refused(world: World, provider: OpenIdProvider) -> None:
    provider.signs_with = rsa_key(2)
    assert sign_in(world, provider)[1] == "/login?refused=token"


def test_a_token_that_nobody_signed_is_refused(
    world: World, provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openid_provider import jwt as provider_jwt

    encode = provider_jwt.encode
    monkeypatch.setattr(
        provider_jwt,
        "encode",
        lambda header, claims, key: encode(header, claims, key).rpartition(".")[0] + ".",
    )
    assert sign_in(world, provider)[1] == "/login?refused=token"


def test_planted_claims_that_nobody_checks_are_found(
    world: World, provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openid.CodeIDToken, "validate", lambda self, now=None, leeway=0: None)
    for cheat in ("another nonce", "for another client", "expired"):
        with pytest.raises(AssertionError):
            test_a_token_that_is_not_for_this_very_log_in_is_refused(world, provider, cheat)


def test_an_answer_counts_once_and_in_the_browser_that_began(
    world: World, provider: OpenIdProvider
) -> None:
    browser, address = begin(world)
    answer = come_back(provider, address)
    other, _ = begin(world)
    # Somebody who brings his own answer into another's browser would log him in as himself.
    assert other.get(answer).headers["location"] == "/login?refused=state"
    assert browser.get(answer).headers["location"] == "/login?refused=state"  # and it is used up
    browser, address = begin(world)
    answer = come_back(provider, address)
    assert browser.get(answer).headers["location"] == "/lag"
    assert browser.get(answer).headers["location"] == "/login?refused=state"
    assert browser.get("/openid/return?code=x").headers["location"] == "/login?refused=state"


def test_planted_a_state_that_is_not_the_browsers_is_found(
    world: World, provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openid.secrets, "compare_digest", lambda a, b: True)
    with pytest.raises(AssertionError):
        test_an_answer_counts_once_and_in_the_browser_that_began(world, provider)


def test_a_changed_key_is_asked_for_again(world: World, provider: OpenIdProvider) -> None:
    assert sign_in(world, provider)[1] == "/lag"
    provider.key = rsa_key(2)
    assert sign_in(world, provider)[1] == "/lag"


def test_who_has_no_role_here_does_not_come_in(world: World, provider: OpenIdProvider) -> None:
    for claims in ({"roles": ["other"]}, {}, {"roles": 3}, {"roles": ["clerks"]}):
        provider.claims = {"preferred_username": "olga", **claims}
        assert sign_in(world, provider)[1] in ("/login?refused=no_role", "/login?refused=token")


def test_a_provider_that_says_no_or_is_away_is_told(world: World, provider: OpenIdProvider) -> None:
    browser, address = begin(world)
    state = dict(parse_qsl(urlsplit(address).query))["state"]
    refused = browser.get(f"/openid/return?error=access_denied&state={state}")
    assert refused.headers["location"] == "/login?refused=provider_refused"
    assert "did not let you in" in browser.get(refused.headers["location"]).text


def test_a_discovery_document_of_another_is_refused(world: World, provider: OpenIdProvider) -> None:
    browser = world.browser()
    token = token_of(browser.get("/login").text)
    for document in ({**provider.document(), "issuer": "http://127.0.0.1:1"}, {}, []):
        provider.document = lambda said=document: said  # type: ignore[assignment]
        answer = browser.post("/openid/begin", data={"csrf": token})
        assert answer.headers["location"] == "/login?refused=provider_away"


def test_addresses_that_the_provider_names_are_asked_as_it_is() -> None:
    openid._check_address("https://keys.example/k", "https://login.example")
    for address in ("http://login.example/k", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="without TLS"):
            openid._check_address(address, "https://login.example")
    with pytest.raises(ValueError, match="without TLS"):
        openid._check_address("http://127.0.0.1:2/k", "http://127.0.0.1:1")


def test_a_resident_number_is_nobodys_name() -> None:
    settings = OpenId(issuer="https://x", client_id="x", roles=ROLES)
    with pytest.raises(DeptbusError):
        person_of_claims(settings, {"sub": "330106199001011237", "roles": ["ops"]})
    person = person_of_claims(settings, {"sub": "s", "roles": ["ops", "audit"]})
    assert person.roles == {Role.OPERATOR, Role.AUDITOR}


def test_without_a_provider_there_is_none(tmp_path: Path) -> None:
    browser = console_world(tickets=tmp_path).browser()
    token = token_of(browser.get("/enter").text)
    assert browser.post("/openid/begin", data={"csrf": token}).status_code == 404
    assert browser.get("/openid/return?state=x").status_code == 404

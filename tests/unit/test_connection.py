"""How the bus is found: what is given wins over the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from deptbus.connection import Connection


def test_what_is_not_given_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTBUS_BOOTSTRAP", "there:1")
    monkeypatch.setenv("DEPTBUS_SASL_PASSWORD", "secret")
    monkeypatch.setenv("DEPTBUS_SSL_CA_FILE", "/ca.pem")
    found = Connection()  # type: ignore[call-arg]
    assert (found.bootstrap, found.security_protocol) == ("there:1", "PLAINTEXT")
    assert str(found.ssl_ca_file) == "/ca.pem"
    assert "secret" not in repr(found)
    assert Connection(bootstrap="given:1").bootstrap == "given:1"
    for name, value in found.environment().items():
        monkeypatch.setenv(name, value)
    assert Connection() == found  # type: ignore[call-arg]


def test_what_the_environment_says_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPTBUS_BOOTSTRAP", raising=False)
    with pytest.raises(ValidationError, match="bootstrap"):
        Connection()  # type: ignore[call-arg]
    monkeypatch.setenv("DEPTBUS_SECURITY_PROTOCOL", "carrier pigeon")
    with pytest.raises(ValidationError, match="security_protocol"):
        Connection(bootstrap="there:1")

"""Where the console may listen, and what a file of settings says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deptbus.console.roles import Role
from deptbus.console.settings import Settings, load_settings
from deptbus.errors import DeptbusError
from deptbus.metrics.address import Address
from deptbus.operations.web_server import taken


def test_without_a_word_it_is_for_this_machine_alone(tmp_path: Path) -> None:
    settings = load_settings(None, tickets=tmp_path)
    assert settings.listen == "127.0.0.1:8420"
    assert settings.is_loopback
    assert not settings.is_secure
    assert settings.hosts == {"127.0.0.1:8420", "localhost:8420", "[::1]:8420"}


@pytest.mark.parametrize("listen", ["0.0.0.0:8420", "10.1.2.3:80", "[::]:8420", "bus.example:80"])
def test_what_others_can_reach_is_refused_without_tls(tmp_path: Path, listen: str) -> None:
    with pytest.raises(DeptbusError, match="in clear"):
        load_settings(None, listen=listen, tickets=tmp_path)
    with pytest.raises(DeptbusError, match="in clear"):
        load_settings(None, listen=listen, tickets=tmp_path, public_url="http://bus.example")
    secure = load_settings(None, listen=listen, tickets=tmp_path, public_url="https://bus.example/")
    assert secure.base_url == "https://bus.example"
    assert secure.hosts == {"bus.example"}
    own = load_settings(
        None, listen=listen, tickets=tmp_path, tls_certificate=Path("c"), tls_key=Path("k")
    )
    assert own.is_secure
    assert own.base_url.startswith("https://")


def test_planted_a_listen_address_that_nobody_checks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "is_loopback", property(lambda self: True))
    with pytest.raises(pytest.fail.Exception):
        test_what_others_can_reach_is_refused_without_tls(tmp_path, "0.0.0.0:8420")


def test_what_does_not_go_together_is_told(tmp_path: Path) -> None:
    for given in (
        {"tls_key": Path("k")},
        {"public_url": "https://bus.example/console"},
        {"public_url": "bus.example"},
        {"listen": "127.0.0.1"},
        {"listen": "127.0.0.1:x"},
        {"listen": "127.0.0.1:99999"},
    ):
        with pytest.raises(DeptbusError):
            load_settings(None, tickets=tmp_path, **given)
    with pytest.raises(DeptbusError, match="nobody could log in"):
        load_settings(None)


def test_a_port_that_is_taken_is_told_in_one_line_and_nothing_ends_by_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        told = rf"the console cannot listen at {address} \(address already in use\)\. Name"
        refused = pytest.raises(DeptbusError, match=told)
        with refused, taken(address, "the console"):
            pass


FILE = """
listen: 127.0.0.1:9000
accounts: accounts.json
departments: [housing/department.yml]
openid:
  issuer: https://login.example
  client_id: deptbus
  client_secret_file: openid.secret
  roles: {ops: operator}
"""


def test_a_file_names_its_neighbours_and_options_win(tmp_path: Path) -> None:
    path = tmp_path / "console.yml"
    path.write_text(FILE, encoding="utf-8")
    settings = load_settings(path, listen="127.0.0.1:9001")
    assert settings.port == 9001
    assert settings.accounts == tmp_path / "accounts.json"
    assert settings.departments == (tmp_path / "housing/department.yml",)
    assert settings.openid is not None
    assert settings.openid.roles == {"ops": Role.OPERATOR}
    with pytest.raises(DeptbusError, match="cannot be read"):
        settings.openid.secret()
    (tmp_path / "openid.secret").write_text("s\n", encoding="utf-8")
    secret = settings.openid.secret()
    assert secret is not None
    assert secret.get_secret_value() == "s"
    assert "'s'" not in repr(secret)


@pytest.mark.parametrize(
    "content",
    ["[1]", "listen: {", "colour: red", "accounts: [1]", "openid: {issuer: x}",
     "openid: {issuer: x, client_id: y, roles: {a: king}}"],
)  # fmt: skip
def test_a_setting_that_is_none_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "console.yml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DeptbusError):
        load_settings(path, tickets=tmp_path)


def test_the_file_of_the_document_is_one(tmp_path: Path) -> None:
    document = Path(__file__).parents[3] / "docs" / "console.md"
    content = document.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "console.yml"
    path.write_text(content, encoding="utf-8")
    settings = load_settings(path)
    assert set(Settings.model_fields) - settings.model_fields_set <= {"tickets"}

"""The unit that systemd gets: every word comes through as it was, and no secret stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_manager import settings_of, words_of

from deptbus.cli.main import run
from deptbus.department.service_unit import assigned, quoted, unit_text

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\x0b\x0c\x85\u2028\u2029"))


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_every_word_comes_through(words: list[str]) -> None:
    assert words_of(" ".join(map(quoted, words))) == words
    assert words_of(" ".join(map(assigned, words)), is_command=False) == words


def test_what_it_says() -> None:
    text = unit_text(
        ["housing@330106"],
        ["/opt/dept bus/python", "run", "100%"],
        user="bus",
        environment={"DEPTBUS_BOOTSTRAP": "a:1"},
        environment_file=Path("/etc/deptbus/housing.env"),
    )
    found = settings_of(text)
    assert found["Type"] == ["notify"]
    assert found["RestartPreventExitStatus"] == ["1 2"]
    assert found["WantedBy"] == ["multi-user.target"]
    assert found["EnvironmentFile"] == ["/etc/deptbus/housing.env"]
    assert words_of(found["ExecStart"][0]) == ["/opt/dept bus/python", "run", "100%"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DEPTBUS_BOOTSTRAP", "DEPTBUS_CLIENT_FILE", "HOUSING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "department.yml").write_text(
        "unit: housing@330106\nsystems:\n  main:\n"
        "    database: postgresql://bus:${HOUSING_PASSWORD}@127.0.0.1/housing\n"
    )
    (tmp_path / "housing.env").write_text("# ours\nHOUSING_PASSWORD=a secret\n")
    (tmp_path / "housing.env").chmod(0o600)
    return tmp_path


def made(folder: Path, *words: str | Path) -> list[str]:
    config = ["--config", str(folder / "department.yml")]
    return ["department", "service", *config, *map(str, words)]


def test_it_is_written_and_says_what_to_type(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--environment-file", folder / "housing.env", "--bootstrap", "h:1", "--user", "bus"]
    assert run(made(folder, *words, "--to", folder)) == 0
    text = (folder / "deptbus-housing-330106.service").read_text()
    assert "a secret" not in text
    assert "User=bus" in text
    argv = words_of(settings_of(text)["ExecStart"][0])
    assert argv[-4:] == ["--config", str(folder / "department.yml"), "--bootstrap", "h:1"]
    assert "enable --now deptbus-housing-330106.service" in capsys.readouterr().out
    assert run(made(folder, *words)) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--bootstrap", "h:1"], "takes HOUSING_PASSWORD from the environment"),
        ([], "no bus named"),
        (["--bootstrap", "h:1", "--environment-file", "open.env"], "others may read"),
        (["--client-file", "absent", "--environment-file", "housing.env"], "absent cannot be read"),
    ],
)
def test_what_would_not_work_or_would_tell_a_secret_is_refused(
    folder: Path,
    words: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "open.env").write_text("HOUSING_PASSWORD=x\n")
    (folder / "open.env").chmod(0o644)
    assert run(made(folder, *words)) == 2
    assert sentence in capsys.readouterr().err


def test_a_password_in_the_environment_gets_into_no_unit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "department.yml").write_text(
        "unit: housing@330106\nsystems:\n  main: {database: 'sqlite:///own.db'}\n"
    )
    monkeypatch.setenv("DEPTBUS_SASL_PASSWORD", "of the bus")
    monkeypatch.setenv("DEPTBUS_SASL_USERNAME", "housing-330106")
    assert run(made(folder, "--bootstrap", "h:1")) == 2
    assert "everybody may read a unit" in capsys.readouterr().err
    client = folder / "bus.client"
    client.write_text("sasl_password=of the bus\n")
    client.chmod(0o600)
    assert run(made(folder, "--bootstrap", "h:1", "--client-file", client)) == 0
    out = capsys.readouterr().out
    assert "of the bus" not in out
    assert "Environment=DEPTBUS_SASL_USERNAME=housing-330106" in out


def test_what_the_bus_asks_for_lies_where_the_service_finds_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is started in `/`, and by who may not read what root alone may."""
    monkeypatch.chdir(folder)
    own = "unit: housing@330106\nsystems:\n  main: {database: 'sqlite:///own.db'}\n"
    (folder / "department.yml").write_text(own)
    monkeypatch.setenv("DEPTBUS_SSL_CA_FILE", "ca.pem")
    assert run(made(folder, "--bootstrap", "h:1")) == 0
    assert f"Environment=DEPTBUS_SSL_CA_FILE={folder / 'ca.pem'}" in capsys.readouterr().out
    client = folder / "bus.client"
    for content, sentence in (
        (b"bootstrap=h:1\ncolour=red\n", "bus.client:2: not a setting"),
        (b"bootstrap=h:1\nsasl_username=\xff\n", "is not UTF-8 (byte 29)"),
        (b"bootstrap=h:1\nsecurity_protocol=SSL\nssl_ca_file=absent.pem\n", str(folder)),
    ):
        client.write_bytes(content)
        client.chmod(0o600)
        assert run(made(folder, "--client-file", client)) == 2
        assert sentence in capsys.readouterr().err
    client.write_text("bootstrap=h:1\n")
    assert run(made(folder, "--client-file", client, "--user", "nobody")) == 2
    assert f"chown nobody {client}" in capsys.readouterr().err


def test_an_environment_file_that_is_no_text_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "housing.env").write_bytes(b"HOUSING_PASSWORD=\xff\n")
    words = ["--environment-file", folder / "housing.env", "--bootstrap", "h:1"]
    assert run(made(folder, *words)) == 2
    assert "housing.env is not UTF-8 (byte 18)" in capsys.readouterr().err

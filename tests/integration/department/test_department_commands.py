"""`deptbus department` on real files, without a bus: install, snapshot, status, key, uninstall."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path

import pytest
from source_world import UNIT, contract

from deptbus.cli.main import run
from deptbus.errors import Exit

CONFIG = f"""
unit: {UNIT}
systems:
  main:
    database: sqlite:///own.db
    publishes:
      person:
        table: people
        columns: {{id: 身份证, place: area, name: 姓名, sex: sex, born: born, company: firm}}
        values:
          sex: {{"1": male, "2": female}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("deptbus.contract.load.load", lambda directory: contract(UNIT))
    path = tmp_path / "department.yml"
    path.write_text(CONFIG, encoding="utf-8")
    with sqlite3.connect(tmp_path / "own.db") as c:
        c.execute(
            "CREATE TABLE people (身份证 TEXT PRIMARY KEY, area TEXT, 姓名 TEXT, sex INTEGER, "
            "born TEXT, firm TEXT, religion TEXT)"
        )
        c.executemany(
            "INSERT INTO people VALUES (?, '330106109051', '李', 1, NULL, NULL, 'canary')",
            [(str(n),) for n in range(1200)],
        )
    c.close()
    return path


def call(config: Path, verb: str, *words: str) -> int:
    return run(["department", verb, "--config", str(config), *words])


def tables(config: Path) -> set[str]:
    with sqlite3.connect(config.parent / "own.db") as c:
        found = {n for (n,) in c.execute("SELECT name FROM sqlite_master WHERE name LIKE 'dept%'")}
    c.close()
    return found


def test_the_life_of_a_source(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--contract", "somewhere"]
    assert call(config, "install", "--dry-run", *folder) == Exit.DONE
    shown = capsys.readouterr().out
    assert "CREATE TRIGGER" in shown
    assert "religion" not in shown
    assert tables(config) == set()
    assert not (config.parent / "key.secret").exists()

    assert call(config, "status") == Exit.ANSWER_IS_NO
    assert call(config, "install", *folder) == Exit.DONE
    told = capsys.readouterr().out
    secret = config.parent / "key.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    before = secret.read_text(encoding="ascii")
    assert before.strip() not in told
    assert call(config, "key") == Exit.DONE
    fingerprint = capsys.readouterr().out.strip()
    assert f"key_fingerprint: {fingerprint}" in told

    assert call(config, "install", *folder) == Exit.DONE
    assert secret.read_text(encoding="ascii") == before
    assert call(config, "snapshot") == Exit.DONE
    assert "person: 1200 rows enqueued" in capsys.readouterr().out
    assert call(config, "status", "-o", "json") == Exit.ANSWER_IS_NO
    (system,) = json.loads(capsys.readouterr().out)["systems"]
    assert system["source"]["outbox_rows"] == 1200
    assert system["source"]["parked"] == {}
    assert system["source"]["publishing"]["state"] == "never_seen"
    assert system["source"]["outbox_room_rows"] == 1_000_000 - 1200
    assert system["source"]["outbox_fill_percent"] == 0.1
    assert call(config, "status") == Exit.ANSWER_IS_NO
    told = " ".join(capsys.readouterr().out.split())
    assert "rows wait, and its adapter has never run. Start it: `deptbus department run`" in told

    words = ["--dataset", "person", "--natural", "7", *folder]
    assert call(config, "resend", *words) == Exit.DONE
    assert call(config, "uninstall") == Exit.DONE
    assert tables(config) == set()
    with sqlite3.connect(config.parent / "own.db") as c:
        assert c.execute("SELECT count(*) FROM people").fetchone() == (1200,)
    c.close()


def test_install_tells_what_is_mapped_and_never_comes(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapped = "    receives:\n      person:\n        table: copies\n        columns: {id: id}\n"
    config.write_text(CONFIG + mapped, encoding="utf-8")
    assert call(config, "install", "--dry-run", "--contract", "somewhere") == Exit.DONE
    told = capsys.readouterr()
    assert "note: " in told.err
    assert "no rule and no grant brings `person` to this unit" in told.err
    assert "note" not in told.out


@pytest.mark.parametrize(
    ("harm", "verb", "words", "said"),
    [
        ("DROP TABLE people", "install", ["--contract", "x"], "there is no table people"),
        ("ALTER TABLE people DROP COLUMN sex", "install", ["--contract", "x"], "no column sex"),
        ("SELECT 1", "install", [], "no contract named"),
        ("SELECT 1", "snapshot", [], "not captured"),
        ("SELECT 1", "snapshot", ["--dataset", "other"], "does not publish other"),
        ("SELECT 1", "key", [], "key.secret is not there"),
        ("SELECT 1", "resend", ["--dataset", "person", "--key", "xx"], "32 hexadecimal digits"),
        ("SELECT 1", "resend", ["--dataset", "person"], "give --key or --natural"),
    ],
)
def test_each_trouble_is_one_line(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    harm: str,
    verb: str,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.delenv("DEPTBUS_BOOTSTRAP", raising=False)
    with sqlite3.connect(config.parent / "own.db") as c:
        c.execute(harm)
    c.close()
    assert call(config, verb, *words) == Exit.COULD_NOT
    shown = capsys.readouterr().err.strip()
    assert said in shown
    assert "\n" not in shown


def test_a_database_that_is_not_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "own.db").unlink()
    assert call(config, "status") == Exit.COULD_NOT
    assert "there is no such file" in capsys.readouterr().err


def test_a_password_is_never_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CONFIG.replace("sqlite:///own.db", "postgresql://clerk:hush-hush@127.0.0.1:1/none")
    config.write_text(text, encoding="utf-8")
    assert call(config, "status") == Exit.COULD_NOT
    shown = capsys.readouterr()
    assert "127.0.0.1" in shown.err
    assert "hush-hush" not in shown.err + shown.out

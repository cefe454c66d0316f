"""The monitor's settings file: what it may say, and that every mistake is told with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deptbus.errors import FileProblems
from deptbus.operations.alarm_settings import AlarmSettings, Way, read_alarm_settings
from deptbus.operations.alarms import Patience

ROOT = Path(__file__).parents[3]
GOOD = """\
raise_after_seconds: 30
over_after_seconds: 90
repeat_hours: 0.5
ways:
  - name: duty
    command: [/bin/true, "1"]
  - name: chat
    webhook: https://chat.example/hooks
    headers: {X-Token: sesame}
    timeout_seconds: 3
"""


def read(path: Path, text: str) -> AlarmSettings:
    file = path / "monitor.yml"
    file.write_text(text, encoding="utf-8")
    return read_alarm_settings(file)


def test_all_of_it(tmp_path: Path) -> None:
    told = read(tmp_path, GOOD)
    assert told.patience == Patience(30, 90, 1800)
    duty, chat = told.ways
    assert (duty.command, duty.webhook) == (("/bin/true", "1"), None)
    assert chat.headers["X-Token"].get_secret_value() == "sesame"
    assert "sesame" not in repr(told)
    assert chat.timeout_seconds == 3


def test_an_empty_file_is_as_none(tmp_path: Path) -> None:
    assert read(tmp_path, "{}\n") == AlarmSettings()
    assert AlarmSettings(repeat_hours=0).patience.repeat_seconds is None


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("name: duty", "name: Duty Desk", 5, "is not a name"),
        ("name: chat", "name: duty", 1, "has a name twice"),
        ("    webhook: https://chat.example/hooks\n", "", 7, "needs a command or a webhook"),
        ('command: [/bin/true, "1"]', "webhook: ftp://x/", 6, "is not an address"),
        ("name: chat\n", "name: chat\n    command: [x]\n", 7, "needs a command or a webhook"),
        ("X-Token: sesame", '"X Token": sesame', 9, "has a line that is no header"),
        ("X-Token: sesame", "X-Token: 芝麻", 9, "has a line that is no header"),
        ("timeout_seconds: 3", "timeout_seconds: 0", 10, "is too small"),
        ("repeat_hours", "repeat_hour", 3, "Did you mean `repeat_hours`"),
        ("over_after_seconds: 90", "over_after_seconds: -1", 2, "is too small"),
    ],
)
def test_a_mistake_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in GOOD
    with pytest.raises(FileProblems) as told:
        read(tmp_path, GOOD.replace(old, new))
    (problem,) = told.value.problems
    assert problem.line == line
    assert words in str(problem)


def test_every_setting_is_described_and_the_example_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.split("\n## Alarms\n")[1].split("\n## ")[0]
    described = set(re.findall(r"^\| `([a-z_]+)` \| [^|]*\| ", section, re.M))
    assert described >= set(AlarmSettings.model_fields) | set(Way.model_fields)
    (example,) = re.findall(r"```yaml\n(.*?)```", section, re.S)
    assert len(read(tmp_path, example).ways) == 2

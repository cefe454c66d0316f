"""`deptbus lag --watch` outlives a bus that goes away; its exit code is that of its last look."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deptbus.cli import lag as command
from deptbus.cli.main import run
from deptbus.errors import BusUnreachable, Exit
from deptbus.operations import lag_watch
from deptbus.operations.lag import Lag, PartitionState, Place, Seen
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.observer import Picture
from deptbus.operations.offset_requests import Cluster
from deptbus.operations.verdicts import Track, Verdict

NOW = 1_800_000_000.0


def report(verdict: Verdict) -> LagReport:
    lag = Lag(PartitionState.OK, 0, 0.0, waits=False)
    tracks = {Place("theirs", "orders", 0): Track(NOW, Seen(9, 0, 9), lag, verdict, NOW)}
    picture = Picture(NOW, Cluster((1,), {}), {}, True, tracks)
    return LagReport(NOW, picture, (), (), has_contract=False)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each look gives or raises; after the last one the person presses Ctrl-C."""
    given: list[Any] = []

    class Watch:
        def __init__(self, *_: object) -> None: ...

        async def __aenter__(self) -> Watch:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def look(self) -> LagReport:
            if not given:
                raise KeyboardInterrupt
            found = given.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

    monkeypatch.setattr(lag_watch, "LagWatch", Watch)
    monkeypatch.setattr(command, "WATCH_SECONDS", 0.0)
    return given


WORDS = ["lag", "-o", "json", "--bootstrap", "127.0.0.1:1"]


def test_a_watch_goes_on(looks, capsys):
    looks += [report(Verdict.OK), BusUnreachable("no broker answers"), report(Verdict.STALLED)]
    assert run([*WORDS, "--watch"]) == Exit.ANSWER_IS_NO
    told = capsys.readouterr()
    verdicts = [json.loads(line)["partitions"][0]["verdict"] for line in told.out.splitlines()]
    assert verdicts == ["OK", "STALLED"]
    assert told.err == "deptbus: no broker answers\n"


def test_a_watch_that_ends_while_the_bus_is_away_could_not_tell(looks, capsys):
    looks += [report(Verdict.OK), BusUnreachable("no broker answers")]
    assert run([*WORDS, "--watch"]) == Exit.COULD_NOT


def test_a_single_look_says_that_the_bus_is_away(looks, capsys):
    looks += [BusUnreachable("no broker answers", mend="Is the bus running?")]
    assert run(WORDS) == Exit.COULD_NOT
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "deptbus: no broker answers. Is the bus running?\n"


def test_a_watch_that_saw_nothing_was_stopped_before_the_end(looks, capsys):
    assert run([*WORDS, "--watch"]) == Exit.COULD_NOT
    assert "stopped before the end" in capsys.readouterr().err

"""However `demo` and `up` are ended, whenever: no process is left, and the next start works.

SIGKILL cannot be answered; that nothing is left then is the kernel's doing (cluster/lifeline.py),
asked for by every child at every level.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from installed import Room, Up, sql, wait_until
from small_world import District, accounts, write_contract

pytestmark = pytest.mark.service

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

# What `up` has said when it is in the middle of something; "" is the very beginning.
MOMENTS = ("", "broker       starting", "broker       ready", "adapter-0    starting")


class Bus:
    """One small bus that is started again and again on the same folder."""

    def __init__(self, room: Room, district: District, contract: Path) -> None:
        self.room, self.district, self.contract = room, district, contract

    def launch(self) -> Up:
        up = Up(self.room, self.district.data, "--contract", self.contract)
        up.launch()
        return up

    def start(self) -> Up:
        """After whatever was before: it starts, and a change arrives."""
        up = Up(self.room, self.district.data, "--contract", self.contract).start()
        sql(self.district.source, "UPDATE zh SET je = je + 1")
        wait_until(self.district.is_carried, 60)
        return up


@pytest.fixture(scope="module")
def bus(new_room: Callable[[], Room]) -> Iterator[Bus]:
    room = new_room()
    district = District(room.folder / "data")
    district.build(accounts(12))
    made = Bus(room, district, write_contract(room.folder / "contract"))
    yield made
    made.start().stop()
    assert not (district.data / "run.json").exists()
    room.check_empty()
    room.check_logs()


def end_and_check(bus: Bus, up: Up, number: signal.Signals) -> None:
    up.send(number)
    code = up.wait()
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        # SIGINT before Python has set its own handlers up ends it as it ends any program.
        assert code in (0, 2, -number), up.said
    bus.room.check_empty()
    assert "Traceback" not in up.said


@pytest.mark.parametrize("number", SIGNALS, ids=lambda s: s.name)
def test_up_ended_while_it_starts_and_while_it_runs(bus: Bus, number: signal.Signals) -> None:
    for moment in MOMENTS:
        up = bus.launch()
        wait_until(lambda u=up, m=moment: m in u.said, 60)
        end_and_check(bus, up, number)
    up = bus.start()
    running = {p["pid"] for p in up.run_file()["processes"]}
    assert running < {p.pid for p in bus.room.processes()}, "or this test could not fail"
    end_and_check(bus, up, number)
    assert not [pid for pid in running if _lives(pid)]


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGKILL)]
)
def test_up_ended_while_it_stops(bus: Bus, first: signal.Signals, second: signal.Signals) -> None:
    """A second signal ends at once what the first asked to end in order."""
    up = bus.start()
    up.send(first)
    wait_until(lambda: "stopping" in up.said, 20)
    end_and_check(bus, up, second)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda s: s.name)
def test_demo_ended(room: Room, number: signal.Signals) -> None:
    """At its beginning, while its bus starts, and in the midst of the working day."""
    day = "a working day"
    for moment, more in (("", ()), ("starting the bus", ()), (day, ("--postgres",))):
        words = ("demo", "--residents", "60", "--seconds", "300", *more)
        process, log = room.start(*words, TMPDIR=_tmp(room))
        wait_until(lambda w=moment, f=log: w in f.read_text(), 120, log.read_text)
        if moment == day:
            names = [p.name() for p in room.processes()]
            assert {"java", "postgres"} <= set(names), "or this test could not fail"
        process.send_signal(number)
        code = process.wait(60)
        assert code in (2, -number), log.read_text()
        room.check_empty()
        assert "Traceback" not in log.read_text()
        if number is not signal.SIGKILL:
            left = list(Path(_tmp(room)).glob("deptbus-demo-*"))
            assert not left, f"{moment}: the folder of a demo that was ended in order is gone"


def _tmp(room: Room) -> str:
    folder = room.folder / "tmp"
    folder.mkdir(exist_ok=True)
    return str(folder)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""The memory limit and its suspects by the numbered rules of memory.py."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from deptbus.errors import DeptbusError
from deptbus.stream import memory
from deptbus.stream.batches import BATCH_RECORDS
from deptbus.stream.memory import DEATHS, SETTING, WIDTHS, Suspects, Suspicion
from deptbus.stream.origins import other_origins

A, B = TP("out.a", 0), TP("data.b", 1)


def waiting(start: int, count: int = 5000) -> list[SimpleNamespace]:
    return [SimpleNamespace(offset=n) for n in range(start, start + count)]


@given(st.integers(1, DEATHS), st.integers(0, 2**62), st.integers(0, 2**31))
def test_a_word_is_read_as_it_was_written(deaths: int, first: int, span: int) -> None:
    found = Suspicion(deaths, first, first + span)
    assert Suspicion.read(f"out.a=id;data.b=id{found}") == found
    assert other_origins(f"out.a=id{found}", "out.a=id") == []


@pytest.mark.parametrize(
    "text",
    ["", "x", "out.a=id"]
    + [
        f";memory={word}"
        for word in ("", "0/1/1", "4/1/1", "1/2/1", "1/-1/1", "1/1/1\n", "1/1/1;x", "１/1/1")
    ]
    + [";memory=1/1/" + "9" * 20],
)
def test_foreign_words_suspect_nobody(text: str) -> None:
    assert Suspicion.read(text) is None


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1999))
def test_three_deaths_find_one_record_of_a_whole_batch(poison: int) -> None:
    """Worker after worker reads on from what is committed and dies over the poisoned record."""
    every = waiting(0, 2000)
    word, committed, deaths = "", 0, 0
    while True:
        suspects = Suspects()
        condemned = suspects.learn({A: word})
        if condemned:
            break
        position = committed
        while True:
            width = suspects.width(A, every[position : position + 1])
            last = min(1999, position + width - 1)
            if position <= poison <= last:
                word, committed = str(suspects.died(A, position, last)), position
                deaths += 1
                break
            position = last + 1
            word = suspects.word(A, position)
    assert (condemned, deaths) == ({A: (poison, poison)}, DEATHS)


def test_a_death_elsewhere_counts_anew() -> None:
    suspects = Suspects()
    suspects.learn({A: str(Suspicion(2, 10, 10))})
    assert suspects.died(A, 11, 30).deaths == 1
    assert suspects.died(B, 10, 10).deaths == 1


def test_a_batch_goes_up_to_the_place_and_not_into_it() -> None:
    suspects = Suspects()
    suspects.learn({A: str(Suspicion(1, 10, 90))})
    assert suspects.width(A, waiting(3)) == 7
    assert suspects.width(A, waiting(10)) == WIDTHS[1]
    assert suspects.width(A, waiting(91)) == BATCH_RECORDS
    assert suspects.width(B, waiting(10)) == BATCH_RECORDS


def test_a_commit_carries_the_word_until_it_is_beyond_the_place() -> None:
    suspects = Suspects()
    suspects.learn({A: str(Suspicion(1, 10, 90))})
    assert Suspicion.read(suspects.word(A, 90)) == Suspicion(1, 10, 90)
    assert suspects.word(A, 91) == ""
    assert suspects.width(A, waiting(10)) == BATCH_RECORDS


def test_a_suspect_runs_alone_and_does_not_hold_up_the_others_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(memory, "monotonic", lambda: now)
    suspects = Suspects()
    suspects.learn({A: str(Suspicion(1, 10, 90))})
    assert suspects.turn([A, B], {A: 3, B: 0}, 0) == [A, B]  # not there yet
    assert suspects.turn([A, B], {A: 10, B: 0}, 1) == []  # waits for what runs
    assert suspects.turn([A, B], {A: 10, B: 0}, 0) == [A]
    assert suspects.turn([B], {B: 0}, 1) == []
    now = memory.ALONE_SECONDS + 1
    assert suspects.turn([B], {B: 0}, 1) == [B]
    assert suspects.turn([A, B], {A: 91, B: 0}, 0) == [A, B]


@pytest.mark.parametrize("text", ["-1", "x", "64", "", "1e3", "１０２４"])
def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SETTING, text)
    with pytest.raises(DeptbusError, match=SETTING):
        memory.limit_memory()


@pytest.mark.parametrize(("text", "dies"), [("400", True), ("0", False)])
def test_the_limit_holds(text: str, dies: bool) -> None:
    program = (
        "from deptbus.stream.memory import limit_memory\n"
        "limit_memory()\n"
        "try:\n    bytearray(500 << 20)\n    print('had')\nexcept MemoryError:\n    print('died')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "", SETTING: text},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ("died" if dies else "had")

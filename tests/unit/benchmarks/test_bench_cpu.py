"""CPU time is that of the whole tree, children that ended included."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.cpu import Meter, cpu_seconds, memory_mb

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
print("ended", flush=True)
sys.stdin.read()
"""


def test_a_child_that_ended_counts_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        meter = Meter(parent.pid)
        assert parent.stdout.readline() == b"ended\n"
        assert meter.seconds() >= 0.25
        assert memory_mb([parent.pid]) > 1
    finally:
        parent.communicate()


def test_a_child_that_lives_counts_too() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", BURN + "print('done', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        before = time.process_time()
        assert child.stdout.readline() == b"done\n"
        assert cpu_seconds([os.getpid()]) >= 0.25 + before
    finally:
        child.communicate(b"\n")


def test_who_is_gone_costs_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert cpu_seconds([ended.pid]) == 0
    assert memory_mb([ended.pid]) == 0

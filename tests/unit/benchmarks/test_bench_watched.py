"""What a command costs is seen, and what reladiff says is read."""

from __future__ import annotations

import os
import sys

import pytest

from benchmarks.bench import CouldNot
from benchmarks.rivals import reladiff
from benchmarks.watched import watched

_BUSY = """
import time
held = bytearray(80_000_000)
for n in range(0, len(held), 4096): held[n] = 1
while time.process_time() < 0.4: pass
print('{"a": 1}')
raise SystemExit(1)
"""


async def test_time_cpu_and_memory_of_a_command_are_seen() -> None:
    done = await watched([sys.executable, "-c", _BUSY], {}, others=[os.getpid()])
    assert (done.code, done.output) == (1, '{"a": 1}\n')
    assert done.seconds >= done.cpu_seconds > 0.2
    assert done.memory_mb > 80
    assert done.others_mb[os.getpid()] > 5


async def test_a_command_that_does_not_end_is_ended() -> None:
    with pytest.raises(CouldNot, match="did not end"):
        await watched([sys.executable, "-c", "import time; time.sleep(60)"], {}, seconds=0.3)


def test_what_reladiff_says_is_read() -> None:
    said = '["-", ["7", "a"]]\n["+", ["7", "b"]]\n["+", ["9", "c"]]\n'
    assert reladiff.differing(said) == {"7", "9"}
    assert reladiff.differing("") == set()
    with pytest.raises(CouldNot):
        reladiff.differing('["nonsense')

"""`make bench` runs, and what it compares writes the same bytes (it stops when they differ)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "quick.py"


def test_the_quick_benchmark_compares_like_with_like() -> None:
    argv = [sys.executable, str(SCRIPT), "--changes", "50", "--rounds", "1", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["changes"] == 50
    assert result["deliveries_per_change"] > 1
    for times in result["microseconds_per_change"].values():
        assert all(time >= 0 for time in times.values())

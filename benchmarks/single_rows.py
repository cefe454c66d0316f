"""The department's program on SQLite: commits one changed row after the other, as fast as it can.

`python -m benchmarks.single_rows FILE SECONDS` prints how many a second.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time

from benchmarks.town import TABLE

_CHANGE = f"UPDATE {TABLE} SET occupation = ?, updated_at = datetime('now') WHERE n = ?"


def main(path: str, seconds: float) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    connection.execute("PRAGMA synchronous = FULL")
    (rows,) = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()
    chosen = random.Random(1)
    began, done = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        connection.execute(_CHANGE, (f"typed {done}", chosen.randrange(rows)))
        done += 1
    print(done / (time.monotonic() - began))
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

"""The department's program on SQLite: commits one changed row after the other, as fast as it can.

`python -m benchmarks.single_rows FILE SECONDS WAIT` prints how many a second. After each commit it
waits WAIT seconds, which stand for a disk that takes so long.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time

from benchmarks.town import TABLE

_CHANGE = f"UPDATE {TABLE} SET occupation = ?, updated_at = datetime('now') WHERE n = ?"


def main(path: str, seconds: float, wait: float) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    connection.execute("PRAGMA synchronous = FULL")
    (rows,) = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()
    chosen = random.Random(1)
    began, done = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        connection.execute(_CHANGE, (f"typed {done}", chosen.randrange(rows)))
        done += 1
        if wait:
            time.sleep(wait)
    print(done / (time.monotonic() - began))
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))

"""`make adoption`: two departments of 200,000 typed people each join a running bus."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from installed import Room
from joining import Joining

from deptbus.cluster.postgres import PostgresServer


def main() -> int:
    """Exit code 1: a count is not the referee's, or something was harmed."""
    parser = argparse.ArgumentParser(prog="make adoption")
    parser.add_argument("--people", type=int, default=200_000)
    count = parser.parse_args().people
    room, is_well = Room(Path(sys.executable).parent), True
    with tempfile.TemporaryDirectory(prefix="deptbus-adoption-") as folder:
        Path(folder).chmod(0o755)
        with PostgresServer(Path(folder)) as server:
            joining = Joining(room, server.create_database("typed_people"), count)
            joining.make()
            with joining.up:
                for one in joining.departments:
                    joining.wait_for_all(one)
                    found, wanted = joining.compare(one)
                    joining.join(one)
                    wrong = joining.check(one, wanted)
                    is_well = is_well and found == wanted and not wrong
                    said = {"compare": found, "referee": wanted, "wrong": wrong}
                    print(one.unit, json.dumps(said, ensure_ascii=False), flush=True)
        server.destroy()
    for what, seconds in joining.told.items():
        print(f"{what}: {seconds:.1f} s")
    room.close()
    print("all as the referee counts" if is_well else "NOT as the referee counts")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())

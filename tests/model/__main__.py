"""The long form: `python -m tests.model --seeds N [--first SEED] [--mixture M] [--bug NAME]`."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from .bugs import PLANTED, first_counterexample
from .world import MIXTURES, explore


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--seeds", type=int, default=1000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--mixture", choices=sorted(MIXTURES), help="default: each in turn")
    parser.add_argument("--processes", type=int, help="default: one for each core")
    parser.add_argument("--bug", choices=sorted(PLANTED), help="plant this mistake and look for it")
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.seeds)
    if asked.bug:
        found = first_counterexample(asked.bug, seeds)
        print(f"seed {found[0]}: {found[1]}" if found else "not found")
        return 0 if found else 1
    began, wrong = time.monotonic(), 0
    with ProcessPoolExecutor(asked.processes) as pool:
        every = pool.map(partial(explore, mixture=asked.mixture), seeds, chunksize=20)
        for seed, differences in zip(seeds, every, strict=True):
            if differences:
                wrong += 1
                print(f"seed {seed}:", *differences, sep="\n  ", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{len(seeds)} schedules, {wrong} wrong, {len(seeds) / minutes:.0f} a minute")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

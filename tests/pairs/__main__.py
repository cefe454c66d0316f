"""The long form: `python -m tests.pairs --pairs N --seed S`; `make pairs` draws a million."""

from __future__ import annotations

import argparse

from .run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pairs")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=2026)
    asked = parser.parse_args()
    told = run(asked.pairs, asked.seed)
    for one, other in (told.disagreements or [])[:5]:
        print(f"disagree (seed {asked.seed}):\n  {one}\n  {other}")
    print(f"{told.pairs:,} pairs, {told.equal:,} of them equal, seed {asked.seed}")
    return 1 if told.disagreements else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m tests.torture [SCENARIO ...] [--seed N] [--bug NAME] [--short] [--list] [--json]`.

Exit codes: 0 nothing was found; 1 something was found, and is named; 2 could not be run.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback

from .run import run_scenario
from .scenario import Scenario, scenarios
from .verdict import Verdict, json_line, table

DONE, FOUND, COULD_NOT = 0, 1, 2


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(COULD_NOT))  # and the world is closed
    known = scenarios()
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("scenario", nargs="*", help="which ones; default: all")
    parser.add_argument("--seed", type=int, default=1, help="repeats the same choices")
    parser.add_argument("--bug", help="plant this mistake of the scenario's, see --list")
    parser.add_argument("--short", action="store_true", help="the bounded form")
    parser.add_argument("--list", action="store_true", help="scenarios and their planted bugs")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    asked = parser.parse_args()
    if asked.list:
        _list(known)
        return DONE
    unknown = set(asked.scenario) - known.keys()
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    wanted = [known[name] for name in asked.scenario or known]
    if asked.bug and not any(asked.bug in scenario.bugs for scenario in wanted):
        parser.error(f"none of these scenarios has the bug {asked.bug}, see --list")
    return _run(wanted, asked)


def _run(wanted: list[Scenario], asked: argparse.Namespace) -> int:
    say = (lambda _: None) if asked.json else _say
    verdicts: list[Verdict] = []
    failed = False
    for scenario in wanted:
        if asked.bug and asked.bug not in scenario.bugs:
            continue
        say(f"{scenario.name}: {scenario.does}")
        try:
            verdict = run_scenario(
                scenario, seed=asked.seed, short=asked.short, bug=asked.bug, say=say
            )
        except Exception:  # noqa: BLE001 - the other scenarios are run
            traceback.print_exc()
            failed = True
            continue
        verdicts.append(verdict)
        for name, value in verdict.counted.items():
            say(f"  {name}: {value}")
        for finding in verdict.findings:
            say(f"  FOUND {finding}")
        say(f"  verdict: {'nothing found' if verdict.is_clean else dict(verdict.counts)}\n")
    say(table(verdicts))
    print(json_line(verdicts), flush=True)
    if failed:
        return COULD_NOT
    return DONE if all(v.is_clean for v in verdicts) else FOUND


def _list(known: dict[str, Scenario]) -> None:
    for scenario in known.values():
        print(f"{scenario.name:<14}{scenario.does}")
        for name, bug in scenario.bugs.items():
            print(f"{'':<6}--bug {name:<28}{bug.what}; shows: {', '.join(bug.shows)}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

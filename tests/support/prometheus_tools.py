"""Prometheus' own tool, promtool: what it says of rules and of what is scraped."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from debian import NotToBeHad, unpacked
from installed import is_ci

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"


def find_promtool() -> str:
    """That of this machine, or one that is unpacked into the cache. Where it is not to be had the
    test that asks skips; in CI that fails."""
    installed = shutil.which("promtool")
    try:
        return installed or str(unpacked("prometheus", ["prometheus"]) / "usr/bin/promtool")
    except NotToBeHad as error:
        if is_ci():
            raise
        pytest.skip(str(error))


def check_metrics(tool: str, text: bytes) -> str:
    """What is wrong with a scrape; empty: nothing."""
    done = subprocess.run(
        [tool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
    )
    return (done.stdout + done.stderr).decode() if done.returncode or done.stdout else ""


@dataclass(frozen=True)
class Case:
    """Series by steps of so many minutes, and which alerts have fired until `minutes`. `series`: as
    promtool has them; `stale` is where Prometheus saw that a series was gone."""

    name: str
    series: dict[str, str]
    minutes: int
    fires: frozenset[str] = frozenset()
    step: int = 1


def test_rules(tool: str, rules: str, cases: list[Case], folder: Path) -> str:
    """What promtool says of cases that do not come out; empty: all do."""
    (folder / "rules.yml").write_text(rules, encoding="utf-8")
    paths = []
    for step in sorted({case.step for case in cases}):
        document = {
            "rule_files": ["rules.yml"],
            "evaluation_interval": f"{step}m",
            "tests": [_unit_test(case) for case in cases if case.step == step],
        }
        paths.append(folder / f"cases-{step}.yml")
        paths[-1].write_text(yaml.safe_dump(document, width=10_000), encoding="utf-8")
    done = subprocess.run(
        [tool, "test", "rules", *paths], capture_output=True, text=True, timeout=120, check=False
    )
    return (done.stdout + done.stderr) if done.returncode else ""


test_rules.__test__ = False  # type: ignore[attr-defined]


# Also what fired for a moment only.
_FIRED = 'group by (alertname) (max_over_time(ALERTS{alertstate="firing"}[30d]))'


def _unit_test(case: Case) -> dict[str, Any]:
    firing = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(case.fires)]
    return {
        "name": case.name,
        "interval": f"{case.step}m",
        "input_series": [{"series": s, "values": v} for s, v in case.series.items()],
        "promql_expr_test": [
            {
                "expr": _FIRED,
                "eval_time": f"{case.minutes}m",
                "exp_samples": firing,
            }
        ],
    }

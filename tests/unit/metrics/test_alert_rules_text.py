"""Alert rules name what is told, whom it concerns, and a page that exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql import metrics_in, unknown_labels

from deptbus.cli.main import NOUNS
from deptbus.operations.advice import page_of
from deptbus.operations.freshness import Fresh
from deptbus.operations.freshness_report import WELL
from deptbus.operations.verdicts import Verdict

ROOT = Path(__file__).parents[3]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
BY_ALERT = {rule["alert"]: rule for rule in RULES}


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("alert", BY_ALERT)
def test_a_rule_is_whole(alert: str) -> None:
    rule = BY_ALERT[alert]
    assert re.fullmatch(r"[1-9]\d*[mh]", rule["for"]), "no dip may ring"
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "command", "runbook"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors(ROOT / page)
    words = rule["annotations"]["command"].split()
    assert words[0] == "deptbus"
    assert words[1] in NOUNS


@pytest.mark.parametrize("alert", BY_ALERT)
def test_a_rule_names_what_is_in_the_list(alert: str) -> None:
    rule = BY_ALERT[alert]
    metrics = metrics_in(rule["expr"])
    assert metrics or rule["expr"].startswith("up{")
    assert unknown_labels(rule["expr"]) == set()
    told = {label for metric in metrics for label in metric.labels} | {"instance", "component"}
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= told


@pytest.mark.parametrize("verdict", [v for v in Verdict if v.needs_a_person] + [None])
def test_every_verdict_that_needs_a_person_rings(verdict: Verdict | None) -> None:
    """None: nobody could tell."""
    word = verdict.value if verdict is not None else "UNKNOWN"
    rule = BY_ALERT[f"DeptbusUnit{word.capitalize()}"]
    assert rule["expr"].startswith(f'deptbus_unit_verdict{{verdict="{word}"}} == 1')
    assert rule["annotations"]["runbook"] == page_of(verdict)


@pytest.mark.parametrize("verdict", [v for v in Verdict if not v.needs_a_person])
def test_no_other_verdict_rings(verdict: Verdict) -> None:
    assert not any(f'verdict="{verdict}"' in rule["expr"] for rule in RULES)


@pytest.mark.parametrize("state", [s for s in Fresh if s not in WELL])
def test_every_promise_that_is_not_kept_rings(state: Fresh) -> None:
    assert any(rule["expr"] == f'deptbus_freshness{{state="{state}"}} == 1' for rule in RULES)


def test_no_rule_is_made_of_offsets() -> None:
    """They count transaction markers, and what compaction took."""
    named = {metric.name for rule in RULES for metric in metrics_in(rule["expr"])}
    assert not any("offset" in name for name in named)

"""docs/operations.md has a page for every verdict, every word of an alarm and every alert, and no
other; whatever is advised leads to one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deptbus.operations.advice import CLUSTER, advice, page, page_of
from deptbus.operations.findings import SEVERITY, Word
from deptbus.operations.freshness import Fresh, Freshness
from deptbus.operations.freshness_report import FreshnessRow, freshness_advice
from deptbus.operations.stages import Stage
from deptbus.operations.verdicts import Verdict

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"


def slug(heading: str) -> str:
    return heading.lower().replace("`", "").replace(" ", "-")


def pages(text: str = TEXT) -> dict[str, str]:
    """Anchor -> what stands there, of the runbook."""
    runbook = text.split("\n## Runbook\n", 1)[1].split("\n## ", 1)[0]
    parts = re.split(r"^### (.+)$", runbook, flags=re.M)[1:]
    return {slug(head): body for head, body in zip(parts[::2], parts[1::2], strict=True)}


def anchors() -> set[str]:
    return {slug(head) for head in re.findall(r"^#+ (.+)$", TEXT, re.M)}


def wanted() -> set[str]:
    verdicts = {page_of(verdict) for verdict in [*Verdict, None]}
    return {where.partition("#")[2] for where in verdicts | {page(word) for word in Word}}


@pytest.mark.parametrize("name", sorted(wanted()))
def test_every_verdict_and_every_word_has_a_page_that_says_something(name: str) -> None:
    assert len(pages()[name]) > 60


def test_no_page_is_left_over() -> None:
    assert set(pages()) == wanted() | (alerts().values() & pages().keys())


def test_whatever_is_advised_leads_to_its_page() -> None:
    row = FreshnessRow("u@33", "d", "o", 1.0, Freshness(None, None, None))
    told = [advice(verdict, stage, "u@33") for verdict in [*Verdict, None] for stage in Stage]
    told += CLUSTER
    for state in [*Fresh, None]:
        said = Freshness(state, None, None)
        told.append(freshness_advice(FreshnessRow(row.unit, row.dataset, row.owner, 1.0, said)))
    for text in told:
        (anchor,) = re.findall(r"See docs/operations\.md#([a-z_-]+)$", text)
        assert anchor in anchors()
    for word, about in ((Word.LATE, Fresh.LATE), (Word.SILENT, Fresh.SILENT)):
        said = Freshness(about, None, None)
        text = freshness_advice(FreshnessRow(row.unit, row.dataset, row.owner, 1.0, said))
        assert text.endswith(page(word))


def test_every_word_has_its_severity() -> None:
    assert SEVERITY.keys() == set(Word)


def alerts() -> dict[str, str]:
    """Alert -> the anchor of its page, by the table."""
    rows = re.findall(r"^\| (`Deptbus.+`) \| \[[^]]+\]\(#([a-z-]+)\) \|$", TEXT, re.M)
    return {name: page for names, page in rows for name in re.findall(r"`(\w+)`", names)}


def test_every_alert_has_a_page() -> None:
    assert len(alerts()) > 15
    assert set(alerts().values()) <= anchors()


def test_the_rules_have_just_these_alerts_and_lead_somewhere() -> None:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    rules = [rule for group in document["groups"] for rule in group["rules"] if "alert" in rule]
    assert {rule["alert"] for rule in rules} == alerts().keys()
    for rule in rules:
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert anchor in {slug(h) for h in re.findall(r"^#+ (.+)$", text, re.M)}, rule["alert"]


def test_a_page_that_is_missing_is_found() -> None:
    """The tests above can fail."""
    without = TEXT.replace("### STALLED", "### Stalled again")
    assert set(pages(without)) != wanted()
    assert "stalled" not in pages(without)

"""The Grafana dashboard is what the list makes of it, and asks for nothing that nobody tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from promql import every_panel, metrics_in, unknown_labels

from deptbus.metrics.catalogue import METRICS
from deptbus.metrics.dashboard import dashboard, text

FILE = Path(__file__).parents[3] / "deploy" / "grafana" / "deptbus.json"


PANELS = list(every_panel(dashboard()["panels"]))
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel.get("targets", ())]


def test_the_file_is_what_the_list_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == text(), "run `python -m deptbus.metrics.dashboard`"
    json.loads(text())


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_what_is_in_the_list(expression: str) -> None:
    assert metrics_in(expression)
    assert unknown_labels(expression) == set()


def test_every_metric_has_a_panel() -> None:
    shown = {metric.name for e in EXPRESSIONS for metric in metrics_in(e)}
    assert shown == {metric.name for metric in METRICS}


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for level in (dashboard()["panels"], *(p["panels"] for p in PANELS if "panels" in p)):
        taken: set[tuple[int, int]] = set()
        for place in (panel["gridPos"] for panel in level):
            columns, lines = range(place["w"]), range(place["h"])
            cells = {(place["x"] + x, place["y"] + y) for x in columns for y in lines}
            assert max(x for x, _ in cells) < 24
            assert not cells & taken
            taken |= cells


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("deptbus_unit_lag_minutes", KeyError),
        ("rate(deptbus_delivered_total_bucket[5m])", KeyError),
    ],
)
def test_planted_metric_that_is_not_in_the_list_is_found(wrong: str, why: type[Exception]) -> None:
    with pytest.raises(why):
        metrics_in(wrong)


def test_planted_label_that_a_metric_has_not_is_found() -> None:
    assert unknown_labels('deptbus_unit_verdict{owner="x"}') == {"owner"}
    assert unknown_labels("sum by (person) (deptbus_unit_verdict)") == {"person"}

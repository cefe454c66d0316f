"""The list of metrics keeps the rules that it states."""

from __future__ import annotations

from pathlib import Path

import pytest

import deptbus
from deptbus.metrics.catalogue import LABELS, METRICS, Kind, Metric, Teller

_KAFKAS = "kafka_"  # names of kafka_exporter, which are not ours to choose
_PERSONAL = {"key", "owner", "operator", "person", "name", "value", "natural", "held_by", "user"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_entry_keeps_the_rules(metric: Metric) -> None:
    assert metric.name.startswith(("deptbus_", _KAFKAS))
    assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
    assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert not metric.name.endswith(("_ms", "_minutes", "_hours", "_days", "_kb", "_mb", "_ratio"))
    assert metric.meaning.endswith(".")
    assert metric.tellers
    assert set(metric.labels) <= LABELS.keys()
    if metric.kind is Kind.STATE:
        assert metric.labels


def test_no_label_is_of_a_person_or_a_record() -> None:
    assert not LABELS.keys() & _PERSONAL


def test_names_are_unique_and_every_label_and_process_is_used() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert {label for metric in METRICS for label in metric.labels} == LABELS.keys()
    assert {teller for metric in METRICS for teller in metric.tellers} == set(Teller)


def test_every_metric_is_told_somewhere() -> None:
    sources = Path(deptbus.__file__).parent.rglob("*.py")
    code = "\n".join(p.read_text("utf-8") for p in sources if p.name != "catalogue.py")
    assert [m.name for m in METRICS if f'"{m.name}"' not in code] == []

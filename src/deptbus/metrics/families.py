"""Entries of the list as families of prometheus_client, to be filled with samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family

from deptbus.metrics.catalogue import BY_NAME, Kind

_KINDS = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.STATE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


class Families:
    """One scrape's families, made when they are first filled, so that what is not known is absent.

    Raises KeyError for a name that is not in the list, ValueError for other labels than it has.
    """

    def __init__(self) -> None:
        self._families: dict[str, Any] = {}  # each kind takes samples of its own form

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families.values())

    def tell(self, name: str, labels: Iterable[str], value: float | None) -> None:
        """One sample of a gauge or counter; `value` None: not known, so nothing is told."""
        if value is not None:
            self._family(name).add_metric(_checked(name, labels), value)

    def tell_state(self, name: str, labels: Iterable[str]) -> None:
        """`labels` end with the state that holds."""
        self._family(name).add_metric(_checked(name, labels), 1)

    def tell_counts(
        self, name: str, labels: Iterable[str], counts: Iterable[int], total: float
    ) -> None:
        """A histogram: `counts` of each bucket alone, the last one of what lies above all bounds;
        `total` is the sum of what was observed."""
        bounds = [*map(_bound, BY_NAME[name].buckets), "+Inf"]
        so_far, buckets = 0, []
        for bound, count in zip(bounds, counts, strict=True):
            so_far += count
            buckets.append((bound, so_far))
        self._family(name).add_metric(_checked(name, labels), buckets, total)

    def _family(self, name: str) -> Any:
        family = self._families.get(name)
        if family is None:
            metric = BY_NAME[name]
            family = _KINDS[metric.kind](name, metric.meaning, labels=metric.labels)
            self._families[name] = family
        return family


def _checked(name: str, labels: Iterable[str]) -> list[str]:
    found = list(labels)
    if len(found) != len(BY_NAME[name].labels):
        raise ValueError(f"{name} has the labels {BY_NAME[name].labels}")
    return found


def _bound(seconds: float) -> str:
    return str(float(seconds))

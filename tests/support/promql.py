"""What PromQL expressions name, as far as our own go; and the panels of a dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from deptbus.metrics.catalogue import BY_NAME, Kind, Metric

_NAME = re.compile(r"\b((?:deptbus|kafka)_[a-z_]+)\b(\{[^}]*\})?")
_MATCHER = re.compile(r'([a-z_]+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
# Labels that Prometheus and its scrape configuration give to everything.
TARGET_LABELS = {"instance", "job", "component", "le"}


def metric_of(name: str) -> Metric:
    """The entry of the list; of a histogram's series too. Raises KeyError."""
    if name in BY_NAME:
        return BY_NAME[name]
    base, _, part = name.rpartition("_")
    metric = BY_NAME[base]
    if metric.kind is not Kind.HISTOGRAM or part not in ("bucket", "sum", "count"):
        raise KeyError(name)
    return metric


def metrics_in(expression: str) -> list[Metric]:
    """Raises KeyError for a name that is not in the list."""
    return [metric_of(name) for name, _ in _NAME.findall(expression)]


def unknown_labels(expression: str) -> set[str]:
    """Labels that are matched, or grouped by, and that none of the named metrics has."""
    found = set()
    for name, matchers in _NAME.findall(expression):
        wanted = set(_MATCHER.findall(matchers))
        found |= wanted - set(metric_of(name).labels) - TARGET_LABELS
    known = {label for metric in metrics_in(expression) for label in metric.labels}
    grouped = {word.strip() for some in _GROUPED.findall(expression) for word in some.split(",")}
    return found | (grouped - known - TARGET_LABELS - {""})


def every_panel(panels: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those that are folded away too."""
    for panel in panels:
        yield panel
        yield from every_panel(panel.get("panels", ()))

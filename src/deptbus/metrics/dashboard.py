"""The Grafana dashboard, made from the list of metrics: `python -m deptbus.metrics.dashboard`.

Above stands what the data office looks at first; below it, folded away, a panel for every metric of
every process, so that a metric that is added is seen without anybody drawing it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from deptbus.metrics.catalogue import METRICS, Kind, Metric, Teller
from deptbus.metrics.reference import TITLES

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH = 24
_OF_UNIT = 'unit=~"$unit"'
# Who has to be looked at: as the alert rules have it.
_NEEDS_A_PERSON = (
    f'deptbus_unit_verdict{{{_OF_UNIT},verdict!~"OK|CATCHING_UP"}} '
    "unless on (unit, stage) deptbus_unit_joined == 0"
)
_AHEAD = ("_due_timestamp_seconds", "_opens_timestamp_seconds")  # in the future, if all is well


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    panels = list(_numbered(_placed([*_overview(), *_rows()])))
    return {
        "uid": "deptbus",
        "title": "deptbus",
        "tags": ["deptbus"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_variable_source(), _variable_unit()]},
        "panels": panels,
    }


def _variable_source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable_unit() -> dict[str, Any]:
    return {
        "name": "unit",
        "label": "unit",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": "label_values(deptbus_unit_verdict, unit)", "refId": "unit"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


# --- what is looked at first ------------------------------------------------------------------


def _overview() -> Iterator[dict[str, Any]]:
    yield _panel("stat", "The last look", "deptbus_look_state", "{{state}}", width=6, height=4)
    yield _panel(
        "stat", "Units by verdict", "count by (verdict) (deptbus_unit_verdict)", "{{verdict}}",
        width=18, height=4,
    )  # fmt: skip
    yield _panel("table", "Who needs a person", _NEEDS_A_PERSON, width=12)
    late = f'deptbus_freshness{{{_OF_UNIT},state!~"fresh|closed"}}'
    yield _panel("table", "Sources that do not keep a promise", late, width=12)
    lag = f"max by (unit, stage) (deptbus_unit_lag_seconds{{{_OF_UNIT}}}) > 0"
    yield _panel("timeseries", "Age of what waits", lag, "{{unit}} {{stage}}", unit="s")
    ways = _quantile(0.99, "deptbus_end_to_end_seconds", ("dataset", "direction"))
    named = "{{dataset}} {{direction}}"
    yield _panel("timeseries", "From desk to desk, 99 of 100 within", ways, named, unit="s")
    rate = "sum by (direction) (rate(deptbus_delivered_total[$__rate_interval]))"
    yield _panel("timeseries", "Deliveries a second", rate, "{{direction}}")
    opened = "deptbus_quarantine_open > 0"
    yield _panel("timeseries", "Quarantine, open", opened, "{{reason}}")


# --- every metric -----------------------------------------------------------------------------


def _rows() -> Iterator[dict[str, Any]]:
    for teller, title in TITLES.items():
        inner = [_panel_of(metric, teller) for metric in METRICS if teller in metric.tellers]
        yield {"type": "row", "title": title, "collapsed": True, "panels": inner}


def _panel_of(metric: Metric, teller: Teller) -> dict[str, Any]:
    chosen = f"{{{_OF_UNIT}}}" if "unit" in metric.labels else ""
    if len(metric.tellers) > 1:
        chosen = f'{{component="{teller.value}"}}'
    labels = metric.labels if len(metric.tellers) == 1 else ("instance",)
    named = " ".join(f"{{{{{label}}}}}" for label in labels) or metric.name
    words: dict[str, Any] = {"about": metric.meaning, "width": 8, "height": 7}
    match metric.kind:
        case Kind.STATE:
            return _panel("table", metric.name, f"{metric.name}{chosen}", **words)
        case Kind.COUNTER:
            expression = f"rate({metric.name}{chosen}[$__rate_interval])"
            title = f"{metric.name}, a second"
            return _panel("timeseries", title, expression, named, **words)
        case Kind.HISTOGRAM:
            expression = _quantile(0.5, metric.name, metric.labels, chosen)
            title = f"{metric.name}, one of two within"
            return _panel("timeseries", title, expression, named, unit="s", **words)
        case Kind.GAUGE:
            expression, title = f"{metric.name}{chosen}", metric.name
            if metric.name.endswith("_timestamp_seconds"):
                is_ahead = metric.name.endswith(_AHEAD)
                expression = f"{expression} - time()" if is_ahead else f"time() - {expression}"
                title = f"{title}, {'from now' if is_ahead else 'ago'}"
            unit = "s" if metric.name.endswith("_seconds") else "short"
            return _panel("timeseries", title, expression, named, unit=unit, **words)


def _quantile(part: float, name: str, labels: Iterable[str], chosen: str = "") -> str:
    by = ", ".join((*labels, "le"))
    counted = f"sum by ({by}) (rate({name}_bucket{chosen}[$__rate_interval]))"
    return f"histogram_quantile({part}, {counted})"


# --- Grafana's form ---------------------------------------------------------------------------


def _panel(
    kind: str,
    title: str,
    expression: str,
    named: str = "",
    *,
    unit: str = "short",
    about: str = "",
    width: int = 12,
    height: int = 8,
) -> dict[str, Any]:
    target: dict[str, Any] = {"refId": "A", "datasource": _SOURCE, "expr": expression}
    panel: dict[str, Any] = {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": _SOURCE,
        "gridPos": {"w": width, "h": height},
        # What is not known is a gap, not a line.
        "fieldConfig": {"defaults": {"unit": unit, "custom": {}}, "overrides": []},
        "options": {},
        "targets": [target],
    }
    if kind == "table":
        target |= {"instant": True, "format": "table"}
        hidden = {"Time": True, "Value": True, "__name__": True, "job": True, "component": True}
        panel["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    else:
        target["legendFormat"] = named
    if kind == "stat":
        target["instant"] = True
        panel["options"] = {"textMode": "value_and_name", "colorMode": "none"}
    if kind == "timeseries":
        panel["fieldConfig"]["defaults"]["custom"] = {"spanNulls": False}
        panel["options"] = {"tooltip": {"mode": "multi"}}
    return panel


def _placed(panels: Iterable[dict[str, Any]], top: int = 0) -> Iterator[dict[str, Any]]:
    """From left to right, in lines of equal height; rows begin lines and place what is in them."""
    left = height = 0
    for panel in panels:
        place = panel.setdefault("gridPos", {"w": _WIDTH, "h": 1})
        if left + place["w"] > _WIDTH:
            left, top = 0, top + height
        place |= {"x": left, "y": top}
        left, height = left + place["w"], place["h"]
        if "panels" in panel:
            panel["panels"] = list(_placed(panel["panels"], top + 1))
        yield panel


def _numbered(panels: Iterable[dict[str, Any]], first: int = 1) -> Iterator[dict[str, Any]]:
    number = first
    for panel in panels:
        panel["id"] = number
        number += 1
        if "panels" in panel:
            panel["panels"] = list(_numbered(panel["panels"], number))
            number += len(panel["panels"])
        yield panel


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    print(text(), end="")

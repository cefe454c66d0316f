"""The tables of docs/metrics.md, made from the list: `python -m deptbus.metrics.reference`."""

from __future__ import annotations

from deptbus.metrics.catalogue import LABELS, METRICS, Metric, Teller

TITLES = {
    Teller.ADAPTER: "An adapter",
    Teller.WORKER: "A worker",
    Teller.MONITOR: "The monitor",
}
BEGIN = "<!-- From here to the end the text is made from the list of metrics. -->"


def reference() -> str:
    """Markdown, from BEGIN on."""
    parts = [BEGIN]
    for teller, title in TITLES.items():
        rows = [_row(metric) for metric in METRICS if teller in metric.tellers]
        parts += ["", f"## {title}", "", "| name | kind | labels | meaning |", "|---|---|---|---|"]
        parts += rows
    parts += ["", "## Labels", "", "| label | what it is |", "|---|---|"]
    parts += [f"| `{label}` | {what} |" for label, what in LABELS.items()]
    return "\n".join(parts) + "\n"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    meaning = metric.meaning
    if metric.buckets:
        bounds = ", ".join(f"{bound:g}" for bound in metric.buckets)
        meaning = f"{meaning} Bounds in seconds: {bounds}."
    return f"| `{metric.name}` | {metric.kind} | {labels} | {meaning} |"


if __name__ == "__main__":
    print(reference(), end="")

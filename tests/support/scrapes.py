"""What a process tells Prometheus, read and held against the list of metrics."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from deptbus.cluster.ports import free_port, is_free
from deptbus.metrics.catalogue import BY_NAME, LABELS, Kind, Teller

# What the client library tells of the process itself.
_OF_THE_PROCESS = ("process_", "python_gc_")
_NUMBER = re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)")  # a resident's
_PARTS = {
    Kind.HISTOGRAM: ("_bucket", "_sum", "_count"),
    Kind.COUNTER: ("",),
    Kind.GAUGE: ("",),
    Kind.STATE: ("",),
}


@dataclass(frozen=True)
class Scrape:
    """`samples`: name, labels, value."""

    text: bytes
    samples: list[tuple[str, dict[str, str], float]]

    def of(self, name: str, **labels: str) -> list[float]:
        """The values of samples that have these labels."""
        return [
            value
            for found, have, value in self.samples
            if found == name and labels.items() <= have.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        return sum(self.of(name, **labels))


def scrape(address: str) -> Scrape:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        text: bytes = answer.read()
    return read(text)


def read(text: bytes) -> Scrape:
    families = text_string_to_metric_families(text.decode())
    return Scrape(text, [(s.name, s.labels, s.value) for f in families for s in f.samples])


def wrongs(found: Scrape, teller: Teller) -> Iterator[str]:
    """What the list does not have, or not of this process; and anything personal."""
    known = {
        metric.name + part: {*metric.labels, *(["le"] if part == "_bucket" else [])}
        for metric in BY_NAME.values()
        if teller in metric.tellers
        for part in _PARTS[metric.kind]
    }
    for name, labels, _ in found.samples:
        if name.startswith(_OF_THE_PROCESS):
            continue
        if name not in known:
            yield f"{name} is not told by {teller}"
        elif labels.keys() != known[name]:
            yield f"{name} has the labels {sorted(labels)}"
        elif not labels.keys() - {"le"} <= LABELS.keys():
            yield f"{name} has a label that is not in the list"
        if any(_NUMBER.search(value) for value in labels.values()):
            yield f"{name} has a resident's number for a label"


def free_ports(count: int) -> int:
    """The first of so many free ports that follow each other."""
    for _ in range(100):
        first = free_port()
        if all(is_free(first + number) for number in range(1, count)):
            return first
    raise OSError(f"no {count} free ports beside each other")

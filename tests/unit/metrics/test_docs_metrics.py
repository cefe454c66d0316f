"""docs/metrics.md has every metric and label as the list has them, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from deptbus.metrics.catalogue import BY_NAME
from deptbus.metrics.reference import BEGIN, reference

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_list() -> None:
    _, begin, tables = PAGE.partition(BEGIN)
    assert begin + tables == reference(), "run `python -m deptbus.metrics.reference`"


def test_the_text_names_no_other_metric() -> None:
    found = set(re.findall(r"\b(?:deptbus|kafka)_[a-z_]+\b", PAGE)) - {"kafka_exporter"}
    assert found == BY_NAME.keys()

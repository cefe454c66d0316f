"""What `deptbus reconcile` says to people of what a source holds back."""

from __future__ import annotations

import pytest

from deptbus.cli.reconcile_view import print_reconciled
from deptbus.operations.leg import Finding, LegResult
from deptbus.operations.reconcile import Reconciled
from deptbus.proof.certificate import HELD


@pytest.mark.parametrize(
    ("classes", "verdict"),
    [
        ({HELD: 1200}, "0 differences, and 1,200 keys are held at their source"),
        ({HELD: 1200, "wrong": 3}, "3 differences, and 1,200 keys are held at their source"),
    ],
)
def test_what_is_held_is_said_with_what_ends_it(
    capsys: pytest.CaptureFixture[str], classes: dict[str, int], verdict: str
) -> None:
    findings = [Finding(bytes([n]) * 16, HELD, str(n)) for n in (10, 9, 9)]
    leg = LegResult(
        "source", "police@330106", "main", "person", by_class=classes, findings=tuple(findings)
    )
    print_reconciled(Reconciled((leg,), (), 0.0), None, None)
    said = " ".join(capsys.readouterr().out.split())
    assert "police@330106 person: 1,200 keys went at once" in said
    assert (
        "`deptbus department release --held 9 --yes` and "
        "`deptbus department release --held 10 --yes`"
    ) in said
    assert said.endswith(verdict)

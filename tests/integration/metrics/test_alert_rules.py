"""Alert rules in Prometheus' own hands: what makes each fire, and what must not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_tools import RULES, Case, test_rules
from promql import every_panel

from deptbus.metrics.dashboard import dashboard

pytestmark = pytest.mark.service

AT = 'unit="housing@330106",stage="apply"'
SOURCE = 'unit="housing@330106",dataset="housing_unit"'
LEG = f'{SOURCE},leg="copy"'
SYSTEM = 'unit="housing@330106",system="main"'
# What a monitor that looks tells all the time.
LOOKS = {
    'deptbus_look_state{state="whole"}': "1x200",
    "deptbus_look_timestamp_seconds": "0+60x200",
    'deptbus_quarantine_open{reason="fenced"}': "0x200",
}
JOINED = {f"deptbus_unit_joined{{{AT}}}": "1x200"}
TEXT = RULES.read_text(encoding="utf-8")
RULE_BY_NAME = {
    rule["alert"]: rule for group in yaml.safe_load(TEXT)["groups"] for rule in group["rules"]
}
VERDICTS = ("LOST", "STOPPED", "STALLED", "REWOUND", "GROWING", "BEHIND", "UNKNOWN")


def verdict(word: str) -> str:
    return f'deptbus_unit_verdict{{{AT},verdict="{word}"}}'


def alert_of(word: str) -> str:
    return f"DeptbusUnit{word.capitalize()}"


def minutes_of(alert: str) -> int:
    wait = RULE_BY_NAME[alert]["for"]
    return int(wait[:-1]) * {"m": 1, "h": 60}[wait[-1]]


def case(name: str, series: dict[str, str], minutes: int, *fires: str, looks: bool = True) -> Case:
    return Case(name, (LOOKS if looks else {}) | series, minutes, frozenset(fires))


def verdict_cases() -> list[Case]:
    found = []
    for word in VERDICTS:
        alert, here = alert_of(word), verdict(word)
        wait = minutes_of(alert)
        lasting = JOINED | {here: "1x200"}
        found += [
            case(f"{word} fires", lasting, wait + 1, alert),
            case(f"{word} waits first", lasting, wait - 1) if wait > 1 else case(word, LOOKS, 5),
            # Bad until a moment before it would be told, then well; and again.
            case(
                f"{word} is a dip",
                JOINED
                | {here: f"1x{wait - 1} stale _x2 1x{wait - 1} stale",
                   verdict("OK"): f"_x{wait} 1x2 _x{wait} 1x200"},
                2 * wait + 4,
            ),
            case(
                f"{word} before the unit joined",
                {here: "1x200", f"deptbus_unit_joined{{{AT}}}": "0x200"},
                wait + 10,
            ),
        ]  # fmt: skip
    return found


# Transaction markers only: offsets differ for hours, nothing waits.
PHANTOM = {
    verdict("OK"): "1x200",
    f"deptbus_unit_lag_records{{{AT}}}": "0x200",
    f"deptbus_unit_lag_seconds{{{AT}}}": "0x200",
    'kafka_consumergroup_lag{consumergroup="g",topic="in.housing-330106",partition="0"}': "0x200",
    'kafka_consumergroup_current_offset{consumergroup="g",topic="in.housing-330106",partition="0"}':
        "7x200",
    'kafka_topic_partition_current_offset{topic="in.housing-330106",partition="0"}': "9x200",
    'deptbus_partition_state{consumergroup="g",topic="in.housing-330106",partition="0",'
    'state="phantom"}': "1x200",
}  # fmt: skip


def margin(seconds: str) -> dict[str, str]:
    return {f"deptbus_unit_margin_seconds{{{AT}}}": seconds}


def end_to_end(slow: int) -> dict[str, str]:
    """A hundred changes a minute; of each hundred so many took longer than a minute."""
    where = 'dataset="resident",direction="upward"'
    name = "deptbus_end_to_end_seconds_bucket"
    return {
        f'{name}{{{where},le="0.05"}}': f"0+{100 - slow}x200",
        f'{name}{{{where},le="60.0"}}': f"0+{100 - slow}x200",
        f'{name}{{{where},le="300.0"}}': "0+100x200",
        f'{name}{{{where},le="+Inf"}}': "0+100x200",
    }


CASES = [
    *verdict_cases(),
    case("all is well", JOINED | {verdict("OK"): "1x200"} | margin("9e99x200"), 120),
    case("phantom lag", JOINED | PHANTOM | margin("3600x200"), 120),
    case("catching up", JOINED | {verdict("CATCHING_UP"): "1x200"} | margin("90000x200"), 120),
    # A look that fails as a whole: everything is absent beside the state, and that is told once.
    case(
        "the bus is away",
        JOINED | {verdict("STOPPED"): "1x3 stale", f"deptbus_unit_joined{{{AT}}}": "1x3 stale"}
        | {'deptbus_look_state{state="unreachable"}': "_x3 1x200",
           'deptbus_look_state{state="whole"}': "1x3 stale"},
        60, "DeptbusBusUnreachable", looks=False,
    ),
    case(
        "the bus is away for a moment",
        {'deptbus_look_state{state="unreachable"}': "1x2 stale",
         'deptbus_look_state{state="whole"}': "_x2 1x200"},
        60, looks=False,
    ),
    case(
        "a broker is away",
        {'deptbus_look_state{state="partial"}': "1x200",
         "deptbus_look_timestamp_seconds": "0+60x200"},
        12, "DeptbusBusPartly", looks=False,
    ),
    case("nobody looks", {}, 6, "DeptbusMonitorGone", looks=False),
    case("a monitor starts again", {'deptbus_look_state{state="whole"}': "_x4 1x200"}, 20,
         looks=False),
    case(
        "looks do not end",
        {'deptbus_look_state{state="whole"}': "1x200", "deptbus_look_timestamp_seconds": "0x200"},
        12, "DeptbusMonitorGone", looks=False,
    ),
    case("margin", JOINED | {verdict("STOPPED"): "1x200"} | margin("7200-60x200"), 11,
         "DeptbusMarginShort", "DeptbusUnitStopped"),
    case("margin of who is well", JOINED | {verdict("OK"): "1x200"} | margin("7200x200"), 60),
    case("margin that is not known", JOINED | {verdict("STOPPED"): "1x200"}, 60,
         "DeptbusUnitStopped"),
    case("parked", {f"deptbus_unit_parked_rows{{{AT}}}": "3x200"}, 61, "DeptbusRowsParked"),
    case("parked and retried", {f"deptbus_unit_parked_rows{{{AT}}}": "3x50 0x200"}, 61),
    case("a copy differs", {f'deptbus_proof_state{{{LEG},state="different"}}': "1x200"}, 11,
         "DeptbusCopyDiffers"),
    case("a copy differed and was mended",
         {f'deptbus_proof_state{{{LEG},state="different"}}': "1x8 stale",
          f'deptbus_proof_state{{{LEG},state="equal"}}': "_x8 1x200",
          f"deptbus_proof_differences{{{LEG}}}": "5x8 0x200"}, 60),
    case("removals are held", {f'deptbus_proof_state{{{LEG},state="held"}}': "1x200"}, 11,
         "DeptbusRemovalsHeld"),
    case("a proof is late", {f'deptbus_proof_state{{{LEG},state="late"}}': "1x200"}, 31,
         "DeptbusProofLate"),
    # Proved long ago, or never, and the contract asks for none: nobody's matter.
    case("a proof by hand is old", {f'deptbus_proof_state{{{LEG},state="equal"}}': "1x200",
                                    f"deptbus_proof_timestamp_seconds{{{LEG}}}": "0x200"}, 120),
    case("never proved", {f'deptbus_proof_state{{{LEG},state="unproved"}}': "1x200"}, 120),
    case("late", {f'deptbus_freshness{{{SOURCE},state="late"}}': "1x200"}, 11,
         "DeptbusSourceLate"),
    case("silent", {f'deptbus_freshness{{{SOURCE},state="silent"}}': "1x200"}, 11,
         "DeptbusSourceSilent"),
    case("closed", {f'deptbus_freshness{{{SOURCE},state="closed"}}': "1x200"}, 70),
    case("freshness unknown", {f'deptbus_freshness{{{SOURCE},state="unknown"}}': "1x200"}, 61,
         "DeptbusFreshnessUnknown"),
    case("quarantine grows", {'deptbus_quarantine_open{reason="bad_division"}': "0x40 1+1x200"},
         50, "DeptbusQuarantineGrows"),
    case("quarantine as it was", {'deptbus_quarantine_open{reason="bad_division"}': "5x200"}, 60),
    case("quarantine resolved at once",
         {'deptbus_quarantine_open{reason="bad_division"}': "0x40 1x2 0x200"}, 50),
    case("quarantine could not be read for a while",
         {'deptbus_quarantine_open{reason="bad_division"}': "5x40 stale _x9 5x200"}, 60),
    Case("quarantine for a day", LOOKS | {
        "deptbus_look_timestamp_seconds": "0+1800x60",
        'deptbus_quarantine_open{reason="bad_division"}': "5x60",
    }, 1470, frozenset({"DeptbusQuarantineOpen"}), step=30),
    case("notices do not arrive", {'deptbus_alarm_notices_pending{way="webhook"}': "2x200"}, 31,
         "DeptbusAlarmsDoNotArrive"),
    case("notices arrive", {'deptbus_alarm_notices_pending{way="webhook"}': "2x20 0x1 1x25 0x99"},
         100),
    case("hold",
         {'deptbus_hold_begun_timestamp_seconds{unit="housing@330106",dataset=""}': "-259200x200"},
         7, "DeptbusHoldTooLong"),
    case("hold since today",
         {'deptbus_hold_begun_timestamp_seconds{unit="housing@330106",dataset=""}': "0x200"}, 180),
    case("end to end", end_to_end(5), 40, "DeptbusEndToEndSlow"),
    case("end to end, one in a thousand", end_to_end(0), 40),
    case("adapter gone", {'up{component="adapter",instance="a:9464"}': "1x10 0x200"}, 20,
         "DeptbusProcessGone"),
    case("worker gone", {'up{component="worker",instance="w:9464"}': "1x10 0x200"}, 20,
         "DeptbusProcessGone"),
    case("adapter starts again", {'up{component="adapter",instance="a:9464"}': "1x10 0x3 1x200"},
         30),
    case("another job is gone", {'up{job="node"}': "0x200"}, 20),
    case("stopped", {f'deptbus_system_state{{{SYSTEM},state="stopped"}}': "1x200"}, 2,
         "DeptbusSystemStopped"),
    case("waits", {f'deptbus_system_state{{{SYSTEM},state="waiting"}}': "1x200"}, 11,
         "DeptbusSystemWaits"),
    case("waits for a moment",
         {f'deptbus_system_state{{{SYSTEM},state="waiting"}}': "1x5 stale",
          f'deptbus_system_state{{{SYSTEM},state="running"}}': "_x5 1x200"}, 30),
]  # fmt: skip


def test_promtool_finds_the_rules_right(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_reads_every_expression_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    """As rules, because promtool has no other door for them."""
    words = {"$unit": ".*", "$__rate_interval": "5m"}
    rules = []
    for panel in every_panel(dashboard()["panels"]):
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for word, value in words.items():
                expression = expression.replace(word, value)
            rules.append({"record": f"shown:panel_{len(rules)}", "expr": expression})
    (tmp_path / "shown.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "shown", "rules": rules}]}), encoding="utf-8"
    )
    done = subprocess.run(
        [promtool, "check", "rules", tmp_path / "shown.yml"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_no_other(promtool: str, tmp_path: Path) -> None:
    assert test_rules(promtool, TEXT, CASES, tmp_path) == ""


def test_there_is_a_case_that_fires_for_each_alert() -> None:
    assert {name for one in CASES for name in one.fires} == RULE_BY_NAME.keys()


@pytest.mark.parametrize(
    ("bug", "right", "wrong", "found_by"),
    [
        (
            "a rule on offsets counts transaction markers",
            'deptbus_unit_verdict{verdict="BEHIND"} == 1',
            "label_replace(max by (unit, stage) (deptbus_unit_joined * on () group_left () "
            "(kafka_topic_partition_current_offset > 8)), \"verdict\", \"BEHIND\", \"\", \"\")",
            "phantom lag",
        ),
        ("a rule that does not wait", "for: 5m\n        labels: {severity: warning}\n"
         "        annotations:\n          <<: *unit\n          runbook: docs/operations.md#stopped",
         "for: 0m\n        labels: {severity: warning}\n"
         "        annotations:\n          <<: *unit\n          runbook: docs/operations.md#stopped",
         "STOPPED is a dip"),
        ("an absent monitor is taken for a quiet one", "absent(deptbus_look_state) or ", "",
         "nobody looks"),
        ("unknown is nobody's matter", 'verdict="UNKNOWN"} == 1', 'verdict="UNKNOWN"} == 2',
         "UNKNOWN fires"),
        ("a unit that never began rings", 'verdict="STALLED"} == 1 unless on (unit, stage) '
         "deptbus_unit_joined == 0", 'verdict="STALLED"} == 1',
         "STALLED before the unit joined"),
        ("who is well is rung for his margin", 'verdict!~"OK|UNKNOWN"', 'verdict!~"UNKNOWN"',
         "margin of who is well"),
    ],
)  # fmt: skip
def test_planted_bugs_in_rules_are_found(
    promtool: str, tmp_path: Path, bug: str, right: str, wrong: str, found_by: str
) -> None:
    assert TEXT.count(right) == 1, bug
    (named,) = [one for one in CASES if one.name == found_by]
    assert test_rules(promtool, TEXT.replace(right, wrong), [named], tmp_path) != ""

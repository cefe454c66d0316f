"""Routing once more, written straight from the table of the design: slow, plain, and on its own.

It shares no code with deptbus.routing and uses the contract as plain JSON. It looks at every unit
for every change.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

LEVELS = {2: "province", 4: "prefecture", 6: "county", 9: "township", 12: "village"}


def china_day(now: datetime) -> date:
    return (now.replace(tzinfo=None) - now.utcoffset() + timedelta(hours=8)).date()  # type: ignore[operator]


def table(source: str, unit: str, place: str) -> str | None:
    s, t = source.split("@")
    u, x = unit.split("@")
    x_is_ancestor_of_t = len(x) < len(t) and t[: len(x)] == x
    x_is_descendant_of_t = len(t) < len(x) and x[: len(t)] == t
    x_covers_d = place[: len(x)] == x
    d_covers_x = x[: len(place)] == place
    if x == t:
        return "horizontal"
    if x_is_ancestor_of_t and u == s:
        return "upward"
    if x_is_descendant_of_t and u == s and (x_covers_d or d_covers_x):
        return "downward"
    if x_is_descendant_of_t and u != s and d_covers_x and place != x:
        return "downward"
    if x_is_descendant_of_t and u != s and x_covers_d:
        return "return"
    return None


def open_fields(
    contract: dict[str, Any], activated: datetime, change: Any, unit: str, place: str, now: datetime
) -> tuple[str, str, list[str], set[str]] | None:
    """(direction, rule, grants that add something, fields) of one unit about one place."""
    dataset = contract["datasets"][change.dataset]
    territory = change.source_unit.split("@")[1]
    if unit == change.source_unit or len(place) not in LEVELS:
        return None
    if not place.isdigit() or place[: len(territory)] != territory:
        return None
    shared = set()
    for name, schema in contract["schemas"].items():
        if name.split(".")[0] == change.dataset:
            shared |= {f["name"] for f in schema["fields"]}
    shared = {f for f in shared if dataset["sharing"].get(f) in ("unconditional", "conditional")}

    direction, by_rule, rule_name = table(change.source_unit, unit, place), set(), None
    for rule in dataset["receivers"]:
        level = LEVELS[len(unit.split("@")[1])]
        if rule["direction"] != direction or unit.split("@")[0] not in rule["lines"]:
            continue
        if rule["levels"] and level not in rule["levels"]:
            continue
        rule_name = rule["rule"]
        by_rule = {f for f in rule["fields"] if dataset["sharing"].get(f) == "unconditional"}
        by_rule &= shared
        break

    fields, used = set(by_rule), []
    for grant in contract["grants"]:
        if grant["unit"] != unit or grant["dataset"] != change.dataset:
            continue
        starts, until = date.fromisoformat(grant["starts"]), date.fromisoformat(grant["until"])
        had_started = starts <= china_day(activated) <= until
        if not had_started or china_day(now) > until:
            continue
        if place[: len(grant["territory"])] != grant["territory"]:
            continue
        if shared & set(grant["fields"]):
            fields |= shared & set(grant["fields"])
            used.append(grant)
    if not fields:
        return None
    if rule_name is None:
        return "granted", used[0]["grant"], used, fields  # type: ignore[return-value]
    used = [g for g in used if (shared & set(g["fields"])) - by_rule]
    return direction, rule_name, used, fields  # type: ignore[return-value]


def route(policy: Any, change: Any, now: datetime) -> list[tuple[Any, ...]]:
    """(unit, op, direction, rule, grants, fields) of every recipient, by unit."""
    contract = policy.contract.model_dump(mode="json")
    dataset = contract["datasets"].get(change.dataset)
    if dataset is None or change.source_unit not in [u["unit"] for u in contract["units"]]:
        return []
    line, territory = change.source_unit.split("@")
    if line != dataset["line"] or LEVELS[len(territory)] not in dataset["levels"]:
        return []
    if change.division[: len(territory)] != territory or len(change.division) not in LEVELS:
        return []
    schema = contract["schemas"].get(f"{change.dataset}.v{change.schema_version}")
    if schema is None:
        return []
    names = [f["name"] for f in schema["fields"]]

    found = []
    for unit in sorted(u["unit"] for u in contract["units"]):
        ask = (contract, policy.activated_at, change, unit)
        here = open_fields(*ask, change.division, now)
        if here and change.op == "delete" and change.reason == "removed":
            direction, rule, grants, _ = here
            named = tuple(g["grant"] for g in grants)
            found.append((unit, "delete", direction, rule, named, ()))
            continue
        if here and change.op == "upsert" and any(f in here[3] for f in names):
            direction, rule, grants, fields = here
            kept = tuple(f for f in names if f in fields)
            by_rule = _free(dataset, rule)
            named = tuple(
                g["grant"]
                for g in grants
                if any(f in kept and f not in by_rule for f in g["fields"])
            )
            found.append((unit, "upsert", direction, rule, named, kept))
            continue
        for place in (change.division, *change.former_divisions):
            before = open_fields(*ask, place, policy.activated_at)
            if before:
                direction, rule, grants, _ = before
                named = tuple(g["grant"] for g in grants)
                found.append((unit, "withdraw", direction, rule, named, ()))
                break
    return found


def _free(dataset: dict[str, Any], rule_name: str) -> set[str]:
    for rule in dataset["receivers"]:
        if rule["rule"] == rule_name:
            return {f for f in rule["fields"] if dataset["sharing"].get(f) == "unconditional"}
    return set()

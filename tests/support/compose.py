"""docker-compose.yml as its programs see it: variables replaced, anchors merged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]

_VARIABLE = re.compile(r"\$\{([A-Z_]+):\?\}")


def password_of(variable: str) -> str:
    """What the tests put where `.env` would have a password."""
    return f"{variable.lower()}-x"


def variables() -> set[str]:
    return set(_VARIABLE.findall(_text()))


def compose() -> dict[str, Any]:
    return yaml.safe_load(_VARIABLE.sub(lambda match: password_of(match[1]), _text()))


def broker_settings(service: dict[str, Any]) -> dict[str, str]:
    """The settings that deploy/broker.sh writes for this service."""
    return {
        name.removeprefix("BROKER_").replace("___", "-").replace("_", ".").lower(): value
        for name, value in service["environment"].items()
        if name.startswith("BROKER_")
    }


def brokers() -> dict[str, dict[str, Any]]:
    services = compose()["services"]
    return {name: services[name] for name in services if name.startswith("kafka-")}


def _text() -> str:
    return (ROOT / "docker-compose.yml").read_text(encoding="utf-8")

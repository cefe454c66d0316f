"""A small contract that is right, and the means to plant one mistake in it."""

from __future__ import annotations

from pathlib import Path

TOPICS = """\
partitions: 4
datasets:
  resident:
    title: Resident
    title_zh: 居民
    line: police
    levels: [county]
    schema_version: 1
    key: [resident_id]
    division: place
    sharing:
      resident_id: unconditional
      name: unconditional
      place: unconditional
      born: unconditional
      phone: conditional
      religion: not_shared
    checks:
      resident_id: resident_id
      place: division
    receivers:
      - rule: sideways
        direction: horizontal
        lines: [housing]
        fields: [resident_id, name, place, phone]
      - rule: home
        direction: return
        lines: [street]
        levels: [township]
        fields: [resident_id, name, place]
    retention_hours: 48
    freshness_hours: 24
  flat:
    title: Flat
    title_zh: 房
    line: housing
    levels: [county]
    schema_version: 1
    key: [code]
    division: place
    sharing:
      code: unconditional
      place: unconditional
    receivers:
      - rule: police
        direction: horizontal
        lines: [police]
        fields: [code, place]
"""

DEPARTMENTS = """\
territories:
  "33": 浙江省
  "3301": 杭州市
  "330106": 西湖区
  "330106109": 三墩镇
lines:
  police: {title: Police, title_zh: 公安}
  housing: {title: Housing, title_zh: 住建}
  street:
    title: Street
    title_zh: 街道
units:
  - unit: police@330106
    title: District police
    title_zh: 公安分局
    owner: 值班室
  - unit: housing@330106
    title: District housing
    title_zh: 住建局
    owner: 办公室
    systems: [main, archive]
  - unit: street@330106109
    title: Sandun
    title_zh: 三墩镇
    owner: 大厅
    key_fingerprint: 0123456789abcdef0123456789abcdef
"""

GRANTS = """\
grants:
  - grant: phone_for_housing
    unit: housing@330106
    dataset: resident
    fields: [phone]
    purpose: 联系住户
    territory: "330106"
    starts: 2026-01-01
    until: 2028-12-31
"""

RESIDENT = """\
{
  "type": "record",
  "name": "Resident",
  "fields": [
    {"name": "resident_id", "type": "string"},
    {"name": "name", "type": "string"},
    {"name": "place", "type": "string"},
    {"name": "born", "type": ["null", {"type": "int", "logicalType": "date"}], "default": null},
    {"name": "phone", "type": ["null", "string"], "default": null}
  ]
}
"""

FLAT = """\
{
  "type": "record",
  "name": "Flat",
  "fields": [
    {"name": "code", "type": "string"},
    {"name": "place", "type": "string"}
  ]
}
"""

FILES = {
    "topics.yml": TOPICS,
    "departments.yml": DEPARTMENTS,
    "grants.yml": GRANTS,
    "schemas/resident.v1.avsc": RESIDENT,
    "schemas/flat.v1.avsc": FLAT,
}


def write(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory


def edited(file: str, old: str, new: str) -> dict[str, str]:
    """The small contract with one edit; the text to replace must stand there exactly once."""
    assert FILES[file].count(old) == 1, f"{old!r} stands {FILES[file].count(old)} times in {file}"
    return {**FILES, file: FILES[file].replace(old, new)}

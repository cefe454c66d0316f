"""A register of people at its source, and the same people as two departments typed them years ago:
own columns, own codes, own spellings, some wrong, some twice; and tables that refer to them.

Who differs how follows from a person's number alone. The referee, who counts in SQL, knows nothing
of that: see `typed_referee`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import yaml

SOURCE, LITE, GRES = "police@330106", "housing@330106", "civil_affairs@330106"
PLACE = "330106109"

_WIDE = str.maketrans("0123456789", "０１２３４５６７８９")

SCHEMA = {
    "type": "record",
    "name": "Person",
    "doc": "One person",
    "fields": [
        {"name": "number", "type": "string"},
        {"name": "place", "type": "string"},
        {"name": "name", "type": "string"},
        {"name": "born", "type": {"type": "int", "logicalType": "date"}},
        {
            "name": "sex",
            "type": {"type": "enum", "name": "Sex", "symbols": ["male", "female"]},
        },
        {"name": "household", "type": "string"},
        {"name": "phone", "type": ["null", "string"], "default": None},
    ],
}

# Both departments' tables, but for what numbers their rows.
OWN_COLUMNS = (
    "证号 TEXT, 姓名 TEXT NOT NULL, 出生 TEXT, 性别 TEXT, 户号 INTEGER, 电话 TEXT, "
    "备注 TEXT, 建档 TEXT NOT NULL, 状态 TEXT"
)
OWN = ("编号", "证号", "姓名", "出生", "性别", "户号", "电话", "备注", "建档", "状态")

RECEIVES = {
    "table": "人员",
    "columns": {
        "number": "证号", "name": "姓名", "born": "出生", "sex": "性别", "household": "户号",
        "phone": "电话",
    },
    "key": ["证号"],
    "match": ["证号"],
    "values": {"sex": {"1": "male", "2": "female"}},
    "also": {"sex": {"男": "male", "女": "female", "M": "male", "F": "female"}},
    "forms": {
        "证号": "narrow, upper", "出生": "date YYYYMMDD", "户号": "digits 6", "电话": "narrow",
    },
    "defaults": {"建档": "总线"},
    "mark": {"状态": "迁出"},
}  # fmt: skip


def number_of(n: int) -> str:
    return f"33010619{n:09}X"


def person(n: int) -> tuple[str, str, str, str, str, str, str | None]:
    """As the source has it, in the order of the schema."""
    born = f"{1930 + n % 80}-{1 + n % 12:02}-{1 + n % 28:02}"
    phone = None if n % 7 == 0 else f"1{n:010}"
    return (
        number_of(n), PLACE, f"人{n}", born, ("male", "female")[n % 2], f"{n % 90_000:06}", phone,
    )  # fmt: skip


Typed = tuple[str | None, str, str | None, str | None, int | None, str | None, str | None]


def typed(n: int) -> Iterator[Typed]:
    """The rows that a department typed for this person: none, one or two; all but the own key, what
    the department alone knows, and the mark."""
    number, _, name, born, sex, household, phone = person(n)
    kind = n % 100
    own: str | None = number
    day: str | None = born.replace("-", "")
    code, house = ("1" if sex == "male" else "2"), int(household)
    if kind == 0:
        phone = "变了"
    elif kind == 1:
        day = "19000101"
    elif kind == 2:
        name, house = f"{name}甲", house + 1
    elif kind == 3:
        yield own, name, day, code, house, phone, "twice"
        own, day = number.lower(), born
    elif kind in (4, 5):
        own, day = number.translate(_WIDE), born.replace("-", "/").replace("/0", "/")
    elif kind in (6, 7):
        code, own = "男" if sex == "male" else "F", f" {number} "
        phone = None if phone is None else phone.translate(_WIDE)
    elif kind == 8:
        year, month, of_month = born.split("-")
        day = f"{year}年{int(month)}月{int(of_month)}日"
    elif kind == 10:
        day, code = "不详", "9"  # cannot be read
    elif kind == 11:
        return  # nobody typed him
    elif kind == 12:
        own = f"旧证{n}"  # nobody knows whose this is
    elif kind == 13:
        own = None
    yield own, name, day, code, house, phone, f"户主{n}"


# Behind a source's path, so many people that only the department knows.
def strangers(people: int) -> range:
    return range(people, people + people // 50)


def rows_of(people: int) -> Iterator[tuple[object, ...]]:
    """All rows of a department's table, in the order of OWN."""
    at = 0
    for n in range(people + people // 50):
        for row in typed(n):
            at += 1
            yield (at, *row, "手工", None)


def write_contract(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = {"police": "公安", "housing": "住建", "civil_affairs": "民政"}
    unit_of = {"police": SOURCE, "housing": LITE, "civil_affairs": GRES}
    _write(
        folder / "departments.yml",
        {
            "territories": {"33": "浙江省", "3301": "杭州市", "330106": "西湖区", PLACE: "三墩镇"},
            "lines": {n: {"title": n, "title_zh": zh} for n, zh in lines.items()},
            "units": [
                {"unit": unit_of[n], "title": n, "title_zh": zh, "owner": "信息科"}
                for n, zh in lines.items()
            ],
        },
    )
    fields = [field["name"] for field in SCHEMA["fields"]]  # type: ignore[index]
    given = list(RECEIVES["columns"])  # type: ignore[call-overload]
    _write(
        folder / "topics.yml",
        {
            "datasets": {
                "person": {
                    "title": "Person",
                    "title_zh": "人口",
                    "line": "police",
                    "levels": ["county"],
                    "schema_version": 1,
                    "key": ["number"],
                    "division": "place",
                    "sharing": dict.fromkeys(fields, "unconditional"),
                    "receivers": [
                        {
                            "rule": "people",
                            "direction": "horizontal",
                            "lines": ["housing", "civil_affairs"],
                            "fields": given,
                        }
                    ],
                }
            }
        },
    )
    _write(folder / "grants.yml", {"grants": []})
    (folder / "schemas").mkdir(exist_ok=True)
    _write(folder / "schemas" / "person.v1.avsc", SCHEMA, as_json=True)


def _write(path: Path, content: object, *, as_json: bool = False) -> None:
    import json

    text = json.dumps(content) if as_json else yaml.safe_dump(content, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def write_department(folder: Path, unit: str, database: str, *, publishes: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = [field["name"] for field in SCHEMA["fields"]]  # type: ignore[index]
    side: dict[str, object] = (
        {"publishes": {"person": {"table": "register", "columns": {n: n for n in names}}}}
        if publishes
        else {"receives": {"person": RECEIVES}}
    )
    path = folder / "department.yml"
    _write(path, {"unit": unit, "systems": {"main": {"database": database, **side}}})
    return path


def make_source(path: Path, people: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as c, c:
        c.execute(
            "CREATE TABLE register (number TEXT PRIMARY KEY, place TEXT, name TEXT, born TEXT, "
            "sex TEXT, household TEXT, phone TEXT)"
        )
        c.executemany(
            "INSERT INTO register VALUES (?, ?, ?, ?, ?, ?, ?)", map(person, range(people))
        )

"""Counts in SQL what typed rows are beside the source's register, and looks at each row afterwards.

It shares nothing with deptbus: the rules of the mapping are written here once more, in SQL, for
both databases. `register` is a table with the source's rows in the department's database, or beside
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Ask = Callable[[str], Sequence[Sequence[Any]]]

_WIDE = "０１２３４５６７８９"


def _narrow(column: str, *, is_lite: bool) -> str:
    if is_lite:
        for digit, wide in enumerate(_WIDE):
            column = f"replace({column}, '{wide}', '{digit}')"
        return f"trim({column})"
    return f"trim(translate({column}, '{_WIDE}', '0123456789'))"


def _day(column: str, *, is_lite: bool) -> str:
    """YYYYMMDD of what can be read; NULL of what cannot."""
    plain = (
        f"replace(replace(replace(replace({column}, '年', '/'), '月', '/'), '日', ''), '-', '/')"
    )
    if is_lite:
        rest = f"substr({plain}, 6)"
        return (
            f"CASE WHEN {column} GLOB '[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]' THEN {column} "
            f"WHEN {plain} GLOB '[0-9][0-9][0-9][0-9]/*/*' THEN substr({plain}, 1, 4) || "
            f"printf('%02d', substr({rest}, 1, instr({rest}, '/') - 1)) || "
            f"printf('%02d', substr({rest}, instr({rest}, '/') + 1)) END"
        )
    return (
        f"CASE WHEN {column} ~ '^[0-9]{{8}}$' THEN {column} "
        f"WHEN {plain} ~ '^[0-9]{{4}}/[0-9]+/[0-9]+$' THEN split_part({plain}, '/', 1) || "
        f"lpad(split_part({plain}, '/', 2), 2, '0') || "
        f"lpad(split_part({plain}, '/', 3), 2, '0') END"
    )


def _sex(column: str) -> str:
    return (
        f"CASE WHEN {column} IN ('1', '男', 'M') THEN '1' WHEN {column} IN ('2', '女', 'F') "
        "THEN '2' END"
    )


def _read(*, is_lite: bool) -> dict[str, str]:
    """`own_read`: the department's rows as the bus would spell them; `bus_read`: the source's;
    `pair`: each record with how many rows match it."""
    sex = "CASE sex WHEN 'male' THEN '1' ELSE '2' END"
    return {
        "own_read": f"SELECT 编号, upper({_narrow('证号', is_lite=is_lite)}) AS number, "
        f"姓名 AS name, {_day('出生', is_lite=is_lite)} AS born, {_sex('性别')} AS sex, "
        f"户号 AS household, {_narrow('电话', is_lite=is_lite)} AS phone, "
        "证号 AS w1, 出生 AS w2, 性别 AS w3, 电话 AS w4 FROM 人员",
        "bus_read": f"SELECT number, name, replace(born, '-', '') AS born, {sex} AS sex, "
        "CAST(household AS INTEGER) AS household, phone FROM register",
        "many": "SELECT number, count(*) AS rows FROM own_read WHERE number IS NOT NULL "
        "GROUP BY number",
        "pair": "SELECT b.number, coalesce(m.rows, 0) AS rows FROM bus_read b "
        "LEFT JOIN many m ON m.number = b.number",
    }


_COLUMNS = {"姓名": "name", "出生": "born", "性别": "sex", "户号": "household", "电话": "phone"}


def counts(ask: Ask, *, is_lite: bool) -> dict[str, Any]:
    """What `compare` should say, in its words; of the rows that `note_before` has read."""
    differs = " OR ".join(f"own.{c} IS DISTINCT FROM bus.{c}" for c in _COLUMNS.values())
    otherwise = (
        "own.w1 IS DISTINCT FROM bus.number OR own.w2 IS DISTINCT FROM bus.born "
        "OR own.w3 IS DISTINCT FROM bus.sex OR own.w4 IS DISTINCT FROM bus.phone"
    )
    one = (
        "FROM pair JOIN bus_read bus ON bus.number = pair.number "
        "JOIN own_read own ON own.number = pair.number WHERE pair.rows = 1"
    )

    def number(sql: str) -> int:
        # SQLite's word for it before 3.39.
        sql = sql.replace("IS DISTINCT FROM", "IS NOT") if is_lite else sql
        return int(ask(sql)[0][0])

    same = f"SELECT count(*) {one} AND NOT ({differs})"
    return {
        "records": number("SELECT count(*) FROM bus_read"),
        "rows": number("SELECT count(*) FROM own_read"),
        "same": number(same),
        "spelled_otherwise": number(f"{same} AND ({otherwise})"),
        "different": number(f"SELECT count(*) {one} AND ({differs})"),
        "only_here": number(
            "SELECT count(*) FROM own_read own LEFT JOIN bus_read bus ON bus.number = own.number "
            "WHERE bus.number IS NULL"
        ),
        "unreadable_rows": number("SELECT count(*) FROM own_read WHERE number IS NULL"),
        "only_on_bus": number("SELECT count(*) FROM pair WHERE rows = 0"),
        "ambiguous_records": number("SELECT count(*) FROM pair WHERE rows > 1"),
        "ambiguous_rows": number("SELECT coalesce(sum(rows), 0) FROM pair WHERE rows > 1"),
        "columns": {
            own: number(f"SELECT count(*) {one} AND own.{c} IS DISTINCT FROM bus.{c}")
            for own, c in _COLUMNS.items()
        },
        "refused": {
            "出生": number("SELECT count(*) FROM own_read WHERE born IS NULL AND w2 IS NOT NULL"),
            "性别": number("SELECT count(*) FROM own_read WHERE sex IS NULL AND w3 IS NOT NULL"),
        },
    }


def unlike(ask: Ask, *, is_lite: bool) -> int:
    """Records of which no row here is just what the bus writes, or of which two are; but for those
    that were ambiguous: `harmed` looks at their rows."""
    sql = (
        "SELECT count(*) FROM bus_read bus LEFT JOIN 人员 o ON o.证号 = bus.number "
        "WHERE bus.number NOT IN (SELECT number FROM twice) "
        "AND ((SELECT count(*) FROM 人员 n WHERE n.证号 = bus.number) <> 1 "
        "OR o.姓名 IS DISTINCT FROM bus.name OR o.出生 IS DISTINCT FROM bus.born "
        "OR o.性别 IS DISTINCT FROM bus.sex OR o.户号 IS DISTINCT FROM bus.household "
        "OR o.电话 IS DISTINCT FROM bus.phone)"
    )
    return int(ask(sql.replace("IS DISTINCT FROM", "IS NOT") if is_lite else sql)[0][0])


def note_before(ask: Ask, *, is_lite: bool) -> None:
    """Remembers the tables as they are before the first load, and reads them."""
    for table in ("人员", "租约"):
        ask(f"CREATE TABLE before_{table} AS SELECT * FROM {table}")
    for table, sql in _read(is_lite=is_lite).items():
        ask(f"CREATE TABLE {table} AS {sql}")
        ask(f"CREATE INDEX {table}_number ON {table} (number)")
    ask("CREATE TABLE twice AS SELECT number FROM pair WHERE rows > 1")
    ask(
        "CREATE TABLE met AS SELECT own.编号 FROM own_read own "
        "JOIN bus_read bus ON bus.number = own.number"
    )
    ask("CREATE INDEX met_编号 ON met (编号)")


def harmed(ask: Ask, *, is_lite: bool) -> dict[str, int]:
    """What may not have happened: all zero."""
    differs = "IS NOT" if is_lite else "IS DISTINCT FROM"
    whole = " OR ".join(
        f"n.{c} {differs} b.{c}"
        for c in ("证号", "姓名", "出生", "性别", "户号", "电话", "备注", "建档", "状态")
    )
    asked = {
        "tenancies": "SELECT (SELECT count(*) FROM (SELECT * FROM 租约 EXCEPT SELECT * FROM "
        "before_租约) AS a) + (SELECT count(*) FROM (SELECT * FROM before_租约 EXCEPT SELECT * "
        "FROM 租约) AS b)",
        "rows gone": "SELECT count(*) FROM before_人员 b WHERE NOT EXISTS (SELECT 1 FROM 人员 n "
        "WHERE n.编号 = b.编号)",
        "own columns": "SELECT count(*) FROM before_人员 b JOIN 人员 n USING (编号) WHERE "
        f"n.备注 {differs} b.备注 OR n.建档 {differs} b.建档 OR n.状态 {differs} b.状态",
        "rows of nobody": "SELECT count(*) FROM before_人员 b JOIN 人员 n USING (编号) "
        f"WHERE NOT EXISTS (SELECT 1 FROM met WHERE met.编号 = b.编号) AND ({whole})",
        "ambiguous rows": "SELECT count(*) FROM before_人员 b JOIN 人员 n USING (编号) "
        f"WHERE b.编号 IN ({_AMBIGUOUS.format(upper=_upper(is_lite))}) AND ({whole})",
    }
    return {what: int(ask(sql)[0][0]) for what, sql in asked.items()}


_AMBIGUOUS = "SELECT 编号 FROM before_人员 WHERE {upper} IN (SELECT number FROM twice)"


def _upper(is_lite: bool) -> str:
    return f"upper({_narrow('证号', is_lite=is_lite)})"

"""What `OR REPLACE` removes by odd unique constraints in SQLite: never unseen, never slow, and no
write of the department's fails for our search."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from capture_suite import CAP, fold

from deptbus.department import fence, sqlite_unique
from deptbus.department.capture import Capture
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.layout import Layout, Part
from deptbus.department.sqlite_unique import Unique

LAYOUT = Layout("odd", "t", ("k",), ("k", "v"), None)
PLACED = replace(LAYOUT, place="v")


@dataclass(frozen=True)
class Case:
    name: str
    make: Sequence[str]
    load: Sequence[str]
    write: str
    gone: str = "a"  # the key of the row that is replaced; empty: none is
    later: Sequence[str] = ()  # the department's own, after install


def plain(columns: str = "u") -> str:
    return f"CREATE TABLE t (k TEXT PRIMARY KEY, v, {columns})"


CASES = [
    Case(
        "an expression that fails for rows beside the index",
        [plain("d"), "CREATE UNIQUE INDEX i ON t (json_extract(d, '$.id')) WHERE json_valid(d)"],
        [
            "INSERT INTO t VALUES ('a', 'x', '{\"id\": 1}')",
            "INSERT INTO t VALUES ('b', 'y', 'no JSON')",
            "UPDATE t SET d = '[' WHERE k = 'b'",
            "ANALYZE",
        ],
        "REPLACE INTO t VALUES ('c', 'z', '{\"id\": 1}')",
    ),
    Case(
        "a partial index over the number of the row, which is no less a key for it",
        [
            "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT UNIQUE NOT NULL, v)",
            "CREATE UNIQUE INDEX i ON t (id) WHERE v = 1",
        ],
        ["INSERT INTO t VALUES (1, 'a', 0)"],
        "REPLACE INTO t VALUES (1, 'b', 0)",
    ),
    *(
        Case(
            f"a generated column, {kind}, of which the statement names a part, {index}",
            [plain("p, q, g TEXT AS (p || q) " + kind), f"CREATE UNIQUE INDEX i ON t ({index})"],
            ["INSERT INTO t (k, v, p, q) VALUES ('a', 'x', 'p', 'q'), ('b', 'y', 'r', 'q')"],
            "UPDATE OR REPLACE t SET p = 'p' WHERE k = 'b'",
        )
        for kind in ("STORED", "VIRTUAL")
        for index in ("g", "lower(g)")
    ),
    *(
        Case(
            f"NULL that becomes the default, {write[:6]}",
            [plain("u INTEGER NOT NULL DEFAULT 0 UNIQUE")],
            ["INSERT INTO t VALUES ('a', 'x', 0), ('b', 'y', 1)"],
            write,
        )
        for write in (
            "REPLACE INTO t VALUES ('c', 'y', NULL)",
            "UPDATE OR REPLACE t SET u = NULL WHERE k = 'b'",
        )
    ),
    Case(
        "a default within an expression",
        [plain("u TEXT NOT NULL DEFAULT 'N'"), "CREATE UNIQUE INDEX i ON t (lower(u))"],
        ["INSERT INTO t VALUES ('a', 'x', 'n')"],
        "REPLACE INTO t VALUES ('c', 'y', NULL)",
    ),
    Case(
        "a statement within the statement, after many that replaced nothing",
        [plain("u UNIQUE, s UNIQUE")],
        [
            "INSERT INTO t VALUES ('a', 'x', 1, 100)",
            *["INSERT OR IGNORE INTO t VALUES ('a', 'x', 7, 100)"] * 40,
        ],
        "REPLACE INTO t VALUES ('b', 'y', 1, NULL)",
        later=[
            "CREATE TRIGGER own AFTER INSERT ON t WHEN NEW.s IS NULL BEGIN "
            "UPDATE t SET s = (SELECT coalesce(max(s), 0) + 1 FROM t) WHERE k = NEW.k; END"
        ],
    ),
    Case(
        "another row whose key differs by case only",
        [
            "CREATE TABLE t (k TEXT COLLATE NOCASE NOT NULL, v, u UNIQUE)",
            "CREATE UNIQUE INDEX i ON t (k COLLATE BINARY)",
        ],
        ["INSERT INTO t VALUES ('A', 'x', 2), ('a', 'y', 1)"],
        "UPDATE OR REPLACE t SET u = 2 WHERE k = 'a' COLLATE BINARY",
        gone="A",
    ),
    *(
        Case(
            f"a bare name of other letters: {name}",
            [plain(f"u, {name} INT"), f"CREATE UNIQUE INDEX i ON t (u) WHERE {name} = 1"],
            [
                f"INSERT INTO t (k, v, u, {name}) VALUES ('a', 'x', 1, 1)",
                f"INSERT INTO t (k, v, u, {name}) VALUES ('b', 'y', 1, 0)",
            ],
            f"UPDATE OR REPLACE t SET {name} = 1 WHERE k = 'b'",
        )
        for name in ("a$b", "是否有效（旧）", "面积㎡", "`tick``s`", "[a]", '"q""q"')
    ),
    Case(
        "an expression over one",
        [plain("编号（旧）"), "CREATE UNIQUE INDEX i ON t (lower(编号（旧）))"],
        ["INSERT INTO t VALUES ('a', 'x', 'N')"],
        "REPLACE INTO t VALUES ('b', 'y', 'n')",
    ),
    Case(
        "an expression that binds less than the comparison",
        [plain(), "CREATE UNIQUE INDEX i ON t (v OR u)"],
        ["INSERT INTO t VALUES ('a', 0, 5)"],
        "REPLACE INTO t VALUES ('b', 0, 7)",
    ),
    Case(
        "one current row",
        [plain("is_current"), "CREATE UNIQUE INDEX i ON t ((1)) WHERE is_current"],
        ["INSERT INTO t VALUES ('a', 'x', 1), ('b', 'y', 0)"],
        "UPDATE OR REPLACE t SET is_current = 1 WHERE k = 'b'",
    ),
    Case(
        "one row at all, and two reasons to replace it",
        [plain("u UNIQUE"), "CREATE UNIQUE INDEX i ON t ((1))"],
        ["INSERT INTO t VALUES ('a', 'x', 1)"],
        "REPLACE INTO t VALUES ('b', 'y', 1)",
    ),
    Case(
        "a trigger that is called as an index",
        [
            plain("u"),
            "CREATE UNIQUE INDEX i ON t (u)",
            "CREATE TRIGGER i AFTER DELETE ON t BEGIN SELECT max(1, 2) WHERE 3; END",
        ],
        ["INSERT INTO t VALUES ('a', 'x', 1)"],
        "REPLACE INTO t VALUES ('b', 'y', 1)",
    ),
    Case(
        "values of another type, and none",
        [plain(), "CREATE UNIQUE INDEX i ON t (abs(u), coalesce(v, 0)) WHERE u IS NOT NULL"],
        ["INSERT INTO t VALUES ('a', NULL, -1), ('b', 0, NULL)"],
        "REPLACE INTO t VALUES ('c', 0, '1')",
    ),
]


@asynccontextmanager
async def capturing(
    path: Path, make: Sequence[str], layout: Layout = LAYOUT
) -> AsyncIterator[tuple[Capture, sqlite3.Connection]]:
    own = sqlite3.connect(path, isolation_level=None, timeout=10)
    for statement in make:
        own.execute(statement)
    capture = SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{path}")))
    try:
        await capture.install([layout], CAP)
        yield capture, own
    finally:
        await capture.close()
        own.close()


async def check(path: Path, case: Case) -> None:
    async with capturing(path, case.make) as (capture, own):
        for statement in (*case.load, *case.later, case.write):
            own.execute(statement)
        rows = own.execute("SELECT k, v FROM t")
        table = {(k,): (k, None if v is None else str(v)) for k, v in rows}
        assert (case.gone,) not in table, "the case is none"
        found = await capture.read(CAP)
        assert fold(found) == table
        assert [r.raw for r in found if r.op == "d"] == [(case.gone,)]
        assert (await capture.state()).gave_way == 0
        assert await capture.broken() == []


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_row_that_is_replaced_is_told(tmp_path: Path, case: Case) -> None:
    await check(tmp_path / "own.db", case)


@pytest.mark.parametrize("case", [c for c in CASES if not c.later], ids=lambda case: case.name)
async def test_a_record_of_a_view_whose_row_is_replaced_is_told(tmp_path: Path, case: Case) -> None:
    view = Layout("odd", "seen", ("k",), ("k", "v"), None, parts=(Part("t", ("k",), "", ()),))
    made = [*case.make, "CREATE VIEW seen AS SELECT k, v FROM t"]
    async with capturing(tmp_path / "own.db", made, view) as (capture, own):
        token = (await fence.take_over(capture.database, 0, unit="u@33", system="main")).token
        for statements in (case.load, [case.write]):
            for statement in statements:
                own.execute(statement)
            await capture.look_again(token, CAP, ())
        rows = own.execute("SELECT k, v FROM t")
        table = {(k,): (k, None if v is None else str(v)) for k, v in rows}
        assert fold(await capture.read(CAP)) == table
        assert await capture.broken() == []


@pytest.mark.parametrize(
    ("plant", "names"),
    [
        ("made_of", ["a generated column"]),
        ("new_row", ["NULL that becomes", "a default within"]),
        ("expressions", ["an expression over one", "an expression that binds"]),
    ],
)
async def test_planted_searches_that_forget_something_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str, names: list[str]
) -> None:
    known: Callable[..., list[Unique]] = sqlite_unique._indexes

    def forgetful(*words: object) -> list[Unique]:
        found = known(*words)
        if plant == "new_row":
            return [u._replace(new_row={c: f'NEW."{c}"' for c in u.new_row}) for u in found]
        return [u._replace(**{plant: ()}) for u in found if plant != "expressions" or u.columns]

    monkeypatch.setattr(sqlite_unique, "_indexes", forgetful)
    chosen = [case for case in CASES if case.name.startswith(tuple(names))]
    assert len(chosen) >= len(names)
    for number, case in enumerate(chosen):
        with pytest.raises(AssertionError):
            await check(tmp_path / f"{number}.db", case)


async def test_the_former_place_is_that_of_the_row_which_was_replaced(tmp_path: Path) -> None:
    """Upserts leave notes of rows that they did not replace, each with the place of its time."""
    async with capturing(tmp_path / "own.db", [plain()], PLACED) as (capture, own):
        own.execute("INSERT INTO t (k, v) VALUES ('a', NULL)")
        for place in ("p1", "p2"):
            own.execute(
                "INSERT INTO t (k, v) VALUES ('a', ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
                (place,),
            )
        own.execute("REPLACE INTO t (k, v) VALUES ('a', 'p3')")
        assert (await capture.read(CAP))[-1].was == "p2"


@pytest.mark.parametrize(
    "index",
    [
        "u) WHERE (v = 'x'",
        "lower(u)",
        "lower(u), v) WHERE (v = 'x'",
        "NOT u",
        "(1)) WHERE (v = 'x'",
        "g",
    ],
)
async def test_no_search_reads_the_whole_table(tmp_path: Path, index: str) -> None:
    own = sqlite3.connect(tmp_path / "own.db")
    own.execute(plain("u, w INTEGER NOT NULL DEFAULT 0 UNIQUE, g AS (w + 1)"))
    own.execute(f"CREATE UNIQUE INDEX i ON t ({index})")
    used = set()
    for search in sqlite_unique.searches(sqlite_unique.replacing(own, "t")):
        plan = own.execute(
            "EXPLAIN QUERY PLAN WITH new AS (SELECT rowid, * FROM t LIMIT 1) SELECT "
            f"(SELECT count(*) FROM t WHERE {search.replace('NEW.', 'new.')}) FROM new"
        ).fetchall()
        steps = [step for *_, step in plan]
        assert steps.count("SCAN t") == 1, steps  # that of `new`
        used |= {step for step in steps if "INDEX i" in step}
    assert used
    own.close()


async def test_another_unique_index_than_at_install_is_told(tmp_path: Path) -> None:
    made = [plain(), "CREATE UNIQUE INDEX early ON t (u) WHERE v > 0"]
    async with capturing(tmp_path / "own.db", made) as (capture, own):
        assert await capture.broken() == []
        own.execute("CREATE UNIQUE INDEX late ON t (lower(u))")
        (broken,) = await capture.broken()
        assert (broken.is_blind, broken.is_partly) == (True, True)
        assert "REPLACE" in broken.reason
        await capture.install([LAYOUT], CAP)
        assert await capture.broken() == []
        own.execute("DROP INDEX early")
        (broken,) = await capture.broken()
        assert (broken.is_blind, broken.is_partly) == (False, True)
        assert "reads the whole table" in broken.reason
        await capture.install([LAYOUT], CAP)
        assert await capture.broken() == []


@pytest.mark.parametrize(("index", "is_told"), [("u", False), ("lower(u)", True)])
async def test_triggers_that_do_not_say_what_they_look_at(
    tmp_path: Path, index: str, is_told: bool
) -> None:
    """As an older deptbus made them: they looked at columns, and at these only."""
    made = [plain(), f"CREATE UNIQUE INDEX early ON t ({index})"]
    async with capturing(tmp_path / "own.db", made) as (capture, own):
        name = "deptbus_odd_before_insert"
        ((sql,),) = own.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,))
        own.execute(f"DROP TRIGGER {name}")
        own.execute(sqlite_unique._MARK.sub("", sql))
        assert bool(await capture.broken()) == is_told

"""Golden cases: tables as real departments have them, each with its stated outcome.

A case is captured, whatever is written to it, or refused at install in one line. No case may be
dropped when it fails: its outcome is a promise to whoever has such a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deptbus.department.layout import Layout, Part


@dataclass(frozen=True)
class Odd:
    """`writes`: transactions of the department's program, each a list of statements. `refused`:
    words of the line that install says; empty: it is captured. `moved`: own key -> the place that
    a later change names as a former one."""

    name: str
    make: Sequence[str]
    layout: Layout
    writes: Sequence[Sequence[str]] = ()
    refused: str = ""
    moved: dict[str, str] = field(default_factory=dict)
    from_version: int = 0  # of PostgreSQL
    needs_icu: bool = False  # which not every build of PostgreSQL has


def _layout(
    table: str,
    *columns: str,
    place: str | None = None,
    keys: tuple[str, ...] = (),
    is_vouched: bool = False,
) -> Layout:
    """The first column is the key, where `keys` names none."""
    return Layout("odd", table, keys or columns[:1], columns, place, is_vouched)


def _people(table: str, key: str = "id", place: str = "area") -> list[list[str]]:
    """What every program does to its people: one by one, by sets, and back again."""
    return [
        [f"INSERT INTO {table} ({key}, {place}) VALUES ('1', 'a'), ('2', 'a'), ('3', 'b')"],
        [f"UPDATE {table} SET {place} = 'b' WHERE {key} = '1'"],
        [f"UPDATE {table} SET {key} = '4' WHERE {key} = '2'"],
        [f"DELETE FROM {table} WHERE {key} = '3'", f"INSERT INTO {table} ({key}) VALUES ('3')"],
        [f"DELETE FROM {table} WHERE {key} = '4'"],
    ]


_VIEW_PARTS = (
    Part("person", ("id_no",), "", ()),
    Part("address", (), "person", (("person", "id"),)),
    Part("village", (), "address", (("code", "village"),)),
)
_VIEW = Layout(
    "odd", "resident", ("id_no",), ("id_no", "name", "street", "village"), "village",
    parts=_VIEW_PARTS,
)  # fmt: skip
_VIEW_TABLES = [
    "CREATE TABLE village (code VARCHAR(20) PRIMARY KEY, title TEXT)",
    "CREATE TABLE person (id INTEGER PRIMARY KEY, id_no VARCHAR(20) UNIQUE, name TEXT)",
    "CREATE TABLE address (person INTEGER PRIMARY KEY, street TEXT, village VARCHAR(20))",
    "CREATE VIEW resident AS SELECT p.id_no, p.name, a.street, v.code AS village, v.title "
    "FROM person p JOIN address a ON a.person = p.id JOIN village v ON v.code = a.village",
]
_VIEW_WRITES = [
    ["INSERT INTO village VALUES ('v1', 'one'), ('v2', 'two')"],
    ["INSERT INTO person VALUES (1, 'n1', 'li'), (2, 'n2', 'wang'), (3, 'n3', 'zhao')"],
    ["INSERT INTO address VALUES (1, 's', 'v1'), (2, 's', 'v1')"],
    ["UPDATE address SET village = 'v2' WHERE person = 1"],
    ["UPDATE person SET name = 'new' WHERE id = 2", "INSERT INTO address VALUES (3, 's', 'v2')"],
    ["UPDATE person SET id_no = 'n9' WHERE id = 3"],
    ["UPDATE village SET code = 'v3' WHERE code = 'v1'"],  # whoever lives there is gone for now
    ["UPDATE address SET village = 'v3' WHERE village = 'v1'"],
    ["DELETE FROM person WHERE id = 1"],
]

COMMON = [
    Odd(
        "names in Chinese, in mixed case, with spaces, dots and quotes",
        ['CREATE TABLE "居民 Info" ("证件号" VARCHAR(40) PRIMARY KEY, "Area" TEXT, "a.b""c" TEXT)'],
        _layout("居民 Info", "证件号", "Area", 'a.b"c', place="Area"),
        _people('"居民 Info"', '"证件号"', '"Area"'),
        moved={"1": "a"},
    ),
    Odd(
        "column names in full-width capitals, as Chinese input writes them",
        ['CREATE TABLE wide_names ("ＩＤ" VARCHAR(40) PRIMARY KEY, "Ａ区" TEXT)'],
        _layout("wide_names", "ＩＤ", "Ａ区", place="Ａ区"),
        _people("wide_names", '"ＩＤ"', '"Ａ区"'),
        moved={"1": "a"},
    ),
    Odd(
        "columns that are called as our own variables are",
        [
            "CREATE TABLE clash (raw VARCHAR(9) PRIMARY KEY, position TEXT, counted TEXT, "
            "stamp TEXT, layout TEXT, op TEXT, was TEXT, dataset TEXT)"
        ],
        _layout("clash", "raw", "position", "counted", "stamp", "op", "was", place="position"),
        _people("clash", "raw", "position"),
    ),
    Odd(
        "a generated column that is stored",
        [
            "CREATE TABLE stored (id VARCHAR(9) PRIMARY KEY, area TEXT, "
            "upper_area TEXT GENERATED ALWAYS AS (upper(area)) STORED)"
        ],
        _layout("stored", "id", "upper_area", place="upper_area"),
        _people("stored"),
        moved={"1": "A"},
    ),
    Odd(
        "no primary key, a unique index",
        [
            "CREATE TABLE keyless (note TEXT, id VARCHAR(9) NOT NULL, area TEXT)",
            "CREATE UNIQUE INDEX keyless_id ON keyless (id)",
        ],
        _layout("keyless", "id", "area", place="area"),
        _people("keyless"),
    ),
    Odd(
        "no unique index at all",
        ["CREATE TABLE loose (id VARCHAR(9), area TEXT)"],
        _layout("loose", "id", "area"),
        refused="no unique index on",
    ),
    Odd(
        "a key that only the mapping vouches for",
        [
            "CREATE TABLE vouched (id VARCHAR(9), area TEXT)",
            "CREATE INDEX vouched_id ON vouched (id, area)",
        ],
        _layout("vouched", "id", "area", place="area", is_vouched=True),
        _people("vouched"),
        moved={"1": "a"},
    ),
    Odd(
        "a key that the mapping vouches for and two rows bear",
        [
            "CREATE TABLE doubled (id VARCHAR(9), area TEXT)",
            "CREATE INDEX doubled_id ON doubled (id)",
            "INSERT INTO doubled VALUES ('1', 'a'), ('1', 'b')",
        ],
        _layout("doubled", "id", "area", is_vouched=True),
        refused="borne by more than one row",
    ),
    Odd(
        "a key that the mapping vouches for and no index finds",
        ["CREATE TABLE unfound (id VARCHAR(9), area TEXT)"],
        _layout("unfound", "id", "area", is_vouched=True),
        refused="no index that begins with",
    ),
    Odd(
        "a key of several columns",
        ["CREATE TABLE steps (file VARCHAR(9), step INTEGER, note TEXT, PRIMARY KEY (step, file))"],
        _layout("steps", "file", "step", "note", keys=("file", "step")),
        [
            ["INSERT INTO steps VALUES ('f', 1, 'x'), ('f', 2, 'y'), ('g', 1, 'z')"],
            ["UPDATE steps SET step = step + 10"],
            ["UPDATE steps SET note = 'q' WHERE file = 'f'", "DELETE FROM steps WHERE file = 'g'"],
        ],
    ),
    Odd(
        "a view that stands alone",
        ["CREATE TABLE base (id VARCHAR(9) PRIMARY KEY)", "CREATE VIEW seen AS SELECT * FROM base"],
        _layout("seen", "id"),
        refused="is a view; name the tables",
    ),
    Odd("a view over several tables", _VIEW_TABLES, _VIEW, _VIEW_WRITES),
    Odd(
        "a view that reads a table which the mapping does not name",
        _VIEW_TABLES,
        Layout("odd", "resident", ("id_no",), ("id_no", "title"), None, parts=_VIEW_PARTS[:2]),
        refused="which is not among its `tables:`",
    ),
    Odd(
        "a table of a hundred and fifty columns",
        [
            "CREATE TABLE wide (id VARCHAR(9) PRIMARY KEY, area TEXT, "
            + ", ".join(f"c{n} TEXT" for n in range(150))
            + ")"
        ],
        _layout("wide", "id", "area", *(f"c{n}" for n in range(150)), place="area"),
        _people("wide"),
    ),
]

_PARTS = [
    "CREATE TABLE parted (id VARCHAR(9), area TEXT DEFAULT 'a', note TEXT, PRIMARY KEY (id, area)) "
    "PARTITION BY LIST (area)",
    "CREATE INDEX ON parted (id)",
    "CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a')",
    # Attached, with its columns in another order.
    "CREATE TABLE parted_b (note TEXT, area TEXT NOT NULL, id VARCHAR(9) NOT NULL)",
    "ALTER TABLE parted ATTACH PARTITION parted_b FOR VALUES IN ('b')",
]

POSTGRES = [
    Odd(
        "a generated column that is made when it is read",
        [
            "CREATE TABLE virtual (id VARCHAR(9) PRIMARY KEY, area TEXT, "
            "upper_area TEXT GENERATED ALWAYS AS (upper(area)) VIRTUAL)"
        ],
        _layout("virtual", "id", "area", "upper_area", place="area"),
        _people("virtual"),
        moved={"1": "a"},
        from_version=180000,
    ),
    Odd(
        "a place that is made when it is read",
        [
            "CREATE TABLE virtual (id VARCHAR(9) PRIMARY KEY, area TEXT, "
            "upper_area TEXT GENERATED ALWAYS AS (upper(area)) VIRTUAL)"
        ],
        _layout("virtual", "id", "upper_area", place="upper_area"),
        refused="is made when it is read",
        from_version=180000,
    ),
    Odd(
        "a partitioned table, written to by way of it and by way of its partitions",
        _PARTS,
        _layout("parted", "id", "area", "note", place="area", is_vouched=True),
        [
            *_people("parted"),
            ["INSERT INTO parted_b (id, area) VALUES ('7', 'b')"],
            ["UPDATE parted_b SET note = 'direct' WHERE id = '7'", "DELETE FROM parted_a"],
            ["CREATE TABLE parted_c PARTITION OF parted FOR VALUES IN ('c')"],
            ["INSERT INTO parted (id, area) VALUES ('8', 'c')"],
            ["TRUNCATE parted_b", "INSERT INTO parted (id, area) VALUES ('9', 'b')"],
        ],
        moved={"1": "a"},
    ),
    Odd(
        "a partitioned table of which one partition takes no rows and says nothing",
        [
            *_PARTS,
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RETURN NULL; END$$",
            "CREATE TRIGGER refuse BEFORE INSERT ON parted_b FOR EACH ROW "
            "EXECUTE FUNCTION refuse()",
        ],
        _layout("parted", "id", "area", "note", place="area", is_vouched=True),
        [
            ["INSERT INTO parted (id) SELECT n FROM generate_series(1, 30) n"],
            ["UPDATE parted SET area = 'b' WHERE id = '1'"],
            ["UPDATE parted SET area = CASE id WHEN '2' THEN 'b' ELSE 'a' END WHERE id < '20'"],
            [
                "UPDATE parted SET area = CASE id WHEN '3' THEN 'b' ELSE 'a' END WHERE id IN "
                "('3', '4')"
            ],
            [
                "UPDATE parted SET area = CASE id WHEN '4' THEN 'b' ELSE 'a' END, note = 'x' "
                "WHERE id IN ('4', '5')"
            ],
            ["UPDATE parted SET area = 'b'"],
        ],
    ),
    Odd(
        "a partitioned table whose key is unique within each partition only",
        _PARTS,
        _layout("parted", "id", "area"),
        refused="no unique index on",
    ),
    Odd("a partition", _PARTS, _layout("parted_a", "id", "area"), refused="is a partition"),
    Odd(
        "a table that another one inherits from",
        [
            "CREATE TABLE parent (id VARCHAR(9) PRIMARY KEY)",
            "CREATE TABLE child () INHERITS (parent)",
        ],
        _layout("parent", "id"),
        refused="inherits or is inherited from",
    ),
    Odd(
        "a view with rules that the program writes to",
        [
            "CREATE TABLE behind (id VARCHAR(9) PRIMARY KEY, area TEXT)",
            "CREATE VIEW desk AS SELECT id, area FROM behind WHERE area IS DISTINCT FROM 'z'",
            "CREATE RULE ins AS ON INSERT TO desk DO INSTEAD "
            "INSERT INTO behind VALUES (NEW.id, NEW.area)",
            "CREATE RULE upd AS ON UPDATE TO desk DO INSTEAD "
            "UPDATE behind SET id = NEW.id, area = NEW.area WHERE id = OLD.id",
            "CREATE RULE del AS ON DELETE TO desk DO INSTEAD DELETE FROM behind WHERE id = OLD.id",
        ],
        _layout("behind", "id", "area", place="area"),
        _people("desk"),
        moved={"1": "a"},
    ),
    Odd(
        "triggers of the department's own, before and after",
        [
            "CREATE TABLE busy (id VARCHAR(9) PRIMARY KEY, area TEXT, seen INTEGER DEFAULT 0)",
            "CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN NEW.area := lower(NEW.area); RETURN NEW; END$$",
            "CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON busy "
            "FOR EACH ROW EXECUTE FUNCTION tidy()",
            "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN UPDATE busy SET seen = seen + 1 WHERE id = NEW.id; RETURN NULL; END$$",
            "CREATE TRIGGER a_count AFTER INSERT ON busy FOR EACH ROW EXECUTE FUNCTION count_it()",
        ],
        _layout("busy", "id", "area", "seen", place="area"),
        _people("busy"),
    ),
    Odd(
        "a unique constraint that is checked at the end",
        ["CREATE TABLE late (id VARCHAR(9) UNIQUE DEFERRABLE INITIALLY DEFERRED)"],
        _layout("late", "id"),
        refused="is deferrable",
    ),
    Odd(
        "types of the department's own",
        [
            "CREATE TYPE sex AS ENUM ('male', 'female')",
            "CREATE DOMAIN id_no AS varchar(18) CHECK (VALUE <> '')",
            "CREATE TABLE typed (id id_no PRIMARY KEY, area char(4), sex sex, tags text[], "
            "money numeric(9, 2), born date, extra jsonb)",
        ],
        _layout("typed", "id", "area", "sex", "tags", "money", "born", "extra"),
        [
            *_people("typed"),
            ["UPDATE typed SET sex = 'male', tags = '{x,y}', money = 1.5, born = '2026-01-02'"],
            ['UPDATE typed SET extra = \'{"b": 1, "a": 2}\'', "UPDATE typed SET extra = NULL"],
        ],
    ),
    Odd(
        "a key that is compared without case",
        [
            "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', "
            "deterministic = false)",
            "CREATE TABLE folding (id text COLLATE folded PRIMARY KEY, area text)",
        ],
        _layout("folding", "id", "area", place="area"),
        [
            ["INSERT INTO folding VALUES ('ab', 'a'), ('cd', 'b')"],
            ["UPDATE folding SET id = 'AB' WHERE id = 'ab'"],
            ["UPDATE folding SET area = 'b'"],
        ],
        needs_icu=True,
    ),
    Odd(
        "a place that is compared without case",
        [
            "CREATE COLLATION loosely (provider = icu, locale = 'und-u-ks-level2', "
            "deterministic = false)",
            "CREATE TABLE housed (id text PRIMARY KEY, area text COLLATE loosely)",
        ],
        _layout("housed", "id", "area", place="area"),
        [
            ["INSERT INTO housed VALUES ('1', 'a'), ('2', 'a'), ('3', 'a')"],
            ["UPDATE housed SET area = 'A' WHERE id = '1'"],
            ["UPDATE housed SET area = 'A' WHERE id <> '1'"],
        ],
        moved={"1": "a", "2": "a", "3": "a"},
        needs_icu=True,
    ),
    Odd(
        "row level security that binds the owner too",
        [
            "CREATE TABLE hidden (id VARCHAR(9) PRIMARY KEY, area TEXT)",
            "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE hidden FORCE ROW LEVEL SECURITY",
        ],
        _layout("hidden", "id", "area"),
        refused="row level security",
    ),
    Odd(
        "an unlogged table",
        ["CREATE UNLOGGED TABLE fleeting (id VARCHAR(9) PRIMARY KEY)"],
        _layout("fleeting", "id"),
        refused="is unlogged",
    ),
    Odd(
        "a materialized view",
        [
            "CREATE TABLE source (id VARCHAR(9) PRIMARY KEY)",
            "CREATE MATERIALIZED VIEW frozen AS SELECT * FROM source",
        ],
        _layout("frozen", "id"),
        refused="materialized view",
    ),
    Odd(
        "a table in a schema of its own, beside one of the same name",
        [
            'CREATE SCHEMA "户籍"',
            'CREATE TABLE "户籍".people (id VARCHAR(9) PRIMARY KEY, area TEXT)',
            "CREATE TABLE people (id VARCHAR(9) PRIMARY KEY, area TEXT)",
            "INSERT INTO people VALUES ('other', 'x')",
        ],
        _layout("户籍.people", "id", "area", place="area"),
        _people('"户籍".people'),
    ),
    Odd(
        "a view whose tables are emptied and loaded again",
        _VIEW_TABLES,
        _VIEW,
        [
            *_VIEW_WRITES,
            ["TRUNCATE address", "INSERT INTO address VALUES (2, 'after', 'v2')"],
        ],
    ),
]

SQLITE = [
    Odd(
        "a generated column that is made when it is read",
        [
            "CREATE TABLE virtual (id VARCHAR(9) PRIMARY KEY, area TEXT, "
            "upper_area TEXT GENERATED ALWAYS AS (upper(area)) VIRTUAL)"
        ],
        _layout("virtual", "id", "upper_area", place="upper_area"),
        _people("virtual"),
        moved={"1": "A"},
    ),
    Odd(
        "a table without rowids",
        ["CREATE TABLE bare (id VARCHAR(9) PRIMARY KEY, area TEXT) WITHOUT ROWID"],
        _layout("bare", "id", "area", place="area"),
        _people("bare"),
        moved={"1": "a"},
    ),
    Odd(
        "a strict table",
        ["CREATE TABLE strictly (id TEXT PRIMARY KEY, area TEXT) STRICT"],
        _layout("strictly", "id", "area", place="area"),
        _people("strictly"),
    ),
    Odd(
        "a key that is the rowid",
        ["CREATE TABLE rowids (id INTEGER PRIMARY KEY, area TEXT)"],
        _layout("rowids", "id", "area", place="area"),
        [
            *_people("rowids"),
            ["REPLACE INTO rowids VALUES (1, 'c')", "UPDATE OR REPLACE rowids SET id = 3"],
        ],
    ),
    Odd(
        "a key that is compared without case",
        ["CREATE TABLE folding (id TEXT COLLATE NOCASE PRIMARY KEY, area TEXT)"],
        _layout("folding", "id", "area", place="area"),
        [
            ["INSERT INTO folding VALUES ('ab', 'a'), ('cd', 'b')"],
            ["UPDATE folding SET id = 'AB' WHERE id = 'ab'"],
            ["REPLACE INTO folding VALUES ('CD', 'c')"],
        ],
    ),
    Odd(
        "columns without a type",
        ["CREATE TABLE untyped (id PRIMARY KEY, area)"],
        _layout("untyped", "id", "area", place="area"),
        [
            *_people("untyped"),
            ["INSERT INTO untyped VALUES (7, 7.5), ('x', NULL), ('y', 1)"],
            ["UPDATE untyped SET area = 1.0 WHERE id = 'y'"],  # equal, and another text
        ],
    ),
    Odd(
        "unique indexes on expressions and of some rows only",
        [
            'CREATE TABLE "its index" (id TEXT PRIMARY KEY, area TEXT, "e-mail" TEXT, note TEXT)',
            'CREATE UNIQUE INDEX mails ON "its index" (lower("e-mail")) WHERE note IS NULL',
            "CREATE UNIQUE INDEX notes ON \"its index\" (note DESC) WHERE area = 'b' -- (or not)",
        ],
        _layout("its index", "id", "area", "e-mail", place="area"),
        [
            *_people('"its index"'),
            ["INSERT INTO \"its index\" VALUES ('5', 'a', 'x@y', NULL), ('6', 'b', NULL, 'n')"],
            ["REPLACE INTO \"its index\" VALUES ('7', 'a', 'X@Y', NULL)"],
            ["INSERT INTO \"its index\" VALUES ('8', 'a', 'x@y', 'n')"],
            ["UPDATE OR REPLACE \"its index\" SET area = 'b' WHERE id = '8'"],
            ['UPDATE OR REPLACE "its index" SET note = NULL'],
        ],
    ),
    Odd(
        "a virtual table",
        ["CREATE VIRTUAL TABLE words USING fts5 (id, area)"],
        _layout("words", "id", "area"),
        refused="is a virtual table",
    ),
    Odd(
        "a view with triggers that the program writes to",
        [
            "CREATE TABLE behind (id VARCHAR(9) PRIMARY KEY, area TEXT)",
            "CREATE VIEW desk AS SELECT id, area FROM behind",
            "CREATE TRIGGER ins INSTEAD OF INSERT ON desk BEGIN "
            "INSERT INTO behind VALUES (NEW.id, NEW.area); END",
            "CREATE TRIGGER upd INSTEAD OF UPDATE ON desk BEGIN "
            "UPDATE behind SET id = NEW.id, area = NEW.area WHERE id = OLD.id; END",
            "CREATE TRIGGER del INSTEAD OF DELETE ON desk BEGIN "
            "DELETE FROM behind WHERE id = OLD.id; END",
        ],
        _layout("behind", "id", "area", place="area"),
        _people("desk"),
        moved={"1": "a"},
    ),
    Odd(
        "a view of whose tables rows are replaced",
        _VIEW_TABLES,
        _VIEW,
        [
            *_VIEW_WRITES,
            [
                "INSERT INTO person VALUES (5, 'n5', 'x')",
                "INSERT INTO address VALUES (5, 's', 'v3')",
            ],
            ["REPLACE INTO person VALUES (6, 'n5', 'another row of the same number')"],
            ["REPLACE INTO address VALUES (6, 's', 'v3'), (2, 's', 'v2')"],
            ["UPDATE OR REPLACE person SET id_no = 'n5' WHERE id = 2"],
        ],
    ),
]

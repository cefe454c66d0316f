"""department.yml: read with its lines, checked against the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract_small import FILES, edited, write

from deptbus.contract.department import Department, load_department, receive_key
from deptbus.contract.department_check import advise_department, check_department
from deptbus.contract.load import load
from deptbus.contract.model import Contract
from deptbus.errors import FileProblems

POLICE = """\
unit: police@330106
systems:
  main:
    database: sqlite:///own.db
    publishes:
      resident:
        table: rk
        columns:
          resident_id: sfzh
          name: xm
          born: csrq
        values:
          name: {"1": a}
        constants:
          place: "330106109"
    receives:
      flat:
        table: fang
        columns:
          code: bm
          place: dz
          $key: k
        key: [bm]
        values:
          place: {A: "330106109", B: "330106"}
        defaults: {dz: 0}
        replaces: 房屋登记表
    outbox_cap_rows: 5
"""


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return load(write(tmp_path_factory.mktemp("contract"), FILES))


def load_text(directory: Path, text: str, **environment: str) -> Department:
    path = directory / "department.yml"
    path.write_text(text, encoding="utf-8")
    return load_department(path, environment)


def test_a_right_file_is_read_and_has_no_problems(tmp_path: Path, contract: Contract) -> None:
    department = load_text(tmp_path, POLICE)
    assert check_department(department, contract) == []
    assert advise_department(department, contract) == []
    system = department.systems["main"]
    assert department.secret_file == tmp_path / "key.secret"
    assert (system.kind, system.path) == ("sqlite", tmp_path / "own.db")
    assert system.outbox_cap_rows == 5
    assert system.publishes["resident"].constants == {"place": "330106109"}
    receive = system.receives["flat"]
    assert receive.defaults == {"dz": 0}
    assert receive.replaces == "房屋登记表"
    assert receive_key(receive, ("code",)) == ("bm",)
    assert receive_key(receive.model_copy(update={"key": ()}), ("code",)) == ("bm",)
    assert receive_key(receive.model_copy(update={"key": ()}), ("number",)) == ("k",)


@pytest.mark.parametrize(
    ("database", "kind", "rest"),
    [
        ("sqlite:///a/b.db", "sqlite", "a/b.db"),
        ("sqlite:////x/y.db", "sqlite", "/x/y.db"),
        ("folder:drop", "folder", "drop"),
        ("folder:/x/drop", "folder", "/x/drop"),
        ("folder:../drop", "folder", "../drop"),
    ],
)
def test_paths_are_relative_to_the_file(
    tmp_path: Path, database: str, kind: str, rest: str
) -> None:
    text = POLICE.replace("sqlite:///own.db", database)
    system = load_text(tmp_path, text).systems["main"]
    assert (system.kind, system.path) == (kind, Path(f"{tmp_path / rest}").resolve())


def test_variables_come_from_the_environment_and_stay_out_of_repr(tmp_path: Path) -> None:
    text = POLICE.replace("sqlite:///own.db", "postgresql://u:${WORD}@127.0.0.1:5432/d")
    department = load_text(tmp_path, text, WORD="s3cret")
    assert department.systems["main"].database == "postgresql://u:s3cret@127.0.0.1:5432/d"
    assert "s3cret" not in repr(department)
    with pytest.raises(ValueError, match="no path"):
        _ = department.systems["main"].path
    with pytest.raises(FileProblems) as raised:
        load_text(tmp_path, text)
    assert [(p.line, p.what) for p in raised.value.problems] == [
        (4, "environment variable WORD is not set")
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("sqlite:///own.db", "mysql://x/y", 4, "not an address that is known"),
        ("sqlite:///own.db", "sqlite:own.db", 4, "not an address that is known"),
        ("sqlite:///own.db", "postgresql:x", 4, "not an address that is known"),
        ("    database: sqlite:///own.db\n", "", 3, "setting `database` is missing"),
        ("table: rk", "tabel: rk", 6, "setting `table` is missing"),
        ("replaces:", "replace:", 27, "Did you mean `replaces`?"),
        ("outbox_cap_rows: 5", "outbox_cap_rows: 0", 28, "too small"),
        ("key: [bm]", "key: bm", 23, "must be a list"),
        ("unit: police@330106\n", "unit: police@330106\nsecret_file: [a]\n", 2, "secret_file"),
        ("systems:\n  main:\n", "systems:\n  main: x\n  other:\n", 3, "must be a mapping"),
        ("          name: xm\n", "          name: xm\n          name: mx\n", 11, "stands twice"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert POLICE.count(old) == 1
    with pytest.raises(FileProblems) as raised:
        load_text(tmp_path, POLICE.replace(old, new))
    told = [str(p) for p in raised.value.problems]
    assert any(f"department.yml:{line}: " in p and words in p for p in told), told


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(FileProblems) as raised:
        load_department(tmp_path / "department.yml", {})
    assert [p.what for p in raised.value.problems] == ["the file is missing"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("unit: police@330106", "unit: police@330105", 1, "is not in the contract"),
        ("  main:\n", "  old:\n", 3, "is not one of the unit in departments.yml"),
        ("      resident:\n", "      person:\n", 6, "dataset `person` is not in the contract"),
        ("      resident:\n", "      flat:\n", 6, "may not publish `flat`"),
        ("          name: xm\n", "          names: xm\n", 10, "field `names` is not in the schema"),
        ("          name: xm\n", "          religion: zj\n", 10, "is not_shared"),
        ("          resident_id: sfzh\n", "", 8, "it is of the key or the division"),
        ('          place: "330106109"\n', "          born: 2000-01-01\n", 8, "`place` is not map"),
        ("          name: xm\n", "", 8, "`name` of `resident` may not be null and is not"),
        (
            '          place: "330106109"\n',
            '          place: "1"\n          name: x\n',
            16,
            "a column and a",
        ),
        ("          born: csrq\n", "          phone: ''\n", 11, "`phone` has no column"),
        ('name: {"1": a}', 'phone: {"1": a}', 13, "`phone` has codes and no column"),
        ('name: {"1": a}', 'name: {"1": null}', 13, "is no value of `name`"),
        ("      flat:\n", "      boat:\n", 17, "dataset `boat` is not in the contract"),
        ("          code: bm\n", "          number: bm\n", 20, "field `number` is not in the sch"),
        ("          place: dz\n", "          place: bm\n", 19, "column `bm` holds two fields"),
        ("key: [bm]", "key: [nr]", 23, "column `nr` of the key is none"),
        ('B: "330106"}', 'B: "330106109"}', 25, "two own codes of `place` mean `330106109`"),
    ],
)
def test_what_does_not_fit_the_contract_is_told_with_its_line(
    tmp_path: Path, contract: Contract, old: str, new: str, line: int, words: str
) -> None:
    assert POLICE.count(old) == 1
    problems = check_department(load_text(tmp_path, POLICE.replace(old, new)), contract)
    told = [str(p).rpartition("/")[2] for p in problems]
    assert any(p.line == line and words in p.what for p in problems), told


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ("{rk: {key: {sfzh: nr}}, dz: {through: rk, on: {ren: id}}}", ""),
        ("{rk: {}}", "neither or both of `key` and `through`"),
        ("{rk: {key: {xm: xm}}}", "does not name the columns of the natural key"),
        ("{rk: {key: {sfzh: nr}}, dz: {through: nowhere, on: {a: b}}}", "leads to no other table"),
        ("{rk: {key: {sfzh: nr}}, dz: {through: rk}}", "leads to no other table"),
        ("{a: {through: b, on: {x: y}}, b: {through: a, on: {x: y}}}", "leads in a circle"),
    ],
)
def test_each_table_behind_a_view_leads_to_the_key(
    tmp_path: Path, contract: Contract, tables: str, words: str
) -> None:
    text = POLICE.replace(
        "        table: rk\n", f"        table: rk_view\n        tables: {tables}\n"
    )
    told = [p.what for p in check_department(load_text(tmp_path, text), contract)]
    assert any(words in what for what in told) if words else told == []


@pytest.mark.parametrize(("name", "is_one"), [("gb18030", 1), ("utf-16", 0), ("gbk2", 0)])
def test_an_encoding_has_to_be_one(
    tmp_path: Path, contract: Contract, name: str, is_one: bool
) -> None:
    text = POLICE.replace("        table: rk\n", f"        table: rk\n        encoding: {name}\n")
    assert (check_department(load_text(tmp_path, text), contract) == []) is bool(is_one)


def test_a_table_is_one_thing(tmp_path: Path, contract: Contract) -> None:
    text = POLICE.replace("      flat:\n        table: fang", "      resident:\n        table: RK")
    told = [p.what for p in check_department(load_text(tmp_path, text), contract)]
    assert "table `rk` is used for `resident` already" in told


@pytest.mark.parametrize("name", ["RK", "'\"rk\"'"])
def test_a_further_table_is_one_thing_too(tmp_path: Path, contract: Contract, name: str) -> None:
    beside = f"        tables: {{{name}: {{columns: {{use: u}}, on: {{b: bm}}}}}}\n"
    other = "      person:\n        table: rk\n        columns: {code: c}\n        key: [c]\n"
    text = POLICE.replace("        table: fang\n", f"        table: fang\n{beside}")
    text = text.replace("    outbox_cap_rows", f"{other}    outbox_cap_rows")
    problems = check_department(load_text(tmp_path, text), contract)
    told = [p.what for p in problems if "is used for" in p.what]
    assert told == ["table `rk` is used for `flat` already"]


def test_a_row_needs_a_key(tmp_path: Path, contract: Contract) -> None:
    text = POLICE.replace("          code: bm\n", "").replace("          $key: k\n", "")
    text = text.replace("        key: [bm]\n", "")
    told = [(p.line, p.what) for p in check_department(load_text(tmp_path, text), contract)]
    assert told == [(17, "rows of `flat` have no key here")]


def test_a_dataset_is_published_from_one_system(tmp_path: Path) -> None:
    files = edited(
        "departments.yml", "    owner: 值班室\n", "    owner: 值班室\n    systems: [main, two]\n"
    )
    contract = load(write(tmp_path / "contract", files))
    second = POLICE.partition("  main:\n")[2].partition("    receives:")[0]
    text = POLICE + "  two:\n" + second
    told = [(p.line, p.what) for p in check_department(load_text(tmp_path, text), contract)]
    assert told == [(32, "`resident` is published by system `main` already")]


def test_what_the_contract_does_not_give_is_a_hint_and_no_error(
    tmp_path: Path, contract: Contract
) -> None:
    street = (
        "unit: street@330106109\nsystems:\n  main:\n    database: folder:x\n    receives:\n"
        "      resident:\n        table: a\n        columns: {resident_id: i, phone: p}\n"
        "      flat:\n        table: b\n        columns: {code: c}\n"
    )
    department = load_text(tmp_path, street)
    assert check_department(department, contract) == []
    assert [(p.line, p.what) for p in advise_department(department, contract)] == [
        (8, "no rule and no grant gives `phone` of `resident` to this unit"),
        (9, "no rule and no grant brings `flat` to this unit"),
    ]


def test_symbols_without_an_own_code_are_a_hint(tmp_path: Path) -> None:
    files = dict(FILES)
    files["schemas/flat.v1.avsc"] = files["schemas/flat.v1.avsc"].replace(
        '"name": "place", "type": "string"}',
        '"name": "place", "type": "string"},\n    {"name": "use", "type": '
        '{"type": "enum", "name": "Use", "symbols": ["home", "shop"]}}',
    )
    files["topics.yml"] = (
        files["topics.yml"]
        .replace(
            "      code: unconditional\n", "      code: unconditional\n      use: unconditional\n"
        )
        .replace("fields: [code, place]", "fields: [code, place, use]")
    )
    contract = load(write(tmp_path / "contract", files))
    text = POLICE.replace("          place: dz\n", "          place: dz\n          use: yt\n")
    text = text.replace(
        '          place: {A: "330106109", B: "330106"}', '          use: {"1": home}'
    )
    department = load_text(tmp_path, text)
    assert check_department(department, contract) == []
    assert [p.what for p in advise_department(department, contract)] == [
        "`use` has no own code for shop"
    ]
    wrong = load_text(tmp_path, text.replace('"1": home', '"1": house'))
    assert [p.what for p in check_department(wrong, contract)] == [
        "what own code `1` means is no value of `use`"
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("match: [k]", "holds no field of the record"),
        ("match: [other]", "holds no field of the record"),
        ("mark: {bm: x}", "is filled by the bus and cannot be a mark"),
        ("on_remove: park\n        mark: {own: x}", "says nothing beside"),
        ("forms: {bm: caps}", "is no rule"),
        ("forms: {other: trim}", "holds no field of the record"),
        ("forms: {dz: trim}", "or one with codes"),
        ("also: {place: {C: '330106999'}}", "has no own code for what `C` means"),
    ],
)
def test_what_is_said_of_rows_that_were_here_has_to_fit(
    tmp_path: Path, contract: Contract, more: str, words: str
) -> None:
    text = POLICE.replace("        replaces:", f"        {more}\n        replaces:")
    problems = check_department(load_text(tmp_path, text), contract)
    assert any(words in p.what for p in problems), [p.what for p in problems]


@pytest.mark.parametrize(
    ("setting", "count"),
    [
        ("keeps: true", 1),
        ("on_remove: mark", 1),
        ("on_remove: park", 1),
        ("mark: {own: gone}", 1),
        ("match: [bm]", 1),
        ("existing: park", 1),
        ("keeps: false", 0),
        ("on_remove: delete", 0),
    ],
)
def test_rows_of_several_tables_are_not_kept(
    tmp_path: Path, contract: Contract, setting: str, count: int
) -> None:
    beside = "tables: {beside: {columns: {use: u}, on: {b: bm}}}"
    for more, expected in ((setting, 0), (f"{setting}\n        {beside}", count)):
        text = POLICE.replace("        replaces:", f"        {more}\n        replaces:")
        problems = check_department(load_text(tmp_path, text), contract)
        assert [p.what for p in problems if "cannot be had with `tables`" in p.what] == [
            f"`{setting.split(':')[0]}` cannot be had with `tables`: "
            "rows of several tables are not kept"
        ] * expected


def test_a_mapping_for_rows_that_were_here_is_right(tmp_path: Path, contract: Contract) -> None:
    more = (
        "match: [bm]\n        mark: {own: gone}\n        forms: {bm: 'narrow, upper'}\n"
        "        also: {place: {C: '330106'}}\n        existing: park\n"
    )
    text = POLICE.replace("        replaces:", f"        {more}        replaces:")
    assert check_department(load_text(tmp_path, text), contract) == []


@pytest.mark.parametrize(
    "server",
    [
        "bus:se/cret@db/housing",
        "bus:se?cret@db/housing",
        "bus:se#cret@db/housing",
        "bus:12/3@db/housing",
        "bus@db:notaport/housing",
        "bus@db:70000/housing",
        "bus@[::1/housing",
    ],
)
def test_an_address_without_a_host_that_can_be_read_is_refused(tmp_path: Path, server: str) -> None:
    path = tmp_path / "department.yml"
    path.write_text(
        f"unit: housing@330106\nsystems:\n  main:\n    database: 'postgresql://{server}'\n"
    )
    with pytest.raises(FileProblems) as error:
        load_department(path)
    assert "department.yml:4: `database` names no host and port" in str(error.value)
    assert "cret" not in str(error.value)


@pytest.mark.parametrize(
    "server",
    ["db/housing", "bus:se%2Fcret@db:5433/housing", "a:1,b:2/housing", "/housing?host=/run/pg"],
)
def test_an_address_that_the_driver_reads_is_taken(tmp_path: Path, server: str) -> None:
    path = tmp_path / "department.yml"
    path.write_text(
        f"unit: housing@330106\nsystems:\n  main:\n    database: 'postgresql://{server}'\n"
    )
    load_department(path)

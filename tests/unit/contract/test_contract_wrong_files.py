"""One planted mistake each: the file, the line and the words that a person is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract_small import FILES, RESIDENT, edited, write

from deptbus.contract.load import load
from deptbus.errors import Exit, FileProblems

T, D, G = "topics.yml", "departments.yml", "grants.yml"
R, F = "schemas/resident.v1.avsc", "schemas/flat.v1.avsc"

# id: (file, old, new, where it is told, words)
MISTAKES: dict[str, tuple[str, str, str, str, str]] = {
    # spelling of the files
    "yaml_syntax": (T, "title: Flat", "title: [Flat", f"{T}:35", "not valid YAML"),
    "tab_in_yaml": (T, "    title: Flat", "\ttitle: Flat", f"{T}:34", "not valid YAML"),
    "key_twice": (
        T,
        "    title_zh: 房\n",
        "    title_zh: 房\n    title: Home\n",
        f"{T}:36",
        "twice (first on line 34)",
    ),
    "territory_twice": (
        D,
        '"3301": 杭州市',
        '"33": 杭州市\n  "3301": 杭州市',
        f"{D}:3",
        "`33` stands twice",
    ),
    "two_documents": (G, "grants:\n", "a: 1\n---\ngrants:\n", f"{G}:2", "another document"),
    "undefined_alias": (T, "key: [code]", "key: *code", f"{T}:39", "undefined alias"),
    "recursive_alias": (
        D,
        "    systems: [main, archive]",
        "    systems: &s [main, *s]",
        f"{D}",
        "nested far too deep",
    ),
    "key_is_a_list": (
        D,
        "lines:\n",
        "lines:\n  ? [a]\n  : {}\n",
        f"{D}:7",
        "a key that is not a word",
    ),
    "control_character": (G, "联系住户", "联系\x07住户", f"{G}:6", "control character"),
    "surrogate": (R, '"name": "name"', '"name": "\\ud83d"', R, "not JSON that Avro knows"),
    "json_syntax": (
        R,
        '{"name": "place", "type": "string"},',
        '{"name": "place", "type": "string"}',
        f"{R}:8",
        "not valid JSON",
    ),
    "json_nan": (R, '"default": null},\n', '"default": NaN},\n', R, "not JSON that Avro knows"),
    "json_key_twice": (
        F,
        '  "name": "Flat",',
        '  "name": "Flat",\n  "name": "Flat",',
        f"{F}:4",
        "`name` stands twice",
    ),
    # settings
    "unknown_setting": (
        T,
        "    freshness_hours: 24",
        "    freshness_hour: 24",
        f"{T}:32",
        "Did you mean `freshness_hours`?",
    ),
    "unknown_at_top": (T, "partitions: 4", "partition: 4", f"{T}:1", "Did you mean `partitions`?"),
    "unknown_in_rule": (
        T,
        "levels: [township]",
        "level: [township]",
        f"{T}:29",
        "`level` is not a setting here",
    ),
    "missing_setting": (T, "    key: [code]\n", "", f"{T}:33", "setting `key` is missing"),
    "missing_in_grant": (
        G,
        "    purpose: 联系住户\n",
        "",
        f"{G}:2",
        "setting `purpose` is missing",
    ),
    "missing_units": (D, "units:\n", "unit_list:\n", f"{D}:1", "setting `units` is missing"),
    "not_a_list": (T, "key: [code]", "key: code", f"{T}:39", "`key` must be a list"),
    "not_a_mapping": (
        T,
        "    checks:\n      resident_id: resident_id\n      place: division\n",
        "    checks: [place]\n",
        f"{T}:18",
        "`checks` must be a mapping",
    ),
    "unit_not_a_mapping": (
        D,
        "  - unit: police@330106\n    title: District police\n    title_zh: 公安分局\n"
        "    owner: 值班室\n",
        "  - police@330106\n",
        f"{D}:13",
        "must be a mapping",
    ),
    "empty_setting": (T, "title: Flat", "title:", f"{T}:34", "`title` must be text"),
    "wrong_class": (
        T,
        "phone: conditional",
        "phone: secret",
        f"{T}:16",
        "'unconditional', 'conditional' or 'not_shared'",
    ),
    "wrong_level": (T, "levels: [township]", "levels: [town]", f"{T}:29", "'township'"),
    "wrong_direction": (T, "direction: return", "direction: back", f"{T}:27", "'return'"),
    "wrong_check": (
        T,
        "      resident_id: resident_id\n",
        "      resident_id: idcard\n",
        f"{T}:19",
        "'resident_id'",
    ),
    "no_number": (
        T,
        "retention_hours: 48",
        "retention_hours: two days",
        f"{T}:31",
        "must be a whole number",
    ),
    "too_small": (T, "partitions: 4", "partitions: 0", f"{T}:1", "Write 1 or more"),
    "no_time_of_day": (
        T,
        "partitions: 4",
        "proofs: {at: '24:00'}",
        f"{T}:1",
        "Write it from 00:00 to 23:59",
    ),
    "no_time": (T, "partitions: 4", "proofs: {deep: true}", f"{T}:1", "setting `at` is missing"),
    "infinite": (T, "freshness_hours: 24", "freshness_hours: inf", f"{T}:32", "`freshness_hours`"),
    "no_act": (
        G,
        "grants:\n",
        "two_people: {acts: []}\ngrants:\n",
        f"{G}:1",
        "Write [replay, repair]",
    ),
    "unknown_act": (
        G,
        "grants:\n",
        "two_people: {acts: [resend]}\ngrants:\n",
        f"{G}:1",
        "Use one of 'replay' or 'repair'",
    ),
    "two_people_of_nothing": (
        G,
        "grants:\n",
        "two_people: {acts: [replay], datasets: [no_such]}\ngrants:\n",
        f"{G}:1",
        "there is no dataset `no_such`",
    ),
    "no_date": (G, "2028-12-31", "31.12.2028", f"{G}:9", "Write a day that exists"),
    "seconds_for_date": (G, "2028-12-31", "20281231", f"{G}:9", "Write a day that exists"),
    "no_such_day": (G, "2028-12-31", "2028-02-30", f"{G}:9", "is not a date"),
    # territories, lines, units
    "bad_code": (D, '"330106109": 三墩镇', '"33010610": 三墩镇', f"{D}:5", "not a division code"),
    "no_parent": (D, '  "3301": 杭州市\n', "", f"{D}:3", "the territory above `330106` is missing"),
    "territory_without_name": (D, "三墩镇\nlines", "\nlines", f"{D}:5", "must have a name"),
    "bad_line_name": (
        D,
        "  street:\n",
        "  Street-Office: {title: a, title_zh: b}\n  street:\n",
        f"{D}:9",
        "not a name of a line",
    ),
    "unit_without_at": (
        D,
        "unit: street@330106109",
        "unit: street-330106109",
        f"{D}:22",
        "is not a unit",
    ),
    "unit_twice": (
        D,
        "  - unit: street@330106109",
        "  - {unit: police@330106, title: a, title_zh: b, owner: c}\n  - unit: street@330106109",
        f"{D}:22",
        "stands twice",
    ),
    "unit_unknown_line": (
        D,
        "  - unit: street@330106109",
        "  - {unit: fire@330106, title: a, title_zh: b, owner: c}\n  - unit: street@330106109",
        f"{D}:22",
        "line `fire` of unit `fire@330106` is not known",
    ),
    "unit_unknown_place": (
        D,
        "unit: street@330106109",
        "unit: street@330106110",
        f"{D}:22",
        "territory `330106110`",
    ),
    "blank_owner": (D, "owner: 大厅", 'owner: " "', f"{D}:25", "`owner` is blank"),
    "system_twice": (D, "[main, archive]", "[main, main]", f"{D}:21", "names one twice"),
    "system_name": (D, "[main, archive]", "[main, Old DB]", f"{D}:21", "not a name of a system"),
    "fingerprint": (D, "0123456789abcdef0123456789abcdef", "0123", f"{D}:26", "not a fingerprint"),
    "hours_backwards": (
        D,
        "owner: 大厅",
        "owner: 大厅\n    service_hours: 17:30-08:30",
        f"{D}:26",
        "not a time of service",
    ),
    "hours_of_no_clock": (
        D,
        "owner: 大厅",
        "owner: 大厅\n    service_hours: 8-17",
        f"{D}:26",
        "not a time of service",
    ),
    "no_day_of_the_calendar": (
        D,
        "units:\n",
        "calendar:\n  closed: [2026-13-01]\nunits:\n",
        f"{D}:13",
        "`closed[1]` is not a date",
    ),
    "unknown_setting_of_the_calendar": (
        D,
        "units:\n",
        "calendar: {shut: [2026-05-04]}\nunits:\n",
        f"{D}:12",
        "shut",
    ),
    "a_duty_without_a_number": (
        D,
        "owner: 大厅",
        "owner: 大厅\n    duty: {name: 值班室, phone: 值班室}",
        f"{D}:26",
        "`phone` is not a telephone number",
    ),
    "a_resident_number_for_a_phone": (
        D,
        "owner: 大厅",
        'owner: 大厅\n    duty: {name: 值班室, phone: "330106199003070012"}',
        f"{D}:26",
        "`phone` is not a telephone number",
    ),
    "a_duty_of_nobody": (
        D,
        "owner: 大厅",
        'owner: 大厅\n    duty: {name: " ", phone: "8101"}',
        f"{D}:26",
        "`name` is blank",
    ),
    "an_office_with_half_a_contact": (
        D,
        "units:\n",
        "office: {name: 数据局值班室}\nunits:\n",
        f"{D}:12",
        "setting `phone` is missing",
    ),
    "an_office_of_nobody": (
        D,
        "units:\n",
        'office: {name: " ", phone: "8100"}\nunits:\n',
        f"{D}:12",
        "`name` is blank",
    ),
    # datasets
    "dataset_name": (T, "  flat:\n", "  Flat:\n", f"{T}:33", "not a name of a dataset"),
    "unknown_owner_line": (
        T,
        "line: police\n",
        "line: polise\n",
        f"{T}:6",
        "line `polise` is not known",
    ),
    "nobody_publishes": (
        T,
        "    line: housing\n    levels: [county]",
        "    line: housing\n    levels: [prefecture]",
        f"{T}:37",
        "no unit publishes `flat`",
    ),
    "no_schema": (
        T,
        "    line: housing\n    levels: [county]\n    schema_version: 1",
        "    line: housing\n    levels: [county]\n    schema_version: 2",
        f"{T}:38",
        "schemas/flat.v2.avsc, is missing",
    ),
    "key_unknown": (
        T,
        "key: [code]",
        "key: [number]",
        f"{T}:39",
        "field `number` of the key is not in the schema",
    ),
    "key_nullable": (
        T,
        "key: [resident_id]",
        "key: [phone]",
        f"{T}:9",
        "string that is never null",
    ),
    "key_not_text": (
        R,
        '{"name": "resident_id", "type": "string"}',
        '{"name": "resident_id", "type": "long"}',
        f"{T}:9",
        "string that is never null",
    ),
    "division_unknown": (
        T,
        "    key: [code]\n    division: place",
        "    key: [code]\n    division: area",
        f"{T}:40",
        "`area` of the division",
    ),
    "key_empty": (T, "key: [code]", "key: []", f"{T}:39", "`key` is empty"),
    "form_twice": (
        T,
        "    key: [code]",
        "    canonical: [trim, trim]\n    key: [code]",
        f"{T}:39",
        "a form stands twice",
    ),
    "class_missing": (
        T,
        "      born: unconditional\n",
        "",
        f"{T}:11",
        "field `born` of the schema has no sharing class",
    ),
    "class_of_nothing": (
        T,
        "      code: unconditional\n",
        "      code: unconditional\n      rent: conditional\n",
        f"{T}:43",
        "field `rent` is not in the schema",
    ),
    "not_shared_in_schema": (
        T,
        "born: unconditional",
        "born: not_shared",
        f"{T}:15",
        "not_shared and stands in the schema",
    ),
    "check_unknown": (
        T,
        "      place: division\n",
        "      area: division\n",
        f"{T}:20",
        "field `area` is not in the schema",
    ),
    "check_not_text": (
        T,
        "      place: division\n",
        "      born: division\n",
        f"{T}:20",
        "is for text",
    ),
    "check_of_division": (
        T,
        "      place: division\n",
        "      place: credit_code\n",
        f"{T}:20",
        "cannot be a credit_code",
    ),
    "derived_unknown": (
        T,
        "    key: [code]",
        "    derived_from: [house]\n    key: [code]",
        f"{T}:39",
        "dataset `house` is not known",
    ),
    "derived_itself": (
        T,
        "    key: [code]",
        "    derived_from: [flat]\n    key: [code]",
        f"{T}:39",
        "in a circle",
    ),
    # rules
    "rule_twice": (T, "rule: home", "rule: sideways", f"{T}:26", "has no name of its own"),
    "rule_unknown_line": (
        T,
        "lines: [street]",
        "lines: [street, fire]",
        f"{T}:28",
        "line `fire` is not known",
    ),
    "rule_own_line_sideways": (
        T,
        "lines: [housing]",
        "lines: [housing, police]",
        f"{T}:24",
        "never reaches the own line",
    ),
    "rule_up_other_line": (
        T,
        "      - rule: home",
        "      - {rule: up, direction: upward, lines: [housing], fields: [name]}\n"
        "      - rule: home",
        f"{T}:26",
        "follows the line `police` only",
    ),
    "rule_level_never": (
        T,
        "levels: [township]",
        "levels: [prefecture]",
        f"{T}:29",
        "never reaches prefecture",
    ),
    "rule_unknown_field": (
        T,
        "fields: [code, place]",
        "fields: [code, colour]",
        f"{T}:48",
        "field `colour` is not known in `flat`",
    ),
    "rule_not_shared": (
        T,
        "fields: [resident_id, name, place]\n",
        "fields: [resident_id, religion]\n",
        f"{T}:30",
        "no rule can open it",
    ),
    "rule_no_fields": (T, "fields: [code, place]", "fields: []", f"{T}:48", "`fields` is empty"),
    "rules_overlap": (
        T,
        "      - rule: home",
        "      - {rule: again, direction: horizontal, lines: [street, housing], fields: [name]}\n"
        "      - rule: home",
        f"{T}:26",
        "rules `sideways` and `again` both reach line `housing`",
    ),
    # grants
    "grant_unknown_unit": (
        G,
        "unit: housing@330106",
        "unit: housing@330105",
        f"{G}:3",
        "unit `housing@330105` is not known",
    ),
    "grant_unknown_dataset": (
        G,
        "dataset: resident",
        "dataset: person",
        f"{G}:4",
        "dataset `person` is not known",
    ),
    "grant_unknown_field": (
        G,
        "fields: [phone]",
        "fields: [phone, fax]",
        f"{G}:5",
        "field `fax` is not known",
    ),
    "grant_not_shared": (
        G,
        "fields: [phone]",
        "fields: [religion]",
        f"{G}:5",
        "no grant can open it",
    ),
    "grant_unknown_place": (
        G,
        'territory: "330106"',
        'territory: "330199"',
        f"{G}:7",
        "territory `330199` is not known",
    ),
    "grant_ends_early": (
        G,
        "until: 2028-12-31",
        "until: 2025-12-31",
        f"{G}:9",
        "ends before it starts",
    ),
    "grant_blank_purpose": (G, "联系住户", '""', f"{G}:6", "`purpose` is blank"),
    # schemas
    "schema_no_record": (F, FILES[F], '"string"', f"{F}:1", "not a record"),
    "schema_wrong_name": (F, '"name": "Flat"', '"name": "House"', f"{F}:3", "must be called Flat"),
    "schema_nested": (
        R,
        '["null", "string"]',
        '{"type": "array", "items": "string"}',
        f"{R}:9",
        "default",
    ),
    "schema_array": (
        R,
        '["null", "string"], "default": null',
        '{"type": "array", "items": "string"}',
        f"{R}:9",
        "is not one column",
    ),
    "schema_typo": (R, '"logicalType"', '"logicaltype"', f"{R}:8", "attribute 'logicaltype'"),
    "schema_logical": (
        R,
        '{"type": "int", "logicalType": "date"}',
        '{"type": "long", "logicalType": "date"}',
        f"{R}:8",
        "a logical type that long does not have",
    ),
    "schema_three_way": (
        R,
        '["null", "string"]',
        '["null", "string", "int"]',
        f"{R}:9",
        "not null or one type",
    ),
    "schema_field_twice": (
        R,
        '{"name": "name",',
        '{"name": "place",',
        f"{R}:7",
        "two fields of one name",
    ),
    "schema_upper_case": (R, '{"name": "born"', '{"name": "Born"', f"{R}:8", "not in lower case"),
}

# These are told together with what follows from them; the others are told alone.
WITH_CONSEQUENCES = {
    "schema_upper_case",
    "key_not_text",
    "dataset_name",
    "missing_units",
    "bad_code",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_at_its_line_and_alone(name: str, tmp_path: Path) -> None:
    file, old, new, where, words = MISTAKES[name]
    write(tmp_path, edited(file, old, new))
    with pytest.raises(FileProblems) as raised:
        load(tmp_path)
    told = [str(p).removeprefix(f"{tmp_path}/") for p in raised.value.problems]
    hits = [line for line in told if line.startswith(f"{where}: ") and words in line]
    assert hits, f"expected {where} ... {words}; told:\n" + "\n".join(told)
    if name not in WITH_CONSEQUENCES:
        assert len(told) == 1, "\n".join(told)
    assert raised.value.exit_code is Exit.ANSWER_IS_NO
    assert all(p.mend for p in raised.value.problems)


def test_the_small_contract_itself_is_right(tmp_path: Path) -> None:
    contract = load(write(tmp_path, FILES))
    assert [u.unit for u in contract.units] == [
        "police@330106",
        "housing@330106",
        "street@330106109",
    ]


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    files = edited(T, "line: police\n", "line: polise\n")
    files[D] = FILES[D].replace("    owner: 大厅\n", "")
    files[G] = FILES[G].replace("2028-12-31", "never").replace("fields: [phone]", "fields: [fax]")
    files[R] = RESIDENT.replace('"Resident"', '"Person"')
    files[F] = "{"
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, files))
    places = [f"{Path(p.file).name}:{p.line}" for p in raised.value.problems]
    assert places == [
        "topics.yml:6",
        "departments.yml:22",
        "grants.yml:5",
        "grants.yml:9",
        "flat.v1.avsc:1",
        "resident.v1.avsc:3",
    ]


def test_missing_files_are_told_each_once_and_without_echo(tmp_path: Path) -> None:
    with pytest.raises(FileProblems) as raised:
        load(tmp_path)
    assert [p.what for p in raised.value.problems] == [
        "the file is missing",
        "the file is missing",
        "the file is missing",
        "the folder is missing",
    ]
    assert str(tmp_path / T) in str(raised.value)


@pytest.mark.parametrize("missing", [T, D, G])
def test_one_missing_file_does_not_make_the_others_wrong(missing: str, tmp_path: Path) -> None:
    write(tmp_path, {name: text for name, text in FILES.items() if name != missing})
    with pytest.raises(FileProblems) as raised:
        load(tmp_path)
    assert [Path(p.file).name for p in raised.value.problems] == [missing]


def test_a_file_in_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    (tmp_path / D).write_bytes(FILES[D].encode("gb18030"))
    with pytest.raises(FileProblems) as raised:
        load(tmp_path)
    assert [(p.line, p.what) for p in raised.value.problems] == [(2, "not UTF-8 text")]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "~\n"])
def test_an_empty_file_says_that_it_is_empty(text: str, tmp_path: Path) -> None:
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, {**FILES, G: text}))
    assert [p.what for p in raised.value.problems] == ["the file is empty"]


def test_a_file_of_the_wrong_shape(tmp_path: Path) -> None:
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, {**FILES, G: "- grant: a\n"}))
    assert [(p.line, p.what) for p in raised.value.problems] == [(1, "the file must be a mapping")]


def test_a_bom_is_no_mistake(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, G: "\ufeff" + FILES[G]})
    assert load(tmp_path).grants[0].grant == "phone_for_housing"


def test_a_schema_in_tabs_keeps_its_lines(tmp_path: Path) -> None:
    tabbed = FILES[F].replace("  ", "\t").replace('"Flat"', '"House"')
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, {**FILES, F: tabbed}))
    assert [p.line for p in raised.value.problems] == [3]


def test_a_schema_of_no_dataset_and_a_file_that_is_none(tmp_path: Path) -> None:
    files = {**FILES, "schemas/boat.v1.avsc": FILES[F], "schemas/flat.avsc": FILES[F]}
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, {**files, "schemas/README.md": "how to read these"}))
    told = sorted((Path(p.file).name, p.what) for p in raised.value.problems)
    assert told == [
        ("boat.v1.avsc", "no dataset `boat` in topics.yml"),
        ("flat.avsc", "not the name of a schema"),
    ]


def test_a_released_version_may_not_change_what_a_field_means(tmp_path: Path) -> None:
    second = RESIDENT.replace('"string"},\n    {"name": "place"', '"int"},\n    {"name": "place"')
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, {**FILES, "schemas/resident.v2.avsc": second}))
    problem = raised.value.problems[0]
    assert (Path(problem.file).name, problem.line) == ("resident.v2.avsc", 6)
    assert problem.what == "cannot read version 1: name: string cannot become int"


def test_a_released_version_may_not_go(tmp_path: Path) -> None:
    files = edited(
        T,
        "    schema_version: 1\n    key: [resident_id]",
        "    schema_version: 3\n    key: [resident_id]",
    )
    files["schemas/resident.v3.avsc"] = RESIDENT
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, files))
    assert [p.what for p in raised.value.problems] == ["version 2 of `resident` is missing"]


def test_a_later_version_may_not_hold_what_is_not_shared(tmp_path: Path) -> None:
    second = RESIDENT.replace(
        '{"name": "phone"',
        '{"name": "religion", "type": "string", "default": ""},\n    {"name": "phone"',
    )
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, {**FILES, "schemas/resident.v2.avsc": second}))
    problem = raised.value.problems[0]
    assert (problem.line, problem.what) == (
        9,
        "field `religion` is not_shared and stands in the schema",
    )


def test_the_division_stays_in_every_version(tmp_path: Path) -> None:
    second = FILES[F].replace(',\n    {"name": "place", "type": "string"}', "")
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, {**FILES, "schemas/flat.v2.avsc": second}))
    assert [p.what for p in raised.value.problems] == [
        "field `place` of the key or the division is not a string of this version"
    ]


def test_a_circle_of_three_is_found(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    files = {k: v for k, v in FILES.items() if "flat" not in k and "resident.v1" not in k}
    body = "datasets:\n"
    for name, parent in zip(names, ("three", "one", "two"), strict=True):
        body += (
            f"  {name}:\n    title: t\n    title_zh: t\n    line: police\n    levels: [county]\n"
            f"    schema_version: 1\n    key: [code]\n    division: place\n"
            f"    derived_from: [{parent}]\n"
            "    sharing: {code: unconditional, place: unconditional}\n"
        )
        files[f"schemas/{name}.v1.avsc"] = FILES[F].replace('"Flat"', f'"{name.capitalize()}"')
    files[T], files[G] = body, "grants: []\n"
    with pytest.raises(FileProblems) as raised:
        load(write(tmp_path, files))
    assert [p.line for p in raised.value.problems] == [10, 20, 30]

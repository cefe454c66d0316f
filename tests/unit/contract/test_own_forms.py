"""How own columns spell their values: each rule written, read, and what it refuses."""

from __future__ import annotations

from datetime import date

import pytest

from deptbus.contract.own_forms import BadForm, Misspelled, form_of


@pytest.mark.parametrize(
    ("rules", "bus", "own", "typed"),
    [
        ("trim", "a b", "a b", [" a b ", "a b\n"]),
        ("narrow", "12A", "12A", ["１２Ａ", "　12A ", " 1２A"]),
        ("wide", "12A", "１２Ａ", ["12A", "１２A"]),
        ("narrow, upper", "12X", "12X", ["１２ｘ", "12x"]),
        ("digits 6", "000123", "000123", ["123", 123, 123.0, "000123", " 123 "]),
        ("date YYYYMMDD", date(1990, 1, 2), "19900102",
         ["1990-01-02", "1990/1/2", "1990.1.2", "1990年1月2日", " 19900102 ", 19900102]),
        ("date DD.MM.YYYY", date(1990, 1, 2), "02.01.1990", ["1990-1-2", "19900102"]),
        ("date YYYY年M月D日", date(1990, 11, 2), "1990年11月2日", ["1990-11-02"]),
    ],
)  # fmt: skip
def test_a_rule_reads_what_it_writes_and_what_means_the_same(
    rules: str, bus: object, own: str, typed: list[object]
) -> None:
    form = form_of(rules)
    assert form.write(bus) == own
    said = bus.isoformat() if isinstance(bus, date) else bus
    for one in (own, *typed):
        assert form.read(one) == said, one


@pytest.mark.parametrize(
    ("rules", "typed"),
    [
        ("digits 3", "1234"),
        ("digits 3", "12a"),
        ("digits 3", "-1"),
        ("digits 3", "１"),
        ("date YYYYMMDD", "02.01.1990"),  # day or month first: nobody knows
        ("date YYYYMMDD", "19901301"),
        ("date YYYYMMDD", "不详"),
        ("date DD.MM.YYYY", "31.02.1990"),
    ],
)
def test_what_cannot_be_read_is_refused_without_being_told(rules: str, typed: str) -> None:
    with pytest.raises(Misspelled) as refused:
        form_of(rules).read(typed)
    assert typed not in str(refused.value)


@pytest.mark.parametrize("bus", ["1234", "7", "12", " 012", "012 ", "01a", "٠١٢"])
def test_a_text_of_other_length_is_not_written_as_another_one(bus: str) -> None:
    """It would read back as what it was not, and be one key with what is written so."""
    with pytest.raises(Misspelled) as refused:
        form_of("digits 3").write(bus)
    assert bus not in str(refused.value)


def test_a_number_is_written_with_its_zeros() -> None:
    assert [form_of("digits 3").write(bus) for bus in (7, 123, 0)] == ["007", "123", "000"]
    for bus in (1234, -1, True):
        with pytest.raises(Misspelled):
            form_of("digits 3").write(bus)


def test_what_is_no_day_is_not_spelled_as_one() -> None:
    with pytest.raises(Misspelled):
        form_of("date YYYYMMDD").write("1990-01-02")


@pytest.mark.parametrize(
    "rules", ["", "digits", "digits 0", "digits x", "date", "date YYYY", "date YYYYMMDDDD", "caps"]
)
def test_no_rule(rules: str) -> None:
    with pytest.raises(BadForm):
        form_of(rules)


def test_an_empty_value_stays_empty() -> None:
    for rules in ("trim", "narrow", "digits 4", "date YYYYMMDD"):
        assert form_of(rules).read("") == ""

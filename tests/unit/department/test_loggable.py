"""Names of dropped files come into the log without the numbers that somebody may have put there."""

from deptbus.department.folder_import import loggable


def test_long_numbers_are_not_logged() -> None:
    assert loggable("person-33010619450203001x.csv") == "person-….csv"
    assert loggable("resident.full.csv") == "resident.full.csv"
    assert loggable("名单2026-11.xlsx") == "名单2026-11.xlsx"

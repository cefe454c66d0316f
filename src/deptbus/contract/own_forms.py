"""Pure: how an own column spells its values, by the rules that `forms` in department.yml declares.

A rule says what is written, and how it is read back: `read(write(x))` is x, and what a hand typed
otherwise is read where it can mean one thing only. Several rules, divided by commas, are read from
the left and written from the right.

- `trim`: spaces around a text are nothing.
- `narrow`: full-width letters, digits, signs and spaces (GB/T 2312, row 3; Unicode U+FF01 to U+FF5E
  and U+3000) are read as their narrow ones, and trimmed.
- `wide`: as `narrow`, but full-width ones are written.
- `upper`: small Latin letters are read as capitals.
- `digits N`: a number of N digits with its leading zeros; in a column for numbers, without. A text
  of the bus that has not N of them is not written: it would be one with the text that has.
- `date PATTERN`: a day in text, such as `YYYYMMDD` or `DD.MM.YYYY`; read by it, and else as
  `YYYY-MM-DD`, `YYYY/M/D`, `YYYY.M.D`, `YYYYMMDD` or `YYYY年M月D日`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

_WIDE = {n: chr(n + 0xFEE0) for n in range(0x21, 0x7F)} | {0x20: "\u3000"}
_NARROW = {ord(wide): narrow for narrow, wide in _WIDE.items()}
_PARTS = re.compile(r"YYYY|MM|DD|M|D")
_DIGITS = {"YYYY": r"(?P<y>[0-9]{4})", "MM": r"(?P<m>[0-9]{2})", "DD": r"(?P<d>[0-9]{2})",
           "M": r"(?P<m>[0-9]{1,2})", "D": r"(?P<d>[0-9]{1,2})"}  # fmt: skip
_MOST_DIGITS = 40
# Each can be read in one way only, whatever the column's own pattern is.
_KNOWN_DATES = ("YYYY-M-D", "YYYY/M/D", "YYYY.M.D", "YYYYMMDD", "YYYY年M月D日")


class BadForm(ValueError):
    """No rule is written so; the message says what one would be."""


class Misspelled(ValueError):
    """A value that the rule cannot spell, or read. Carries nothing of the value."""


@dataclass(frozen=True, slots=True)
class Form:
    """`write`: the bus's value (text, number, date) -> what the column's text is; `read`: own value
    -> text that is read as the field's type. Both raise Misspelled."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def form_of(rules: str) -> Form:
    """Raises BadForm."""
    found = [_rule(rule.strip()) for rule in rules.split(",")]

    def write(value: Any) -> Any:
        for form in reversed(found):
            value = form.write(value)
        return value

    def read(value: Any) -> Any:
        for form in found:
            value = form.read(value)
        return value

    return Form(write, read)


def _rule(rule: str) -> Form:
    name, _, word = rule.partition(" ")
    if name in _PLAIN and not word:
        return _PLAIN[name]
    if name == "digits" and word.isdecimal() and 0 < int(word) <= _MOST_DIGITS:
        return _digits(int(word))
    if name == "date" and word:
        return _date(word.strip())
    raise BadForm("one of trim, narrow, wide, upper, `digits N`, `date PATTERN`")


def _text(value: Any) -> Any:
    """Whole numbers in text where a rule is about letters."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _on_text(change: Callable[[str], str]) -> Callable[[Any], Any]:
    def apply(value: Any) -> Any:
        value = _text(value)
        return change(value) if isinstance(value, str) else value

    return apply


def _narrowed(text: str) -> str:
    return text.translate(_NARROW).strip()


_PLAIN = {
    "trim": Form(_on_text(str.strip), _on_text(str.strip)),
    "narrow": Form(_on_text(_narrowed), _on_text(_narrowed)),
    "wide": Form(_on_text(lambda t: _narrowed(t).translate(_WIDE)), _on_text(_narrowed)),
    "upper": Form(_on_text(str.upper), _on_text(str.upper)),
}


def _digits(count: int) -> Form:
    def filled(value: Any) -> str:
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else _text(value)
        if text == "":
            return text
        if not isinstance(text, str) or not re.fullmatch(r"[0-9]+", text.strip(), re.ASCII):
            raise Misspelled(f"not a number of {count} digits")
        found = text.strip().zfill(count)
        if len(found) > count:
            raise Misspelled(f"a number of more than {count} digits")
        return found

    def write(value: Any) -> str:
        found = filled(value)
        if isinstance(value, str) and value != found:
            raise Misspelled(f"a text that is not of {count} digits")
        return found

    return Form(write, filled)


def _pattern(pattern: str) -> re.Pattern[str]:
    names = [part[0] for part in _PARTS.findall(pattern)]
    if sorted(names) != ["D", "M", "Y"]:
        raise BadForm("a pattern with YYYY, MM or M, and DD or D, once each")
    inner, at = "", 0
    for part in _PARTS.finditer(pattern):
        inner += re.escape(pattern[at : part.start()]) + _DIGITS[part[0]]
        at = part.end()
    return re.compile(inner + re.escape(pattern[at:]), re.ASCII)


def _date(pattern: str) -> Form:
    readable = [_pattern(one) for one in dict.fromkeys((pattern, *_KNOWN_DATES))]

    def write(value: Any) -> str:
        if not isinstance(value, date) or isinstance(value, datetime):
            raise Misspelled("not a day")
        words = {"YYYY": f"{value.year:04}", "MM": f"{value.month:02}", "DD": f"{value.day:02}",
                 "M": str(value.month), "D": str(value.day)}  # fmt: skip
        return _PARTS.sub(lambda part: words[part[0]], pattern)

    def read(value: Any) -> Any:
        text = _text(value)
        if not isinstance(text, str):
            return value  # a column of the database's own kind of day
        text = text.strip()
        return _read_day(text, readable) if text else text

    return Form(write, read)


def _read_day(text: str, readable: Sequence[re.Pattern[str]]) -> str:
    for one in readable:
        found = one.fullmatch(text)
        if found is not None:
            try:
                return date(int(found["y"]), int(found["m"]), int(found["d"])).isoformat()
            except ValueError:
                break
    raise Misspelled("not a day")

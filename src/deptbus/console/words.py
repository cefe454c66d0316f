"""All words of the pages, in English and Chinese: `words.toml` by name, `sentences.toml` for what
`operations` says in English. A word that is missing is an error, in the tests and on a page."""

from __future__ import annotations

import itertools
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "zh")
HTML_LANG = {"en": "en", "zh": "zh-CN"}


@cache
def catalogue() -> dict[str, tuple[str, str]]:
    """Name (`lag.title`) -> (English, Chinese)."""
    text = files("deptbus.console").joinpath("words.toml").read_text(encoding="utf-8")
    return {
        f"{section}.{name}": (pair[0], pair[1])
        for section, names in tomllib.loads(text).items()
        for name, pair in names.items()
    }


@cache
def sentences() -> dict[str, str]:
    """English sentence, with its `{places}` -> Chinese."""
    text = files("deptbus.console").joinpath("sentences.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["zh"]


class Words:
    """Of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._which = LANGUAGES.index(language)

    def __call__(self, word: str, /, **places: Any) -> str:
        """Raises KeyError where there is no such word."""
        text = catalogue()[word][self._which]
        return text.format(**places) if places else text

    def of(self, section: str, value: object) -> str:
        """The word for a constant of the bus; itself where it is none that we know."""
        pair = catalogue().get(f"{section}.{value}")
        return str(value) if pair is None else pair[self._which]

    def sentence(self, english: str, **places: Any) -> str:
        """What `operations` says, in this language; in English where nobody has translated it."""
        text = sentences().get(english, english) if self.language == "zh" else english
        return text.format(**places) if places else text

    def title(self, thing: Any) -> str:
        """Of a unit, line or dataset of the contract."""
        return str(thing.title_zh if self.language == "zh" else thing.title)

    def duration(self, seconds: float | None) -> str:
        """The two greatest units of a time."""
        if seconds is None:
            return self("common.unknown")
        whole = max(0, int(seconds))
        sizes = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
        for (word, size), (small_word, small) in itertools.pairwise(sizes):
            if whole >= size:
                rest = whole % size // small
                head = f"{whole // size} {self(f'unit.{word}')}"
                return head + (f" {rest} {self(f'unit.{small_word}')}" if rest else "")
        return f"{whole} {self('unit.s')}"

    def number(self, value: int | None) -> str:
        return self("common.unknown") if value is None else f"{value:,}"

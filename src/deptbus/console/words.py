"""All words of the pages, in English and Chinese: `words.toml` by name, `sentences.toml` for what
`operations` says in English. A word that is missing is an error, in the tests and on a page."""

from __future__ import annotations

import itertools
import re
import tomllib
from functools import cache, lru_cache
from importlib.resources import files
from string import Formatter
from typing import Any

from deptbus.errors import DeptbusError

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


@cache
def _finished() -> list[tuple[re.Pattern[str], str]]:
    """How a sentence is recognised whose places are filled in -> its Chinese; the one with the most
    words of its own first."""
    found = []
    for english, chinese in sentences().items():
        parts = [
            re.escape(text) + (f"(?P<{name}>.+?)" if name is not None else "")
            for text, name, _, _ in Formatter().parse(english)
        ]
        found.append((len(re.sub(r"{\w+}", "", english)), re.compile("".join(parts)), chinese))
    return [(pattern, chinese) for _, pattern, chinese in sorted(found, key=lambda f: -f[0])]


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
        """A sentence of `operations` with its places still empty, filled in, in this language."""
        text = sentences()[english] if self.language == "zh" else english
        return text.format(**places)

    def told(self, english: str) -> str:
        """What `operations` or a database has said, in this language: what stands in its places is
        found again. Sentences that nobody has translated stay English."""
        if self.language != "zh":
            return english
        whole = _chinese(english)
        if whole is not None:
            return whole
        parts = [part.removesuffix(".") for part in english.split(". ")]
        known = [_chinese(part) for part in parts]
        if not any(known):
            return english
        return "。".join(one or part for one, part in zip(known, parts, strict=True))

    def refusal(self, error: DeptbusError) -> str:
        """What is wrong, and how to mend it."""
        if self.language != "zh":
            return str(error)
        return "。".join(map(self.told, filter(None, (error.what, error.mend))))

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


@lru_cache(1024)
def _chinese(english: str) -> str | None:
    for pattern, chinese in _finished():
        found = pattern.fullmatch(english)
        if found is not None:
            return chinese.format(**found.groupdict())
    return None

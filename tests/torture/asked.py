"""`deptbus` commands as a person types them: each a process that may be killed, and typed anew."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.nursery import nursery

from .launch import words_of
from .witness import settled
from .world import World

ASK_SECONDS = 240.0
INSIST_SECONDS = 400.0
_AGAIN_SECONDS = 0.5

Meanwhile = Callable[["Asked"], None]


class Asked:
    """One process of a command; `name` is for its files. Its answer is one line of JSON."""

    def __init__(self, world: World, name: str, *words: str) -> None:
        planted = world.bug.patches.get("command", ()) if world.bug is not None else ()
        self.name, self.words = name, words
        self._output = world.folder / "logs" / f"{name}.out"
        self.log_file = world.folder / "logs" / f"{name}.log"
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._output.write_bytes(b"")
        argv = words_of("command", [*planted, "moments:command"], *words)
        self.process = nursery().start(argv, world.environment(), self._output, self.log_file)

    @property
    def code(self) -> int | None:
        """Exit code, negative if a signal ended it; None while it runs."""
        return self.process.poll()

    @property
    def answer(self) -> dict[str, Any]:
        """Empty where it said nothing."""
        lines = self._output.read_text("utf-8").splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return found

    @property
    def said(self) -> str:
        """The end of what it told on its error output."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read()[-600:].decode("utf-8", "replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


def attended(
    world: World, asked: Sequence[Asked], meanwhile: Meanwhile, seconds: float = ASK_SECONDS
) -> None:
    """Until all of them have ended. Who dies meanwhile is started anew."""

    def is_over() -> bool:
        for one in asked:
            if one.code is None:
                meanwhile(one)
        world.tend()
        return all(one.code is not None for one in asked)

    try:
        settled(is_over, seconds, ", ".join(one.name for one in asked))
    except TimeoutError as error:
        world.verdict.add("other", f"{error}: {asked[0].said}")
        for one in asked:
            if one.code is None:
                one.kill()


def insisted(
    world: World,
    name: str,
    *words: str,
    meanwhile: Meanwhile = lambda _: None,
    seconds: float = INSIST_SECONDS,
) -> dict[str, Any]:
    """The answer of a command that is typed again until it says that all is well. What it may not
    say, and that it never does, is found."""
    until = time.monotonic() + seconds
    while True:
        one = Asked(world, name, *words)
        attended(world, [one], meanwhile)
        if one.code == 0:
            return one.answer
        if one.code not in (-9, 1, 2):
            world.verdict.add("other", f"{name} ended with {one.code}: {one.said}")
            return {}
        if time.monotonic() > until:
            world.verdict.add("other", f"{name} is not done, code {one.code}: {one.said}")
            return {}
        if one.code != -9:
            time.sleep(_AGAIN_SECONDS)

"""Processes as coroutines: stepped in random order, killed, frozen, and woken as zombies."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass

from deptbus.errors import DatabaseUnavailable, Fenced


class _Step:
    def __init__(self, is_idle: bool) -> None:
        self._is_idle = is_idle

    def __await__(self) -> Generator[bool, None, None]:
        yield self._is_idle


def step() -> Awaitable[None]:
    """Await it before each act of I/O: here others may act, and here a process may die."""
    return _Step(is_idle=False)


def rest() -> Awaitable[None]:
    """Await it with nothing to do and nothing in memory that matters: others come first then."""
    return _Step(is_idle=True)


@dataclass(eq=False, slots=True)
class Instance:
    """One start of a process."""

    name: str
    coroutine: Coroutine[bool, None, None] | None = None
    is_frozen: bool = False
    is_idle: bool = False

    @property
    def is_awake(self) -> bool:
        return self.coroutine is not None and not self.is_frozen


Start = Callable[[Instance], Coroutine[bool, None, None]]


class Scheduler:
    """Every process always has one present instance; zombies are former ones that were frozen."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._starts: dict[str, Start] = {}
        self._speeds: dict[str, float] = {}  # how often each process gets its turn
        self.present: dict[str, Instance] = {}
        self.zombies: list[Instance] = []

    def add(self, name: str, start: Start) -> None:
        self._starts[name] = start
        self._speeds[name] = self._chance.choice((0.1, 1.0, 1.0, 3.0))
        self._start(name)

    def is_present(self, instance: Instance) -> bool:
        return self.present[instance.name] is instance

    def step_one(self) -> None:
        running = [*self.present.values(), *(z for z in self.zombies if z.is_awake)]
        self._step(self._pick(running))

    def step_all(self) -> None:
        for instance in [*self.present.values(), *self.zombies]:
            if not instance.is_frozen:
                self._step(instance)

    def kill(self) -> None:
        """SIGKILL: what was in memory is gone; the supervisor starts it again."""
        instance = self._victim()
        if instance.coroutine is not None:
            instance.coroutine.close()
            instance.coroutine = None
        self._start(instance.name)

    def disconnect(self, name: str) -> None:
        """What all instances of a process were connected to is gone: each begins anew or ends."""
        for instance in [*self.zombies, self.present[name]]:
            if instance.name == name and instance.coroutine is not None:
                instance.coroutine.close()
                instance.coroutine = None
        self.zombies = [z for z in self.zombies if z.name != name]
        self._start(name)

    def freeze(self, kind: str = "") -> None:
        """SIGSTOP beyond every time-out: another takes its place, and it may wake later."""
        instance = self._victim(kind)
        instance.is_frozen = True
        self.zombies.append(instance)
        self._start(instance.name)

    def wake(self) -> None:
        frozen = [z for z in self.zombies if z.is_frozen]
        if frozen:
            self._chance.choice(frozen).is_frozen = False

    def wake_all(self) -> None:
        for zombie in self.zombies:
            zombie.is_frozen = False

    def close(self) -> None:
        for instance in [*self.present.values(), *self.zombies]:
            if instance.coroutine is not None:
                instance.coroutine.close()

    def _victim(self, kind: str = "") -> Instance:
        """Of any kind of process alike, and rather one with something in its hands."""
        kind = kind or self._chance.choice(sorted({name.split()[0] for name in self.present}))
        return self._pick([i for name, i in self.present.items() if name.split()[0] == kind])

    def _pick(self, instances: list[Instance]) -> Instance:
        weights = [self._speeds[i.name] * (0.1 if i.is_idle else 1) for i in instances]
        return self._chance.choices(instances, weights)[0]

    def _start(self, name: str) -> None:
        instance = Instance(name)
        instance.coroutine = self._starts[name](instance)
        self.present[name] = instance

    def _step(self, instance: Instance) -> None:
        if instance.coroutine is None:
            return
        try:
            instance.is_idle = instance.coroutine.send(None)
        except (StopIteration, Fenced, DatabaseUnavailable):
            instance.coroutine = None
            if instance in self.zombies:
                self.zombies.remove(instance)
            elif self.present[instance.name] is instance:
                self._start(instance.name)

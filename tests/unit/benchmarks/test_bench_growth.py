"""What counts as growth: a steady rise, not a wavering and not a beginning."""

from __future__ import annotations

import random

import pytest

from benchmarks.delays import percentile
from benchmarks.growth import growth, last_two_thirds
from benchmarks.parts.soak import Course, figures_of

SECONDS = [float(n * 10) for n in range(120)]


def test_a_leak_is_seen_through_noise() -> None:
    chance = random.Random(1)
    leak = [(at, 200 + at * 0.01 + chance.uniform(-1, 1)) for at in SECONDS]
    found = growth(last_two_thirds(leak))
    assert found.rise == pytest.approx(7.9, abs=1)
    assert found.is_growth(part=0.03, least=5)


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_growth(seed: int) -> None:
    chance = random.Random(seed)
    noise = [(at, 200 + chance.uniform(-8, 8)) for at in SECONDS]
    assert not growth(last_two_thirds(noise)).is_growth(part=0.03, least=5)


def test_a_beginning_and_a_few_odd_samples_are_no_growth() -> None:
    warm = [(at, min(200.0, 100 + at) + (300 if at == 900 else 0)) for at in SECONDS]
    assert not growth(last_two_thirds(warm)).is_growth(part=0.03, least=5)


def test_too_little_says_nothing() -> None:
    assert last_two_thirds([]) == []
    with pytest.raises(ValueError, match="nothing can be said"):
        growth([(0.0, 1.0), (1.0, 1.0)])


@pytest.mark.parametrize("planted", ["nothing", "memory", "latency"])
def test_the_soak_fails_of_what_grows_and_of_nothing_else(planted: str) -> None:
    leak, drag = (0.02 if planted == "memory" else 0), (0.01 if planted == "latency" else 0)
    course = Course(
        {name: [(at, 90 + at * leak) for at in SECONDS] for name in ("worker", "adapter")},
        p50=[(at, 8 + at * drag) for at in SECONDS],
        p99=[(at, 20.0) for at in SECONDS],
    )
    failed = [f.name for f in figures_of(course) if f.met is False]
    assert [name.split()[1] for name in failed] == {
        "nothing": [], "memory": ["memory"] * 3, "latency": ["latency"],
    }[planted]  # fmt: skip


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99)) == (50, 99, 7)
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)

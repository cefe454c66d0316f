"""Whoever watches from outside closes nothing under a thread of his that is still in it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from confluent_kafka import KafkaException

from . import foreign, witness
from .foreign import Foreign
from .verdict import Verdict
from .witness import Witness

SECONDS = 10.0


class Stuck:
    """A look that stands still until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.is_inside = False
        self.closed_inside = self.closed = 0

    def look(self, *_: Any) -> bool:
        self.is_inside = True
        self.entered.set()
        assert self.go.wait(SECONDS)
        self.is_inside = False
        return True

    def close(self) -> None:
        self.closed += 1
        self.closed_inside += self.is_inside


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Foreign:
    monkeypatch.setattr(foreign, "ROUND_SECONDS", 0.001)
    monkeypatch.setattr(foreign, "END_SECONDS", 0.05)
    nothing: Any = None
    return Foreign(nothing, nothing, nothing, Verdict("outsiders", seed=1, bug=None))


def test_the_foreign_consumer_leaves_its_clients_to_a_round_that_does_not_end(
    watcher: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck()
    watcher._clients = (stuck, stuck, stuck)  # type: ignore[assignment]
    monkeypatch.setattr(watcher, "_look", stuck.look)
    watcher.start()
    assert stuck.entered.wait(SECONDS)
    watcher.abandon()
    with pytest.raises(TimeoutError):
        watcher.finish()
    assert not stuck.closed
    stuck.go.set()
    monkeypatch.setattr(foreign, "END_SECONDS", SECONDS)
    watcher.abandon()
    assert stuck.closed == 2
    assert not stuck.closed_inside


def test_it_closes_its_clients_before_anybody_else_may_look(
    watcher: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure: who waits for the turn would open what is about to be closed."""
    closed = threading.Event()

    def fails() -> bool:
        raise KafkaException

    def close() -> None:
        assert watcher._looking.locked()
        closed.set()

    monkeypatch.setattr(watcher, "_look", fails)
    monkeypatch.setattr(watcher, "_close", close)
    watcher.start()
    assert closed.wait(SECONDS)
    monkeypatch.setattr(foreign, "END_SECONDS", SECONDS)
    assert watcher._is_over()
    assert watcher._failure is None


def test_it_asks_with_new_clients_after_a_topic_was_not_there(
    watcher: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Librdkafka does not ask again for a topic that it once did not find."""
    made = []

    class Clients:
        def __init__(self) -> None:
            self.know_it = bool(made)  # it was made in between
            made.append(self)

        def close(self) -> None:
            return

    def opened(_: Any) -> Any:
        if watcher._clients is None:
            watcher._clients = (Clients(),) * 3  # type: ignore[assignment]
        return watcher._clients

    monkeypatch.setattr(watcher, "_connection", lambda: "bus")
    monkeypatch.setattr(watcher, "_open", opened)
    monkeypatch.setattr(watcher, "_committed", lambda _: {})
    monkeypatch.setattr(watcher, "_read_on", lambda consumer, _: consumer.know_it)
    assert [watcher.look() for _ in range(3)] == [False, True, True]
    assert len(made) == 2


def test_the_witness_leaves_its_connections_to_a_sample_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(witness, "SAMPLE_SECONDS", 0.001)
    monkeypatch.setattr(witness, "END_SECONDS", 0.05)
    nothing: Any = None
    watcher, stuck = Witness(nothing, {}, Verdict("outsiders", seed=1, bug=None)), Stuck()
    watcher._sources["registry@330106"] = stuck  # type: ignore[assignment]
    monkeypatch.setattr(watcher, "sample", stuck.look)
    watcher.start()
    assert stuck.entered.wait(SECONDS)
    watcher.close()
    with pytest.raises(TimeoutError):
        watcher.stop()
    assert not stuck.closed
    stuck.go.set()
    monkeypatch.setattr(witness, "END_SECONDS", SECONDS)
    watcher.close()
    assert stuck.closed == 1
    assert not stuck.closed_inside

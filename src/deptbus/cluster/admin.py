"""One Kafka admin client whose errors are ours: unreachable, refused, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from deptbus.connection import Connection
from deptbus.errors import (
    CREDENTIALS,
    CREDENTIALS_MEND,
    BusRefused,
    BusUnreachable,
    DeptbusError,
)

REQUEST_SECONDS = 30.0
FIRST_ANSWER_SECONDS = 5.0

_NOT_REACHED = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError.REQUEST_TIMED_OUT,
}

log = structlog.get_logger(__name__)


class Admin:
    """An admin client that has reached the bus; `brokers` is how many it has.

    Raises BusUnreachable when none answers, BusRefused when it does not let us in.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._bootstrap = connection, connection.bootstrap
        self._refusal: KafkaError | None = None
        words = connection.librdkafka() | {
            "error_cb": self._note,
            "log_level": 0,  # its own log repeats on stderr what `_note` hears
            "socket.timeout.ms": int(REQUEST_SECONDS * 1000),
        }
        self.client = AdminClient(words)
        self.brokers = len(self.metadata().brokers)

    def metadata(self) -> Any:
        """All topics and brokers, as the bus knows them now."""
        deadline = time.monotonic() + FIRST_ANSWER_SECONDS
        with self.translated():
            while True:
                try:
                    return self.client.list_topics(timeout=1)
                except KafkaException as error:
                    # A refused login looks like a broker that does not answer; only the callback,
                    # which runs within poll, knows better.
                    self.client.poll(0)
                    if self._refusal is not None:
                        raise KafkaException(self._refusal) from error
                    if time.monotonic() > deadline:
                        raise

    def results(self, futures: dict[Any, Future[Any]]) -> dict[Any, Any]:
        """Waits for all and returns what they hold; the first that failed is raised, translated."""
        with self.translated():
            return {key: _result_of(key, future) for key, future in futures.items()}

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns errors of the Kafka client within into those of our tree."""
        try:
            yield
        except KafkaException as error:
            raise self._translate(error.args[0]) from error
        except TimeoutError as error:
            raise BusUnreachable(
                f"the bus at {self._bootstrap} did not answer in {REQUEST_SECONDS:.0f} s",
                mend="Look whether its brokers are well, then try again",
            ) from error

    def _note(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            self._refusal = error

    def _translate(self, error: KafkaError) -> DeptbusError:
        if error.code() in (*_NOT_REACHED, KafkaError._SSL):
            tls = self._connection.tls_trouble()
            if tls is not None:
                return tls
        if error.code() == KafkaError._AUTHENTICATION:
            return BusRefused(CREDENTIALS, mend=CREDENTIALS_MEND)
        if error.code() in _NOT_REACHED:
            return BusUnreachable(
                f"no broker answers at {self._bootstrap}",
                mend="Start the bus (`deptbus up --embedded`) or name the right one",
            )
        if error.code() == KafkaError.SECURITY_DISABLED:
            return BusRefused(
                f"the brokers at {self._bootstrap} check no rights",
                mend="Set authorizer.class.name as docker-compose.yml does",
            )
        return BusRefused(
            f"the bus at {self._bootstrap} refused: {error.str().rstrip('.')}",
            mend="Look at the user, the password and the rights that this command has",
        )


def _result_of(key: Any, future: Future[Any]) -> Any:
    """With the name of what was refused: the client's words have none."""
    try:
        return future.result(REQUEST_SECONDS)
    except KafkaException as error:
        code, text = error.args[0].code(), error.args[0].str().rstrip(".")
        name = getattr(key, "name", key)
        raise KafkaException(KafkaError(code, f"{text} ({name})")) from error

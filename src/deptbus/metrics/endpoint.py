"""The address at which a process tells its figures to Prometheus: plain HTTP, in a thread.

Its own thread, because a scrape must be answered while the process works, and must not hold it up;
the standard library's server, because every adapter and worker would otherwise carry a web
framework for one page. Whoever serves more than that (the monitor) takes `text_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    GC_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    start_http_server,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from deptbus import __version__
from deptbus.errors import DeptbusError
from deptbus.metrics.address import Address, why_refused
from deptbus.metrics.catalogue import Teller
from deptbus.metrics.counts import Counts
from deptbus.metrics.families import Families


class _Build(Collector):
    def __init__(self, component: Teller) -> None:
        self._component = component

    def collect(self) -> Iterable[Family]:
        told = Families()
        told.tell_state("deptbus_build_info", [self._component.value, __version__])
        return told


class CountsCollector(Collector):
    """What a process counted."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def describe(self) -> Iterable[Family]:
        """Nothing is asked when it is registered."""
        return ()

    def collect(self) -> Iterable[Family]:
        told = Families()
        for (name, labels), value in (*self._counts.sums(), *self._counts.gauges()):
            told.tell(name, labels, value)
        for (name, labels), histogram in self._counts.histograms():
            told.tell_counts(name, labels, histogram.counts, histogram.total)
        return told


def registry_of(component: Teller, *collectors: Collector) -> CollectorRegistry:
    """What a process tells: which it is, what it takes (`process_*`, `python_gc_*`), and these."""
    registry = CollectorRegistry()
    for collector in (_Build(component), PROCESS_COLLECTOR, GC_COLLECTOR, *collectors):
        registry.register(collector)
    return registry


def text_of(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """One scrape and its content type. `accept`: the header of the request. Of a thousand units
    with twenty thousand partitions it is 11 MB and takes a second, so not on an event loop."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class Endpoint:
    """Serves `/metrics` (and the same at every path) from `start` to `stop`."""

    def __init__(self, address: Address, registry: CollectorRegistry) -> None:
        self._address, self._registry = address, registry
        self._stop: Callable[[], None] | None = None

    def start(self) -> None:
        """Raises DeptbusError where the address cannot be taken."""
        try:
            server, thread = start_http_server(
                self._address.port, self._address.host, self._registry
            )
        except OSError as error:  # socket.gaierror among them
            raise _refused(self._address, error) from None
        assert isinstance(server, WSGIServer)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._stop = stop

    def stop(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None


def _refused(address: Address, error: OSError) -> DeptbusError:
    return DeptbusError(
        f"metrics cannot be served at {address} ({why_refused(error)})",
        mend="Name another with --metrics-address HOST:PORT, or end what has that one",
    )

"""The endpoint of a process: what it serves, and what it says of an address that it cannot take."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator

import pytest

from deptbus import __version__
from deptbus.errors import DeptbusError, Exit
from deptbus.metrics.address import Address, address_of
from deptbus.metrics.catalogue import Teller
from deptbus.metrics.counts import Counts
from deptbus.metrics.endpoint import CountsCollector, Endpoint, registry_of, text_of


@pytest.fixture
def taken() -> Iterator[Address]:
    """An address at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Address("127.0.0.1", server.getsockname()[1])


def test_it_serves_what_it_is_and_what_the_process_takes(taken: Address) -> None:
    # A port that was just let go: whoever listened there has ended.
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = Address("127.0.0.1", server.getsockname()[1])
    endpoint = Endpoint(free, registry_of(Teller.ADAPTER))
    endpoint.start()
    try:
        with urllib.request.urlopen(f"http://{free}/metrics", timeout=10) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain")
    finally:
        endpoint.stop()
    assert f'deptbus_build_info{{component="adapter",version="{__version__}"}} 1.0' in text
    assert "process_resident_memory_bytes " in text
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{free}/metrics", timeout=10)


def test_what_was_counted_is_told_in_prometheus_words() -> None:
    counts, way = Counts(), ("resident", "upward")
    counts.add("deptbus_delivered_total", ("upward",), 2)
    counts.histogram("deptbus_end_to_end_seconds", way).observe(0.02)
    counts.histogram("deptbus_end_to_end_seconds", way).observe(1e9)
    counts.tell("deptbus_parked_rows", ("housing@330106", "main", "apply"), 3)
    lines = text_of(registry_of(Teller.ADAPTER, CountsCollector(counts)))[0].decode().splitlines()
    name, labels = "deptbus_end_to_end_seconds", 'dataset="resident",direction="upward"'
    assert {
        'deptbus_delivered_total{direction="upward"} 2.0',
        'deptbus_parked_rows{stage="apply",system="main",unit="housing@330106"} 3.0',
        f'{name}_bucket{{{labels},le="0.01"}} 0.0',
        f'{name}_bucket{{{labels},le="0.025"}} 1.0',
        f'{name}_bucket{{{labels},le="864000.0"}} 1.0',
        f'{name}_bucket{{{labels},le="+Inf"}} 2.0',
        f"{name}_count{{{labels}}} 2.0",
    } <= set(lines)


def test_an_address_in_use_is_said_in_one_line_with_exit_code_2(taken: Address) -> None:
    with pytest.raises(DeptbusError, match=f"at {taken} .address already in use.") as refused:
        Endpoint(taken, registry_of(Teller.WORKER)).start()
    assert refused.value.exit_code is Exit.COULD_NOT


def test_a_host_that_nobody_knows() -> None:
    with pytest.raises(DeptbusError, match="nobody knows that host"):
        Endpoint(Address("no-such-host.invalid", 1), registry_of(Teller.WORKER)).start()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", Address("127.0.0.1", 9464)),
        ("[::1]:9464", Address("::1", 9464)),
        ("localhost:65535", Address("localhost", 65535)),
    ],
)
def test_an_address(text: str, address: Address) -> None:
    assert address_of(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "9464", ":9464", "host:", "host:0", "host:65536", "host:٣"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(DeptbusError, match="no address"):
        address_of(text)


def test_the_next_processes_have_the_next_ports() -> None:
    assert Address("h", 9464).next(2) == Address("h", 9466)
    with pytest.raises(DeptbusError, match="no port 65536"):
        Address("h", 65535).next(1)

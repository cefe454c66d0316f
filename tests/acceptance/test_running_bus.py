"""A county that the demonstration left, on a bus left running by `up`: what clerks see of it.

All edits are plain SQL in one department's own file, all looks are into the others' own tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import httpx2
import psutil
import pytest
from installed import Room, Said, Up, sql, wait_until
from prometheus_tools import check_metrics
from scrapes import Scrape, free_ports, scrape, wrongs

from deptbus.cluster.ports import answers
from deptbus.demo.people import resident_id
from deptbus.metrics.catalogue import Teller

pytestmark = pytest.mark.service

_BORN = date(1961, 2, 3)
SOON = 30.0  # seconds; what takes milliseconds on an idle machine has this long on a busy one

# The police's table and, in the others' words, the copies that a change of a resident goes to.
POLICE = ("public_security-330106", "rkjbxx", "sfzh", "xzqh", "dz")
COPIES = {
    "civil_affairs-330106": ("居民", "身份证号", "地址"),
    "housing-330106": ("Person", "PersonId", "street_address"),
    "public_security-3301": ("rkjbxx", "sfzh", "dz"),
    "grassroots-330106005": ("居民", "身份证号", "地址"),
    "grassroots-330106005055": ("居民", "身份证号", "地址"),
    "public_security-330106005": ("rkjbxx", "sfzh", "dz"),
    "grassroots-330106007": ("居民", "身份证号", "地址"),
    "grassroots-330106007001": ("居民", "身份证号", "地址"),
}
# Who has a resident of Cuiyuan's first community, and of Gudang's eastern one.
CUIYUAN, GUDANG = "330106005055", "330106007001"
EVERYWHERE = {"civil_affairs-330106", "housing-330106", "public_security-3301"}
OF_PLACE = {
    CUIYUAN: EVERYWHERE
    | {"grassroots-330106005", "grassroots-330106005055", "public_security-330106005"},
    GUDANG: EVERYWHERE | {"grassroots-330106007", "grassroots-330106007001"},
}


class Running:
    """The county's databases, by folder of the department."""

    def __init__(self, up: Up) -> None:
        self.up = up

    def file(self, department: str) -> Path:
        return self.up.data / "departments" / department / "own.db"

    def register(self, number: str, place: str, address: str) -> None:
        """Types a new resident into the police's table, the column of religion included."""
        sql(
            self.file(POLICE[0]),
            "INSERT INTO rkjbxx (sfzh, xm, xb, csrq, xzqh, dz, hh, hyzk, zjxy) "
            "VALUES (?, '测试', '1', '1961-02-03', ?, ?, '330106H000002', '10', 'no matter')",
            (number, place, address),
        )

    def has(self, department: str, number: str) -> str | None:
        """The address that this department's copy shows; None where there is no such row."""
        table, key, address = COPIES[department]
        rows = sql(self.file(department), f'SELECT "{address}" FROM "{table}" WHERE "{key}" = ?',
                   (number,))  # fmt: skip
        return str(rows[0][0]) if rows else None

    def await_at(self, place: str | None, number: str, address: str = "") -> None:
        """Waits until exactly the departments of this place have the resident, at this address."""
        wanted = {
            d: address if place is not None and d in OF_PLACE[place] else None for d in COPIES
        }
        wait_until(
            lambda: all(self.has(d, number) == a for d, a in wanted.items()),
            SOON,
            lambda: {d: self.has(d, number) for d in COPIES},
        )


@pytest.fixture(scope="module")
def county(kept_county: tuple[Room, Path, Said]) -> Iterator[Running]:
    room, folder, _ = kept_county
    metrics = f"127.0.0.1:{free_ports(3)}"
    with Up(room, folder, "--metrics-address", metrics, "--console") as up:
        yield Running(up)
    room.check_logs()


def test_the_installed_console_lets_its_owner_in_and_shows_every_unit(county: Running) -> None:
    link = county.up.room.run("console", "link", "--data", county.up.data).out.strip()
    address, _, ticket = link.partition("/enter#")
    with httpx2.Client(base_url=address, timeout=30) as browser:
        token = re.search(r'name="csrf" value="(\w+)"', browser.get("/enter").text)
        assert token is not None
        form = {"csrf": token[1], "ticket": ticket}
        assert browser.post("/enter", data=form).status_code == 303
        wait_until(lambda: browser.get("/").text.count("data-unit=") == 22, 30)
        assert "public_security@330106" in browser.get("/units").text
        assert browser.get("/subjects").status_code == 200
    with httpx2.Client(base_url=address) as stranger:
        assert stranger.get("/").headers["location"] == "/login"


def test_run_file_says_what_runs(county: Running) -> None:
    said = county.up.run_file()
    assert set(said) == {"bootstrap", "contract", "processes", "units"}
    names = [p["name"] for p in said["processes"]]
    assert names == ["broker", "worker-0", "operations", "adapter-0", "adapter-1", "console"]
    for process in said["processes"]:
        assert psutil.Process(process["pid"]).ppid() == county.up.pid
    console = next(p["pid"] for p in said["processes"] if p["name"] == "console")
    assert psutil.Process(console).memory_info().rss < 90 * 2**20
    assert len(said["units"]) == 22
    police = said["units"]["public_security@330106"]
    assert set(police) == {"config", "systems"}
    assert police["systems"]["main"].startswith("sqlite:///")
    assert Path(police["config"]).is_file()


def test_a_changed_row_is_elsewhere_within_30_ms(county: Running) -> None:
    """p50 of 40 changes, commit to seen; the best of several rounds, and what other programs take
    of the machine is allowed for."""
    numbers = [row[0] for row in sql(county.file(POLICE[0]), "SELECT sfzh FROM rkjbxx LIMIT 40")]
    rounds: list[tuple[float, float]] = []
    for attempt in range(5):
        middle = statistics.median(_latencies_ms(county, numbers, f"第{attempt}轮"))
        rounds.append((middle, 30 * _crowding()))
        if middle < rounds[-1][1]:
            return
    pytest.fail(f"p50 and limit, in ms: {rounds}")


def _latencies_ms(county: Running, numbers: list[str], word: str) -> list[float]:
    own = sqlite3.connect(county.file(POLICE[0]), timeout=30, isolation_level=None)
    copy = sqlite3.connect(county.file("civil_affairs-330106"), timeout=30, isolation_level=None)
    found = []
    look = 'SELECT 1 FROM "居民" WHERE "身份证号" = ? AND "地址" = ?'
    with closing(own), closing(copy):
        for turn, number in enumerate(numbers):
            wanted = f"{word}测试路{turn}号"
            own.execute("UPDATE rkjbxx SET dz = ? WHERE sfzh = ?", (wanted, number))
            began = time.perf_counter()
            wait_until(
                lambda n=number, w=wanted: copy.execute(look, (n, w)).fetchone(), SOON, pause=0.001
            )
            found.append((time.perf_counter() - began) * 1000)
            time.sleep(turn % 7 / 1000)  # not in step with anybody's polling
    return found


def _crowding() -> float:
    """How many times longer work takes than it needs of a processor: 1 on an idle machine."""
    block = os.urandom(1 << 20)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(200):
        hashlib.sha256(block).digest()
    return max(1.0, (time.perf_counter() - wall) / (time.process_time() - cpu))


def test_moved_it_leaves_the_one_and_reaches_the_other(county: Running) -> None:
    number = resident_id(_BORN, 101)
    county.register(number, CUIYUAN, "翠苑路1号")
    county.await_at(CUIYUAN, number, "翠苑路1号")
    police = county.file(POLICE[0])
    sql(police, "UPDATE rkjbxx SET xzqh=?, dz='古荡路2号' WHERE sfzh=?", (GUDANG, number))
    county.await_at(GUDANG, number, "古荡路2号")
    sql(police, "DELETE FROM rkjbxx WHERE sfzh = ?", (number,))
    county.await_at(None, number)


def test_moved_through_a_mistyped_place(county: Running) -> None:
    """The mistyped one is parked; the former place is not forgotten behind it."""
    number = resident_id(_BORN, 102)
    county.register(number, CUIYUAN, "翠苑路3号")
    county.await_at(CUIYUAN, number, "翠苑路3号")
    police = county.file(POLICE[0])
    parked = len(_parked(county))
    sql(police, "UPDATE rkjbxx SET xzqh='33010600799', dz='错' WHERE sfzh=?", (number,))
    wait_until(lambda: len(_parked(county)) == parked + 1, SOON)
    county.await_at(CUIYUAN, number, "翠苑路3号")
    sql(police, "UPDATE rkjbxx SET xzqh=?, dz='古荡路4号' WHERE sfzh=?", (GUDANG, number))
    county.await_at(GUDANG, number, "古荡路4号")
    wait_until(lambda: len(_parked(county)) == parked, SOON)
    sql(police, "DELETE FROM rkjbxx WHERE sfzh = ?", (number,))
    county.await_at(None, number)


def test_the_same_number_typed_otherwise_is_the_same_resident(county: Running) -> None:
    number = resident_id(_BORN, 103)
    county.register(number, CUIYUAN, "翠苑路5号")
    county.await_at(CUIYUAN, number, "翠苑路5号")
    wide = "".join(chr(ord(c) + 0xFEE0) for c in number)
    police = county.file(POLICE[0])
    sql(police, "UPDATE rkjbxx SET sfzh=?, dz='翠苑路6号' WHERE sfzh=?", (f" {wide}", number))
    # Copies show it as it was typed; there is one row and not two.
    for department in OF_PLACE[CUIYUAN]:
        table, key, address = COPIES[department]
        look = f'SELECT count(*), max("{address}") FROM "{table}" WHERE "{key}" IN (?, ?)'
        wait_until(
            lambda d=department, q=look: (
                sql(county.file(d), q, (number, f" {wide}")) == [(1, "翠苑路6号")]
            ),
            SOON,
        )
    sql(police, "DELETE FROM rkjbxx WHERE sfzh = ?", (f" {wide}",))


def test_status_tells_what_is_parked(county: Running) -> None:
    config = county.up.data / "departments" / POLICE[0] / "department.yml"
    said = county.up.room.run("department", "status", "--config", config)
    assert said.code == 1, "the demonstration's three mistakes of clerks are still there"
    assert "duplicate" in said.out
    assert "bad_division" in said.out


def test_a_second_up_on_the_same_folder_is_refused(county: Running) -> None:
    before = county.up.run_file()
    known = before.pop("processes")
    said = county.up.room.run("up", "--embedded", "--data", county.up.data)
    assert said.code == 2
    assert "a bus already runs on" in said.told
    assert "Stop that one first" in said.told
    after = county.up.run_file()
    # The console may have come meanwhile: the bus does not wait for it.
    assert [one for one in after.pop("processes") if one in known] == known
    assert after == before


def test_who_edits_a_copy_is_not_an_author(county: Running) -> None:
    """A recipient's own edit of its copy goes nowhere, and the next change of the source wins."""
    number = resident_id(_BORN, 104)
    county.register(number, CUIYUAN, "翠苑路7号")
    county.await_at(CUIYUAN, number, "翠苑路7号")
    copy = county.file("civil_affairs-330106")
    sql(copy, 'UPDATE "居民" SET "地址" = ? WHERE "身份证号" = ?', ("民政自己改的", number))
    police = county.file(POLICE[0])
    sql(police, "UPDATE rkjbxx SET dz = '翠苑路8号' WHERE sfzh = ?", (number,))
    county.await_at(CUIYUAN, number, "翠苑路8号")
    sql(police, "DELETE FROM rkjbxx WHERE sfzh = ?", (number,))
    county.await_at(None, number)


def targets(county: Running) -> dict[str, tuple[str, Teller]]:
    """Process -> address, kind; as Prometheus reads it."""
    listed = json.loads((county.up.data / "prometheus-targets.json").read_text(encoding="utf-8"))
    return {
        t["labels"]["process"]: (t["targets"][0], Teller(t["labels"]["component"])) for t in listed
    }


def test_every_process_tells_figures_that_promtool_takes(county: Running, promtool: str) -> None:
    number = resident_id(_BORN, 105)
    county.register(number, CUIYUAN, "翠苑路9号")
    county.await_at(CUIYUAN, number, "翠苑路9号")
    processes = targets(county)
    assert list(processes) == ["worker-0", "adapter-0", "adapter-1", "console"]
    # It is started once the bus is ready, and has to look once.
    wait_until(lambda: answers(int(processes["console"][0].rpartition(":")[2])), 2 * SOON)
    wait_until(lambda: scrape(processes["console"][0]).of("deptbus_policy_number"), SOON)
    policies: set[float] = set()
    for name, (address, teller) in processes.items():
        found = scrape(address)
        assert check_metrics(promtool, found.text) == "", name
        assert list(wrongs(found, teller)) == []
        assert number.encode() not in found.text
        (policy,) = found.of("deptbus_policy_number")
        policies.add(policy)
    assert len(policies) == 1  # the one in force, whatever other tests have activated
    sql(county.file(POLICE[0]), "DELETE FROM rkjbxx WHERE sfzh = ?", (number,))
    county.await_at(None, number)


def test_the_clusters_figures_are_those_of_lag(county: Running) -> None:
    """At a standstill: nothing is typed here, so both say the same within some looks."""
    address, _ = targets(county)["console"]

    def by_lag() -> dict[tuple[str, str, str], float]:
        said = county.up.room.run("lag", "-o", "json", "--data", county.up.data)
        return {
            (row["group"], row["topic"], str(row["partition"])): row["lag_records"]
            for row in json.loads(said.out)["partitions"]
            if row["lag_records"] is not None
        }

    def by_scrape() -> dict[tuple[str, ...], float]:
        labels = ("consumergroup", "topic", "partition")
        return {
            tuple(have[label] for label in labels): value
            for name, have, value in scrape(address).samples
            if name == "kafka_consumergroup_lag"
        }

    wait_until(lambda: by_scrape() == by_lag() != {}, SOON, lambda: (by_scrape(), by_lag()))
    found = scrape(address)
    states = [have for name, have, _ in found.samples if name == "deptbus_partition_state"]
    # A place without a number has a state that says why.
    unknown = {tuple(h[w] for w in ("consumergroup", "topic", "partition")) for h in states}
    assert unknown >= by_scrape().keys()
    assert len(states) == len(unknown)
    assert found.of("deptbus_unit_verdict", unit="bus", stage="routing", verdict="OK") == [1.0]


def test_figures_count_what_a_change_does(county: Running) -> None:
    def told() -> tuple[Scrape, Scrape, Scrape]:
        named = targets(county)
        worker, first, second = (
            scrape(named[name][0]) for name in ("worker-0", "adapter-0", "adapter-1")
        )
        return worker, first, second

    def of_adapters(found: tuple[Scrape, Scrape, Scrape], name: str, **labels: str) -> float:
        return found[1].total(name, **labels) + found[2].total(name, **labels)

    number, before = resident_id(_BORN, 106), told()
    county.register(number, CUIYUAN, "翠苑路10号")
    county.await_at(CUIYUAN, number, "翠苑路10号")
    upto = "deptbus_end_to_end_seconds_bucket"
    applied = "deptbus_deliveries_total"
    least = {
        "horizontal": 2,
        "upward": 1,
        "return": 2,
        "downward": 1,
    }  # of COPIES; others have it too

    def gained(direction: str) -> tuple[float, float, float]:
        after, labels = told(), {"dataset": "resident", "direction": direction}
        return (
            after[0].total("deptbus_delivered_total", direction=direction)
            - before[0].total("deptbus_delivered_total", direction=direction),
            of_adapters(after, applied, outcome="applied", **labels)
            - of_adapters(before, applied, outcome="applied", **labels),
            of_adapters(after, upto, le="60.0", **labels)
            - of_adapters(before, upto, le="60.0", **labels),
        )

    def is_counted(direction: str) -> bool:
        """By the worker, by the recipients, and as on time."""
        delivered, settled, in_time = gained(direction)
        return delivered == settled == in_time >= least[direction]

    for direction in least:
        wait_until(lambda d=direction: is_counted(d), SOON, lambda d=direction: (d, gained(d)))
    after = told()
    for name in ("deptbus_taken_in_records_total", "deptbus_routed_records_total"):
        assert after[0].total(name, dataset="resident") > before[0].total(name, dataset="resident")
    published = {"unit": "public_security@330106"}
    assert of_adapters(after, "deptbus_published_changes_total", **published) > of_adapters(
        before, "deptbus_published_changes_total", **published
    )
    parked = {"unit": "public_security@330106", "stage": "outbox"}
    wait_until(
        lambda: of_adapters(told(), "deptbus_parked_rows", **parked) == len(_parked(county)), SOON
    )
    sql(county.file(POLICE[0]), "DELETE FROM rkjbxx WHERE sfzh = ?", (number,))
    county.await_at(None, number)


def test_an_address_that_is_taken_is_said_in_one_line(county: Running) -> None:
    address, _ = targets(county)["worker-0"]
    config = county.up.data / "departments" / POLICE[0] / "department.yml"
    for words in (("worker",), ("department", "run", "--config", str(config))):
        said = county.up.room.run(
            *words, "--metrics-address", address, "--bootstrap", county.up.bootstrap
        )
        assert said.code == 2, str(said)
        assert f"metrics cannot be served at {address} (address already in use)" in said.told


def _parked(county: Running) -> list[tuple[object, ...]]:
    return sql(county.file(POLICE[0]), "SELECT * FROM deptbus_parked")

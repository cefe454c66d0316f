"""Decode, route, project and encode in memory: what a change costs a worker beside Kafka itself.

Compared with the plainest loop over fastavro that writes the very same bytes (that is checked).
The loop is given every advantage: no guard against hostile bytes, schemas parsed once and without
logical types, the routing decided beforehand. One process, no I/O; CPU time, and of several rounds
the best, since whatever else the machine does only ever makes a round slower.

    python benchmarks/quick.py [--changes N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any

import fastavro

from deptbus.change import Cause, Change, ChangeOp, Delivery, Incarnation
from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Contract, Policy
from deptbus.routing import Router
from deptbus.wire.codecs import Codecs
from deptbus.wire.framing import frame, unframe

DATASET, SOURCE = "resident", "public_security@330106"
PLACES = [f"33010600{n}{m:03}" for n in (2, 4, 5, 7, 8) for m in range(1, 6)]
NOW = datetime.now(UTC)
MICROS = 1_000_000


def make_changes(contract: Contract, count: int) -> list[Change]:
    codec = Codecs(contract).record_codec(DATASET, 1)
    changes = []
    for n in range(count):
        place = PLACES[n % len(PLACES)]
        record = {
            "resident_id": f"33010619900101{n % 10_000:04}",
            "name": f"Resident {n}",
            "sex": "female" if n % 2 else "male",
            "birth_date": date(1990, 1, 1 + n % 28),
            "ethnic_group": None,
            "division": place,
            "address": f"Wensan Road {n % 700}, building {n % 30}, flat {n % 90}",
            "household_id": f"H{n:09}",
            "marital_status": "married",
            "registered_on": date(2020, 1 + n % 12, 1),
            "phone": f"1390000{n % 10_000:04}",
            "employer": None,
        }
        changes.append(
            Change(
                dataset=DATASET,
                key=n.to_bytes(16, "big"),
                op=ChangeOp.UPSERT,
                reason=None,
                source_unit=SOURCE,
                incarnation=Incarnation(1, bytes(8)),
                version=n + 1,
                source_time_us=1_750_000_000 * MICROS + n,
                publication=n // 1000,
                division=place,
                former_divisions=(),
                cause=Cause.LIVE,
                job=None,
                policy=1,
                schema_version=1,
                record=codec.encode(record),
            )
        )
    return changes


class Ours:
    """The functions that the agents call, one change after the other."""

    def __init__(self, policy: Policy) -> None:
        self.codecs = Codecs(policy.contract)
        self.router = Router(policy)

    def decode(self, records: list[tuple[bytes, bytes]]) -> list[Change]:
        decode = self.codecs.decode_change
        return [decode(key, value) for key, value in records]

    def route(self, changes: list[Change]) -> list[tuple[Delivery, ...]]:
        route = self.router.route
        return [route(change, NOW) for change in changes]

    def encode(self, pairs: list[tuple[Change, tuple[Delivery, ...]]]) -> list[list[bytes]]:
        encode = self.codecs.encode_deliveries
        return [encode(change, deliveries, 1) for change, deliveries in pairs]

    def all(self, records: list[tuple[bytes, bytes]]) -> list[list[bytes]]:
        decode, route = self.codecs.decode_change, self.router.route
        encode = self.codecs.encode_deliveries
        done = []
        for key, value in records:
            change = decode(key, value)
            done.append(encode(change, route(change, NOW), 1))
        return done


class Plain:
    """A loop over fastavro; `decisions` are what routing said of each change."""

    def __init__(self, policy: Policy, decisions: list[tuple[Delivery, ...]]) -> None:
        self._codecs = Codecs(policy.contract)
        self._decisions = decisions
        self._readers: dict[int, Any] = {}
        self._writers: dict[tuple[str, ...], tuple[int, Any]] = {}

    def decode(self, records: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
        return [self._read(value) for _, value in records]

    def encode(self, rows: list[dict[str, Any]]) -> list[list[bytes]]:
        return [self._write(row, todo) for row, todo in zip(rows, self._decisions, strict=True)]

    def all(self, records: list[tuple[bytes, bytes]]) -> list[list[bytes]]:
        decided = self._decisions
        return [self._write(self._read(value), decided[n]) for n, (_, value) in enumerate(records)]

    def _read(self, value: bytes) -> dict[str, Any]:
        number, body = unframe(value)
        schema = self._readers.get(number)
        if schema is None:
            schema = self._readers[number] = _parsed(self._codecs.schemas()[number])
        return fastavro.schemaless_reader(BytesIO(body), schema)  # type: ignore[return-value]

    def _write(self, row: dict[str, Any], deliveries: tuple[Delivery, ...]) -> list[bytes]:
        values = []
        for delivery in deliveries:
            number, schema = self._writer(delivery.fields)
            record = row["record"]
            out = BytesIO()
            fastavro.schemaless_writer(
                out,
                schema,
                {
                    "op": delivery.op.value,
                    "source_unit": row["source_unit"],
                    "version": row["version"],
                    "source_time": row["source_time"],
                    "policy": 1,
                    "direction": delivery.direction.value,
                    "rule": delivery.rule,
                    "grants": delivery.grants,
                    "cause": row["cause"],
                    "job": row["job"],
                    "record": {field: record[field] for field in delivery.fields},
                },
            )
            values.append(frame(number, out.getvalue()))
        return values

    def _writer(self, fields: tuple[str, ...]) -> tuple[int, Any]:
        known = self._writers.get(fields)
        if known is None:
            number, text = self._codecs.delivery_schema_for(DATASET, 1, fields)
            known = self._writers[fields] = number, _parsed(text)
        return known


def _parsed(text: str) -> Any:
    def without_logical_types(node: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in node.items() if name != "logicalType"}

    return fastavro.parse_schema(json.loads(text, object_hook=without_logical_types))


def microseconds(call: Callable[[], list[Any]], rounds: int) -> float:
    """CPU time of one change, in the best round."""
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        count = len(call())
        best = min(best, (time.process_time() - started) / count)
    return best * MICROS


def measure(count: int, rounds: int) -> dict[str, Any]:
    contract = load(bundled())
    policy = Policy(number=1, activated_at=NOW, activated_by="benchmark", contract=contract)
    ours = Ours(policy)
    changes = make_changes(contract, count)
    records = [(change.key, ours.codecs.encode_change(change)) for change in changes]
    decisions = ours.route(changes)
    plain = Plain(policy, decisions)
    if ours.all(records) != plain.all(records):
        raise SystemExit("the two do not write the same bytes: nothing to compare")
    pairs = list(zip(changes, decisions, strict=True))
    rows = plain.decode(records)
    return {
        "changes": count,
        "deliveries_per_change": round(sum(map(len, decisions)) / count, 2),
        "bytes_per_change": round(sum(len(value) for _, value in records) / count),
        "microseconds_per_change": {
            "decode": {
                "deptbus": microseconds(lambda: ours.decode(records), rounds),
                "fastavro": microseconds(lambda: plain.decode(records), rounds),
            },
            "route": {"deptbus": microseconds(lambda: ours.route(changes), rounds)},
            "project and encode": {
                "deptbus": microseconds(lambda: ours.encode(pairs), rounds),
                "fastavro": microseconds(lambda: plain.encode(rows), rounds),
            },
            "all": {
                "deptbus": microseconds(lambda: ours.all(records), rounds),
                "fastavro": microseconds(lambda: plain.all(records), rounds),
            },
        },
    }


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['changes']} changes of {result['bytes_per_change']} bytes to "
        f"{result['deliveries_per_change']} recipients each; microseconds of CPU a change"
    )
    print(f"{'':<20}{'deptbus':>10}{'fastavro':>10}")
    for step, times in result["microseconds_per_change"].items():
        cells = [
            f"{times[who]:.2f}" if who in times else "given" for who in ("deptbus", "fastavro")
        ]
        print(f"{step:<20}{cells[0]:>10}{cells[1]:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--changes", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    result = measure(asked.changes, asked.rounds)
    if asked.json:
        json.dump(result, sys.stdout)
        print()
    else:
        show(result)


if __name__ == "__main__":
    main()

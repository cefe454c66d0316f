"""What a foreign producer may write anywhere: every golden hostile input, and worse around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foreign_batches as raw
from foreign_producer import Pair

from deptbus.wire.framing import canonical_json, frame, id_of_text

GOLDEN = Path(__file__).parents[1] / "unit" / "wire" / "golden" / "hostile.json"
KEY = bytes(range(16))
BOMB_BYTES = {"zstd": 512 << 20, "gzip": 256 << 20, "lz4": 128 << 20}
OFFSETS_OF_A_BOMB = 3
ABSURD_TIMES = (-(1 << 63), -1, 0, (1 << 63) - 1)


def golden_pairs(heads: dict[str, bytes]) -> list[Pair]:
    """(key, value) of every golden case; `heads`: door -> frame of the schema that belongs there.
    Cases of doors that have no frame of their own are taken as they are."""
    found: list[Pair] = []
    for case in json.loads(GOLDEN.read_text(encoding="utf-8")):
        key = KEY if case["key"] is None else bytes.fromhex(case["key"])
        found.append((key, _value(case, heads)))
    return found


def _value(case: dict[str, Any], heads: dict[str, bytes]) -> bytes | None:
    if "body" in case:
        return heads[case["door"]] + bytes.fromhex(case["body"])
    value: str | None = case["value"]
    return None if value is None else bytes.fromhex(value)


def odd_pairs() -> list[Pair]:
    """Tombstones, odd keys, unknown schema ids, and a record above our cap that compresses well."""
    unknown = frame(0x7FFFFFFF, b"whatever")
    return [
        (KEY, None),
        (KEY, b""),
        (KEY, unknown),
        (b"", unknown),
        (b"k" * 5000, unknown),
        (b"\xff\xfe", b"\x00\x00\x00\x00"),
        (KEY, bytes(3 << 20)),
    ]


def tampered_schemas(schema: dict[str, Any]) -> list[Pair]:
    """For `bus.schemas`: a text under another's id, a newer text for a known id, texts that are no
    schema, and ids that are none."""
    text = canonical_json(schema).encode()
    known = id_of_text(text).to_bytes(4, "big")
    other = canonical_json({**schema, "doc": "mine now"}).encode()
    return [
        (known, other),
        (known, b"{"),
        (known, b"[" * 100_000),
        (known, None),
        (b"\x7f\xff\xff\xff", text),
        (id_of_text(other).to_bytes(4, "big"), other),
        (b"\x01" * 5000, text),
        (b"", text),
    ]


def bomb(codec: str, inflated: int | None = None) -> bytes:
    """A batch of three offsets, the second of which holds most of it."""
    size = BOMB_BYTES[codec] if inflated is None else inflated
    payload = raw.record(0, KEY, b"a") + raw.record(1, KEY, bytes(size))
    payload += raw.record(2, KEY, b"c")
    return raw.batch(payload, OFFSETS_OF_A_BOMB, codec=raw.CODECS[codec])


def odd_batches() -> list[bytes]:
    """One record each: headers that are no text, a thousand headers, and absurd times."""
    found = [
        raw.batch(raw.record(0, KEY, b"x", headers=[(b"\xff\xfe", b"\x00")]), 1),
        raw.batch(raw.record(0, KEY, b"x", headers=[(b"h", None)] * 1000), 1),
    ]
    found += [raw.batch(raw.record(0, KEY, b"x"), 1, timestamp=time) for time in ABSURD_TIMES]
    return found

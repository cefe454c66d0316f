"""What stands for one row in a proof: its key on the bus, its version, a digest of its content."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

KEY_BYTES = 16
VERSION_BYTES = 8
DIGEST_BYTES = 16
ITEM_BYTES = KEY_BYTES + VERSION_BYTES + DIGEST_BYTES
HASH_BYTES = 16  # BLAKE2b-128
NO_VERSION = bytes(VERSION_BYTES)  # of an item whose version is not compared


class Item(NamedTuple):
    """`key`: the 16 bytes of the Kafka key; `version`: of the change that brought the row, or 0
    where versions are not compared (at most 64 bits); `digest`: 16 bytes over its content."""

    key: bytes
    version: int
    digest: bytes


def item_bytes(item: Item) -> bytes:
    """The 40 bytes of an item: each part has its fixed length, so different items never encode
    alike. Raises ValueError for a part of another length."""
    key, version, digest = item
    try:
        raw = key + version.to_bytes(VERSION_BYTES, "big") + digest
    except OverflowError:
        raw = b""
    if len(raw) != ITEM_BYTES or len(key) != KEY_BYTES:
        raise ValueError("an item is 16 bytes of key, a version of 64 bits and 16 bytes of digest")
    return raw


def item_from_bytes(raw: bytes) -> Item:
    """The item that `item_bytes` was given. Raises ValueError for another length."""
    if len(raw) != ITEM_BYTES:
        raise ValueError(f"an item has {ITEM_BYTES} bytes")
    version = int.from_bytes(raw[KEY_BYTES:-DIGEST_BYTES], "big")
    return Item(raw[:KEY_BYTES], version, raw[-DIGEST_BYTES:])


def hash_of(raw: bytes) -> bytes:
    """16 bytes over what `item_bytes` gave, the same at every side and in every proof."""
    return blake2b(raw, digest_size=HASH_BYTES).digest()


def hashes_of(raws: Iterable[bytes]) -> list[bytes]:
    """`hash_of` each: a copy of what is begun costs half of what beginning does."""
    begin, found = _BEGUN.copy, []
    for raw in raws:
        made = begin()
        made.update(raw)
        found.append(made.digest())
    return found


_BEGUN = blake2b(digest_size=HASH_BYTES)


def item_hash(item: Item) -> int:
    """128 bits over the whole item (BLAKE2b)."""
    return int.from_bytes(hash_of(item_bytes(item)), "big")

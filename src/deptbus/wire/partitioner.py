"""The one partitioner: murmur2 as Kafka's Java clients compute it, so that every tool agrees.

Source of the algorithm and its constants: `org.apache.kafka.common.utils.Utils.murmur2` and
`BuiltInPartitioner.partitionForKey` of Apache Kafka.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF
_FOUR_WORDS = Struct("<4I").unpack


def murmur2(key: bytes) -> int:
    """The 32-bit hash as an unsigned number (Java shows the same bits with a sign)."""
    length = len(key)
    h = _SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if length != whole:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    return _finish(h)


def _finish(h: int) -> int:
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def _murmur2_of_16(key: bytes) -> int:
    """`murmur2` unrolled for the bus's own keys: every record of every batch passes here."""
    a, b, c, d = _FOUR_WORDS(key)
    a = a * _M & _MASK
    b = b * _M & _MASK
    c = c * _M & _MASK
    d = d * _M & _MASK
    h = ((_SEED ^ 16) * _M & _MASK) ^ ((a ^ a >> 24) * _M & _MASK)
    h = (h * _M & _MASK) ^ ((b ^ b >> 24) * _M & _MASK)
    h = (h * _M & _MASK) ^ ((c ^ c >> 24) * _M & _MASK)
    h = (h * _M & _MASK) ^ ((d ^ d >> 24) * _M & _MASK)
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key in a topic of that many partitions."""
    h = _murmur2_of_16(key) if len(key) == 16 else murmur2(key)
    return (h & 0x7FFFFFFF) % partitions


def partitioner(key: bytes | None, all_partitions: Sequence[int], available: Sequence[int]) -> int:
    """For aiokafka's `partitioner=`: `all_partitions` is sorted by number.

    A record without a key must name its partition; which one is meant is not for chance to decide,
    so such a call is a bug of ours and raises ValueError.
    """
    if key is None:
        raise ValueError("a record without a key names its partition")
    return all_partitions[partition_of(key, len(all_partitions))]

"""How tools that people know encode and add up rows, in a few lines each: what our cases must fool.

`separated`: a text per row, values joined with `|`, null as `<null>`; the low 60 bits of its MD5
are summed, and rows of a bad segment are then compared as sets (data-diff, reladiff with sqeleton).
`flagged`: values joined with `#` without the nulls, and a digit for each value that says whether it
was null; CRC-32, added up by XOR, with a count beside it (pt-table-checksum).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from hashlib import md5
from operator import xor
from typing import Any
from zlib import crc32

from .rows import Row, Table


def separated(one: Table, other: Table) -> bool:
    texts = [["|".join(map(_or_null, row)) for row in table] for table in (one, other)]
    sums = [(len(rows), sum(_low_bits(text) for text in rows)) for rows in texts]
    return sums[0] == sums[1] or set(texts[0]) == set(texts[1])


def flagged(one: Table, other: Table) -> bool:
    sums = [(len(rows), reduce(xor, map(_crc, rows), 0)) for rows in (one, other)]
    return sums[0] == sums[1]


def _or_null(value: Any) -> str:
    return "<null>" if value is None else str(value)


def _low_bits(text: str) -> int:
    return int(md5(text.encode(), usedforsecurity=False).hexdigest()[-15:], 16)


def _crc(row: Row) -> int:
    texts = [str(value) for value in row if value is not None]
    flags = "".join("1" if value is None else "0" for value in row)
    return crc32("#".join([*texts, flags]).encode())


TOOLS: dict[str, Callable[[Table, Table], bool]] = {"separated": separated, "flagged": flagged}

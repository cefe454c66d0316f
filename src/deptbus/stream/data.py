"""What lies in a canonical topic: changes under their keys, and markers that intake passed on."""

from __future__ import annotations

from deptbus.change import Change
from deptbus.errors import WireRefused
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Marker, decode_control
from deptbus.wire.guard import BAD_KEY, KEY_BYTES, WRONG_KIND

_MARKER_KEY = b"marker/"


def marker_key(marker: Marker) -> bytes:
    """A compacted topic takes no record without a key; a marker's tells it from every change
    (those are 16 bytes of HMAC) and keeps one of its kind per unit and name."""
    return b"%s%s/%s" % (_MARKER_KEY, marker.unit.encode(), marker.marker.encode())


def is_marker_key(key: bytes | None) -> bool:
    """Whether a marker may lie there, and no change can."""
    return key is not None and len(key) != KEY_BYTES and key.startswith(_MARKER_KEY)


def decode_data(codecs: Codecs, key: bytes | None, value: bytes | None) -> Change | Marker:
    """The record in `data.<dataset>`. Raises WireRefused as `Codecs.decode_change`."""
    if key is not None and is_marker_key(key):
        found = decode_control(value)
        if not isinstance(found, Marker):
            raise WireRefused(WRONG_KIND, "no marker lies under a marker's key")
        if key != marker_key(found):
            raise WireRefused(BAD_KEY, "the key is not that of the marker")
        return found
    return codecs.decode_change(key, value)

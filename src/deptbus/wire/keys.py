"""Pseudonym keys: a natural key in its one canonical form, under HMAC with the unit's own secret.

The same key must come out for ever, so nothing here depends on the Unicode tables of the Python
that runs it: the spaces, widths and letters that count are written down below.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence

from deptbus.contract.model import CanonicalForm
from deptbus.errors import SourceRefused
from deptbus.wire.guard import KEY_BYTES, refused_value

SECRET_BYTES = 32
_BLOCK_BYTES = 64  # of SHA-256
DEFAULT_FORMS = (CanonicalForm.TRIM, CanonicalForm.HALF_WIDTH, CanonicalForm.UPPER)

# What `trim` takes off both ends: the White_Space characters of Unicode (with the ideographic space
# U+3000), ASCII's information separators, and the invisible characters that cling to pasted text
# (zero-width space and joiners, word joiner, byte order mark).
_SPACES = "".join(
    map(
        chr,
        [
            *range(0x09, 0x0E),
            *range(0x1C, 0x21),
            0x85,
            0xA0,
            0x1680,
            *range(0x2000, 0x200E),
            0x2028,
            0x2029,
            0x202F,
            0x205F,
            0x2060,
            0x3000,
            0xFEFF,
        ],
    )
)

# U+FF01..FF5E are the printable ASCII characters in full width, in ASCII's order. An explicit table
# and not NFKC, which would also fold ligatures, circled digits and compatibility ideographs.
_HALF_WIDTH = {0xFF01 + i: 0x21 + i for i in range(0x5E)} | {0x3000: 0x20}

# Letters of codes are ASCII (or, before `half_width`, its full-width forms). `str.upper` is not
# used beyond ASCII: it follows the Unicode version and makes `SS` of one letter.
_UPPER = {small + i: small - 32 + i for small in (ord("a"), 0xFF41) for i in range(26)}

_KEY_DOMAIN = b"deptbus key 1\0"
_FINGERPRINT_DOMAIN = b"deptbus fingerprint 1\0"


def canonical(value: str, forms: Iterable[CanonicalForm] = DEFAULT_FORMS) -> str:
    """Bring one part of a natural key to its canonical form: the forms in the order given.

    Idempotent for the default order.
    """
    # Nearly all codes: ASCII digits and capitals alone are left as they are by every form.
    if value.isalnum() and value.isascii() and value.upper() == value:
        return value
    for form in forms:
        if form is CanonicalForm.TRIM:
            value = value.strip(_SPACES)
        elif form is CanonicalForm.HALF_WIDTH:
            value = value if value.isascii() else value.translate(_HALF_WIDTH)
        elif form is CanonicalForm.UPPER:
            value = value.upper() if value.isascii() else value.translate(_UPPER)
        else:
            raise ValueError(f"unknown canonical form {form}")
    return value


def new_secret() -> bytes:
    """32 random bytes: the secret of a unit, made once and never sent anywhere."""
    return secrets.token_bytes(SECRET_BYTES)


def fingerprint(secret: bytes) -> str:
    """32 hex digits that name a secret without telling it; the contract holds it."""
    return hmac.digest(secret, _FINGERPRINT_DOMAIN, "sha256")[:16].hex()


class KeyMaker:
    """Makes the bus keys of one dataset under one unit's secret."""

    def __init__(
        self, secret: bytes, dataset: str, forms: Sequence[CanonicalForm] = DEFAULT_FORMS
    ) -> None:
        """Raises SourceRefused when the secret is too short to be one."""
        if len(secret) < SECRET_BYTES:
            raise SourceRefused(
                f"the key secret has fewer than {SECRET_BYTES} bytes",
                mend="Put the unit's own secret back; a new one would give every record a new key",
            )
        self._forms = tuple(forms)
        block = (hashlib.sha256(secret).digest() if len(secret) > _BLOCK_BYTES else secret).ljust(
            _BLOCK_BYTES, b"\0"
        )
        # HMAC of RFC 2104, both halves begun: a third of the time of one that starts anew each key.
        self._inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + _KEY_DOMAIN + part(dataset))
        self._outer = hashlib.sha256(bytes(b ^ 0x5C for b in block))

    def key(self, natural: Sequence[str]) -> bytes:
        """The 16-byte key of a natural key, whose parts come in the order of the contract.

        Each part is length-prefixed, so no two natural keys share an encoding: ("a", "bc") is not
        ("ab", "c"). Raises WireRefused (`bad_value`) when a part is not text, cannot be encoded, or
        when nothing is left of any part: such rows have no identity.
        """
        message = b""
        filled = False
        for value in natural:
            if not isinstance(value, str):
                raise refused_value("of the natural key", "is not text")
            form = canonical(value, self._forms)
            filled = filled or bool(form)
            valid = True
            try:
                message += part(form)
            except UnicodeEncodeError:
                valid = False
            if not valid:
                # Raised outside the except block: the codec's own error holds the value.
                raise refused_value("of the natural key", "is not valid Unicode")
        if not filled:
            raise refused_value("of the natural key", "is empty")
        return self.sealed(message)

    def sealed(self, parts: bytes) -> bytes:
        """The key of what `part` made of each canonical part, one behind the other."""
        inner = self._inner.copy()
        inner.update(parts)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[:KEY_BYTES]


def part(text: str) -> bytes:
    """One canonical part of a natural key as it enters the HMAC: its length, then UTF-8."""
    data = text.encode()
    return len(data).to_bytes(4, "big") + data

"""How hard the random tests try: a part of it at a desk, all of it in CI.

`make quick` has to be over while its reader still watches; CI has the time to look everywhere.
"""

from __future__ import annotations

import os

_THOROUGH = os.environ.get("CI") == "true"


def examples(thorough: int) -> int:
    """Examples of a property test: `thorough` in CI, an eighth of that elsewhere."""
    return thorough if _THOROUGH else max(10, thorough // 8)

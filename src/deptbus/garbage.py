"""Keeps the garbage collector away from what a process holds for as long as it lives."""

from __future__ import annotations

import gc


def spare_what_is_loaded() -> None:
    """Call once, when all is loaded. Modules, contract and codecs are some hundred thousand objects
    that no full collection finds anything in; going through them stops every change on its way for
    50 ms, on a busy machine for half a second."""
    gc.collect()
    gc.freeze()

"""What is loaded is not gone through again, and what is thrown away later is still found."""

import gc
import weakref

from deptbus.garbage import spare_what_is_loaded


class Thing:
    other: object


def ring() -> weakref.ref[Thing]:
    one, two = Thing(), Thing()
    one.other, two.other = two, one
    return weakref.ref(one)


def test_what_is_loaded_is_spared_and_later_garbage_is_not() -> None:
    loaded = [Thing() for _ in range(1000)]
    try:
        spare_what_is_loaded()
        assert gc.get_freeze_count() > 1000
        assert not any(thing is loaded[0] for thing in gc.get_objects())
        later = ring()
        gc.collect()
        assert later() is None
    finally:
        gc.unfreeze()


def test_garbage_of_the_start_is_not_kept() -> None:
    early = ring()
    try:
        spare_what_is_loaded()
        assert early() is None
    finally:
        gc.unfreeze()

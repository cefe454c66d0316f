"""Typed people join a bus, in any number: `python -m tests.adoption --people N`."""

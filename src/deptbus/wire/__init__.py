"""Bytes to nouns and back; no I/O. Nothing is believed before it was checked."""

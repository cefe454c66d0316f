"""The command line: one module a noun, each thin."""

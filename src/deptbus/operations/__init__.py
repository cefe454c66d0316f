"""The data office's acts: one module a verb."""

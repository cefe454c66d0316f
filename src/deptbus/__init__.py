"""deptbus: a change made in one department reaches every department that may and should have it."""

__version__ = "0.1.0"

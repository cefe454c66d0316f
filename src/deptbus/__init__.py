"""deptbus: a change made in one department reaches every department that may and should have it."""

from deptbus.lean import without

__version__ = "0.1.0"

# It would draw tracebacks with it, and ours are never shown: a fifth of the start of each process.
with without("rich"):
    import structlog as _structlog  # noqa: F401 - before anybody else imports it

"""What one test leaves behind in the process, and another must not meet; and who runs it.

`make test` runs in two processes, each with a broker and a PostgreSQL of its own: with a third, two
cores had thirty processes waiting for them, and nothing came in time. A native crash ends one of
them: it is told as that test's failure, and another process goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from xdist.scheduler import LoadScopeScheduling

# The longest first, so that none is left for the end, when one process is alone with it.
ORDER = (
    "the kept county",
    "tests/torture/test_torture.py::test_nothing_is_found[leaders]",
    "tests/torture/test_torture.py::",
    "tests/acceptance/permits/",
    "tests/acceptance/test_endings.py",
    "tests/acceptance/",
    "tests/integration/stream/",
    "tests/torture/",
    "tests/integration/",
)
# Whose tests go on with the county that one demonstration leaves (acceptance/conftest.py).
KEPT_COUNTY = (
    "tests/acceptance/console/",
    "tests/acceptance/test_demo.py",
    "tests/acceptance/test_howto.py",
    "tests/acceptance/test_running_bus.py",
)


class ByWhatTheyShare(LoadScopeScheduling):
    """Tests of one file share their services. A scenario of the torture shares nothing with
    anybody."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith("tests/torture/"):
            return nodeid
        return "the kept county" if file.startswith(KEPT_COUNTY) else file

    def _assign_work_unit(self, node: Any) -> None:
        longest = min(self.workqueue, key=_rank)
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)

    def remove_node(self, node: Any) -> str | None:
        """As the original, which would run the test that crashed once more at once: a second
        crash would end the next process too, and a success would take it off the list of those
        that have to be tried again."""
        workload = self.assigned_work.pop(node)
        left = [
            (unit, test) for unit in workload.values() for test, done in unit.items() if not done
        ]
        if not left:
            return None
        unit, crashed = left[0]
        unit[crashed] = True
        self.workqueue.update({s: unit for s, unit in workload.items() if not all(unit.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed


def _rank(scope: str) -> int:
    return next((n for n, head in enumerate(ORDER) if scope.startswith(head)), len(ORDER))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Brokers of the tests start with an archive of their classes; without services none is."""
    is_distributing = session.config.getoption("numprocesses", None) and not hasattr(
        session.config, "workerinput"
    )
    if is_distributing or session.config.getoption("collectonly"):
        return
    if any(item.get_closest_marker("service") for item in session.items):
        from java_archive import use_archive

        use_archive()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByWhatTheyShare | None:
    """For `--dist loadscope`."""
    return ByWhatTheyShare(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets the log up for itself: only what is wrong is told.
    A later test that waits for a line at `info` would wait in vain. Also before each test, because
    fixtures that outlive one run commands too."""
    structlog.reset_defaults()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()

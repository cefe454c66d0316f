"""Where the bundled contract lies: in the installed package, or at the root of a checkout."""

from __future__ import annotations

from pathlib import Path

import deptbus
from deptbus.contract.draft import TOPICS
from deptbus.errors import DeptbusError


def bundled() -> Path:
    """The directory of the bundled contract (Xihu District)."""
    package = Path(deptbus.__file__).resolve().parent
    # The wheel puts a copy into the package; a checkout has it at its root, above src/deptbus.
    for directory in (package / "bundled" / "contract", package.parent.parent):
        if (directory / TOPICS).is_file():
            return directory
    raise DeptbusError("the bundled contract is missing", mend="Install deptbus anew")

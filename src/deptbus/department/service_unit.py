"""Pure: the systemd unit under which a department's adapter outlives its machine's reboots.

1. `Type=notify`: it has started when its files were read. A bus or database that is away is waited
   for, for as long as it takes: at a boot nobody comes in any order.
2. It is started anew whatever ends it, but for exit codes 1 and 2: then a person has to act. A file
   of the department's is wrong, or the adapter was fenced and would only fence its successor.
3. The watchdog ends a process whose event loop stands still.
4. The unit holds no secret, because everybody on the machine may read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deptbus.errors import Exit

WATCHDOG_SECONDS = 120
_AGAIN_SECONDS = 5
_STOP_SECONDS = 30  # it takes 5 at most
_FOR_A_PERSON = (Exit.ANSWER_IS_NO, Exit.COULD_NOT)

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")


def unit_text(
    units: Sequence[str],
    argv: Sequence[str],
    *,
    user: str,
    environment: Mapping[str, str],
    environment_file: Path | None,
) -> str:
    """The text of the file. `units`: of the departments, for people; `argv`: absolute paths."""
    lines = [
        "# Made by `deptbus department service`.",
        "[Unit]",
        f"Description=deptbus: adapter of {', '.join(units)}",
        "Wants=network-online.target",
        "After=network-online.target postgresql.service",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"User={user}",
        f"ExecStart={' '.join(quoted(word) for word in argv)}",
        *(f"Environment={assigned(f'{n}={v}')}" for n, v in sorted(environment.items())),
        *([] if environment_file is None else [f"EnvironmentFile={_path(environment_file)}"]),
        "Restart=always",
        f"RestartSec={_AGAIN_SECONDS}",
        f"RestartPreventExitStatus={' '.join(str(int(code)) for code in _FOR_A_PERSON)}",
        f"TimeoutStopSec={_STOP_SECONDS}",
        f"WatchdogSec={WATCHDOG_SECONDS}",
        "NoNewPrivileges=yes",
        "ProtectSystem=full",
        "ProtectKernelTunables=yes",
        "ProtectControlGroups=yes",
        "RestrictSUIDSGID=yes",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    ]
    return "\n".join(lines)


def quoted(word: str) -> str:
    """One word of a command line, as systemd.service(5) reads it: a `$` is doubled."""
    return assigned(word.replace("$", "$$"))


def assigned(word: str) -> str:
    """An assignment, as systemd.exec(5) and systemd.syntax(7) read it: `%` stands for itself when
    doubled, `$` always; a backslash escapes within quotes."""
    text = word.replace("%", "%%")
    if word and _PLAIN.issuperset(word):
        return text
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def _path(path: Path) -> str:
    return str(path).replace("%", "%%")

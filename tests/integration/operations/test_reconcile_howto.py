"""docs/howto about proofs, command by command, by the command line itself. The county of the
documents is this test's bus: its address and its dataset stand for theirs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from copy_town import Copies, copies_of

pytestmark = [pytest.mark.service, pytest.mark.timeout(300)]

HOWTO = Path(__file__).parents[3] / "docs" / "howto"


class Reader:
    """Somebody who types what a document says, in a folder of his own."""

    def __init__(self, copies: Copies, folder: Path) -> None:
        self._copies, self._folder = copies, folder

    async def types(self, words: list[str]) -> tuple[int, str]:
        arguments = [{"resident": "person"}.get(word, word) for word in words[1:]]
        at = arguments.index("--data") if "--data" in arguments else None
        if at is not None and arguments[0] != "certificate":
            arguments[at : at + 2] = ["--bootstrap", self._copies.bus.connection.bootstrap]
        elif at is not None:
            del arguments[at : at + 2]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "deptbus.cli.main",
            *arguments,
            cwd=self._folder,
            env=os.environ | {"DEPTBUS_CERTIFICATE_KEY": str(self._folder / "certificate.key")},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    async def follows(self, document: str) -> list[tuple[int, str]]:
        text = (HOWTO / document).read_text(encoding="utf-8")
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.splitlines()]
        assert all(line.startswith("deptbus ") for line in lines)
        return [await self.types(shlex.split(line)) for line in lines]


async def test_the_auditor_comes(new_bus, tmp_path):
    async with copies_of(new_bus, tmp_path, None, 60, range(40, 60)) as (copies, _):
        reader = Reader(copies, tmp_path)
        said = await reader.follows("the-auditor-comes.md")
        assert [code for code, _ in said] == [0] * 5, said
        key, proved, sampled, verified, audit = (out for _, out in said)
        assert "fingerprint" in key
        assert "equal" in proved
        assert sampled.count("copy: equal") == 5
        assert "n1v1" in sampled or "name" in sampled
        assert "genuine" in verified
        assert "certificate" in audit
        again = (await reader.follows("the-auditor-comes.md"))[2][1]
        keys = re.compile(r"^[0-9a-f]{32}$", re.MULTILINE)
        assert keys.findall(again.replace(" ", "")) == keys.findall(sampled.replace(" ", ""))


async def test_local_edits(new_bus, tmp_path):
    async with copies_of(new_bus, tmp_path, None, 60, range(40, 60)) as (copies, _):
        await copies.sql("UPDATE people SET called = 'typed' WHERE no = '1'")
        await copies.sql("DELETE FROM people WHERE no = '2'")
        said = await Reader(copies, tmp_path).follows("local-edits.md")
        found, mended, overwritten, proved, audit = said
        assert (found[0], mended[0], overwritten[0], proved[0], audit[0]) == (1, 1, 0, 0, 0), said
        assert "edited_locally" in found[1]
        assert "columns: called" in found[1]
        assert "1 edited locally: not without --overwrite-local" in mended[1]
        assert "police" in audit[1]
        (file,) = (tmp_path / "overwritten").iterdir()
        assert json.loads(file.read_text())["row"]["called"] == "typed"
        assert oct(file.stat().st_mode)[-3:] == "600"

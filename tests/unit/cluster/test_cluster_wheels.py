"""Installed packages become wheels again: the same files, and only unaltered ones."""

from __future__ import annotations

import os
import stat
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from deptbus.cluster.wheels import closure, pack
from deptbus.errors import DeptbusError

INFO = "odd_name-1.0.dist-info"


def installed(folder: Path, **files: str) -> Distribution:
    """A small package as an installer leaves it."""
    content = {
        "odd_name/__init__.py": "x = 1\n",
        "odd_name/run": "#!/bin/sh\n",
        f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: Odd.Name\nVersion: 1.0\n",
        f"{INFO}/WHEEL": "Wheel-Version: 1.0\nTag: py2-none-any\nTag: py3-none-any\n",
        f"{INFO}/entry_points.txt": "[console_scripts]\nodd = odd_name:x\n",
        f"{INFO}/INSTALLER": "pip\n",
        "../../bin/odd": "made by the installer",
        "odd_name/__pycache__/x.pyc": "",
    } | files
    site = folder / "lib" / "site"
    for name, text in content.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")
    (site / "odd_name" / "run").chmod(0o755)
    record = site / INFO / "RECORD"
    record.write_text("".join(f"{name},,\n" for name in (*content, f"{INFO}/RECORD")), "utf-8")
    return Distribution.at(site / INFO)


def test_the_same_files_and_nothing_of_the_installation(tmp_path: Path) -> None:
    path = pack(installed(tmp_path), tmp_path)
    assert path.name == "odd_name-1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        assert {n for n in names if n.startswith("odd_name/")} == {
            "odd_name/__init__.py",
            "odd_name/run",
        }
        assert f"{INFO}/INSTALLER" not in names
        assert not [n for n in names if ".." in n]
        assert archive.getinfo("odd_name/run").external_attr >> 16 & stat.S_IXUSR
        listed = archive.read(f"{INFO}/RECORD").decode().splitlines()
        assert {line.split(",")[0] for line in listed} == names
        assert archive.testzip() is None


def test_made_again_it_is_the_same(tmp_path: Path) -> None:
    dist = installed(tmp_path)
    first = pack(dist, tmp_path).read_bytes()
    assert pack(dist, tmp_path).read_bytes() == first


def test_what_lies_elsewhere_and_is_no_entry_point_is_refused(tmp_path: Path) -> None:
    dist = installed(tmp_path, **{"../../share/odd.cfg": "x"})
    with pytest.raises(DeptbusError, match=r"outside of its folder.*odd\.cfg"):
        pack(dist, tmp_path)


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    """A real package, with the digests that its installer wrote."""
    dist = distribution("filelock")
    site = tmp_path / "site"
    for file in dist.files or ():
        if "__pycache__" not in file.parts and ".." not in file.parts:
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(str(dist.locate_file(file)), site / file)
    info = next(p for p in site.iterdir() if p.suffix == ".dist-info")
    assert pack(Distribution.at(info), tmp_path).exists()
    altered = site / "filelock" / "__init__.py"
    text = altered.read_bytes()
    altered.unlink()
    altered.write_bytes(text + b"\n")
    with pytest.raises(DeptbusError, match="is not as it was installed"):
        pack(Distribution.at(info), tmp_path)


def test_a_checkout_is_no_wheel(tmp_path: Path) -> None:
    where = '{"dir_info": {"editable": true}, "url": "file:///x"}'
    dist = installed(tmp_path, **{f"{INFO}/direct_url.json": where})
    with pytest.raises(DeptbusError, match="was not installed from a wheel"):
        pack(dist, tmp_path)


def test_all_that_a_package_needs_comes_along() -> None:
    found = {d.name for d in closure([Requirement("aiokafka[lz4]")])}
    assert {"aiokafka", "packaging", "cramjam"} <= found
    assert "cramjam" not in {d.name for d in closure([Requirement("aiokafka")])}


def test_names_of_real_wheels_are_read_by_installers(tmp_path: Path) -> None:
    for name in ("Jinja2", "pydantic_core", "psutil"):
        dist = distribution(name)
        parsed, version, _, tags = parse_wheel_filename(pack(dist, tmp_path).name)
        assert (parsed, str(version)) == (name.lower().replace("_", "-"), dist.version)
        told = (dist.read_text("WHEEL") or "").splitlines()
        assert {str(t) for t in tags} >= {x[5:] for x in told if x.startswith("Tag: ")}

"""A fresh environment with the wheel and its runtime dependencies, and nothing of the checkout.

The third-party packages are those of the environment that the tests run in: the ones that the
wheel's own metadata asks for, and what these ask for, linked file by file. So nothing is fetched,
the versions are the locked ones, and a dependency that the wheel forgets to name is missing here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from importlib.util import cache_from_source
from pathlib import Path
from zipfile import ZipFile

from packaging.metadata import Metadata

from deptbus.cluster.wheels import applies, closure

EXTRAS = ("postgres",)  # of the wheel: `demo --postgres` is to work in this environment


def build_wheel(project: Path, folder: Path) -> Path:
    """Builds the project's wheel into `folder` and returns its path."""
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    _run([*argv, str(project.absolute())], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(wheel: Path, folder: Path) -> Path:
    """Makes an environment in `folder` with the wheel installed; returns its bin folder."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    python = folder / "bin" / "python"
    answer = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    site = Path(answer.strip())
    for dist in runtime_dependencies(wheel):
        _link(dist, site)
    _install(wheel, python)
    _run([str(python), "-m", "compileall", "-q", str(site / "deptbus")])
    return folder / "bin"


def runtime_dependencies(wheel: Path) -> list[Distribution]:
    """What the wheel needs to run, found in the present environment; without the wheel itself."""
    with ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(archive.read(name), validate=False)
    return closure(named for named in metadata.requires_dist or () if applies(named, EXTRAS))


def _link(dist: Distribution, site: Path) -> None:
    """Every file that the package put below site-packages; scripts beside it are left out."""
    for file in dist.files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        source, target = Path(str(dist.locate_file(file))), site / file
        if source.is_file():
            _link_file(source, target)
        # What is compiled already: else the first processes compile all of it at the same time.
        if file.suffix == ".py":
            compiled = Path(cache_from_source(source))
            if compiled.is_file():
                _link_file(compiled, Path(cache_from_source(target)))


def _link_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return  # two packages of one namespace
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _install(wheel: Path, python: Path) -> None:
    """By a real installer, so that the entry points are made as anybody's are."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is not None:
        argv = [uv, "pip", "install", "--quiet", "--offline", "--no-deps"]
        argv += ["--python", str(python), str(wheel)]
    else:
        argv = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        argv += ["--disable-pip-version-check", "--no-deps", "--no-index", str(wheel)]
    _run(argv)


def _run(argv: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[:4]} failed: {done.stdout}{done.stderr}")
    return done.stdout

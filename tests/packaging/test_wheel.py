"""The wheel that users install."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the tree as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_it_is_for_every_platform(wheel: zipfile.ZipFile) -> None:
    """One wheel serves all platforms and all versions of Python 3."""
    assert str(wheel.filename).endswith("-py3-none-any.whl")


def test_it_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """The wheel holds each file of the package, its licence and its metadata."""
    package = ROOT / "src"
    files = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    about = {name.partition(".dist-info/")[2] for name in wheel.namelist()} - {""}

    assert "replaylink/py.typed" in files
    assert files == packed
    assert {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"} == about


def test_it_asks_for_two_small_packages(metadata: Message) -> None:
    """Without an extra, an installation brings structlog and msgspec, and nothing else."""
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]

    assert ["msgspec>=0.18", "structlog>=22.2"] == required


def test_its_classifiers_are_the_interpreters_that_are_tested(metadata: Message) -> None:
    """The versions of Python in the classifiers are those that the core is tested on."""
    prefix = "Programming Language :: Python :: 3."
    minors = [
        line.removeprefix(prefix)
        for line in metadata.get_all("Classifier", [])
        if line.startswith(prefix)
    ]
    tested = (ROOT / "pyproject.toml").read_text().partition("env_list = [")[2].partition("]")[0]

    assert [f"py3{minor}" for minor in minors] == [
        name for name in tested.replace('"', "").split(", ") if name.startswith("py3")
    ]

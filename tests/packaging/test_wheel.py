"""The wheel that users install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import httpx
import pytest

from tests.viewer.running import Viewer

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[2]

VENDOR = "replaylink/viewer/static/vendor"

LIBRARIES = {
    "posthog-js": {"array.js", "array.full.no-external.js", "lazy-recorder.js"},
    "rrweb-player": {"rrweb-player.min.js", "style.min.css"},
    "uplot": {"uPlot.iife.min.js", "uPlot.min.css"},
}
"""The browser libraries, and files that each must have."""

NO_NPM = {**os.environ, "PATH": "/nonexistent"}


def build(
    root: Path, target: str, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """
    Build the sdist or the wheel of a source tree into a folder.
    """
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the tree as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    build(ROOT, "wheel", folder).check_returncode()
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree that users get, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    build(ROOT, "sdist", folder).check_returncode()
    [path] = folder.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder / path.name.removesuffix(".tar.gz")


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
    assert {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"} == about


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_holds_the_browser_libraries(wheel: zipfile.ZipFile, library: str) -> None:
    """Each browser library is in the wheel, as npm brings it, with its licences."""
    folder = f"{VENDOR}/{library}/"
    packed = {name.removeprefix(folder) for name in wheel.namelist() if name.startswith(folder)}
    licenses = wheel.read(f"{folder}LICENSE").decode()
    version = json.loads((ROOT / "package.json").read_bytes())["dependencies"][library]

    assert LIBRARIES[library] <= packed
    assert not [name for name in packed if name.endswith(".map")]
    for name in packed - {"LICENSE"}:
        [original] = (ROOT / "node_modules" / library).glob(f"*/{name}")
        assert original.read_bytes() == wheel.read(f"{folder}{name}")
    assert f"{library} {version}" in licenses
    assert "Permission is hereby granted, free of charge" in licenses
    assert ("SmartX" in licenses) == (library != "uplot")


def test_lock_file_names_no_registry() -> None:
    """The packages come from whichever registry npm is set up for, and are known by their hash."""
    packages = json.loads((ROOT / "package-lock.json").read_bytes())["packages"]
    installed = [package for path, package in packages.items() if path]

    assert [] == [package for package in installed if "resolved" in package]
    assert all(package["integrity"].startswith("sha512-") for package in installed)


def test_sdist_is_all_that_a_wheel_needs(
    sdist: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    """From the sdist, without npm, the same wheel is built."""
    built = build(sdist, "wheel", tmp_path, NO_NPM)
    [path] = tmp_path.glob("*.whl")

    assert 0 == built.returncode
    with zipfile.ZipFile(path) as other:
        assert {each.filename: each.CRC for each in wheel.infolist()} == {
            each.filename: each.CRC for each in other.infolist()
        }


def test_without_the_browser_libraries_there_is_no_wheel(sdist: Path, tmp_path: Path) -> None:
    """A source tree without them, where there is no npm, tells what to do."""
    tree = tmp_path / "tree"
    shutil.copytree(sdist, tree, ignore=shutil.ignore_patterns("vendor"))
    built = build(tree, "wheel", tmp_path, NO_NPM)

    assert 0 != built.returncode
    assert "npm ci --ignore-scripts" in built.stderr
    assert [] == list(tmp_path.glob("*.whl"))


def test_installed_viewer_serves_pages_and_assets(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Out of the wheel alone, outside of the source tree, the viewer serves all that it has."""
    # The viewer's dependencies are this environment's; replaylink is the wheel's.
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel.filename)], check=True, capture_output=True)
    [packages] = (tmp_path / "venv/lib").glob("python3.*/site-packages")
    [others] = {Path(path) for path in sys.path if path.endswith("site-packages")}
    # After its own, so that nothing of the source tree comes first.
    (packages / "zz_others.pth").write_text(f"{others}\n")
    with Viewer(command=str(tmp_path / "venv/bin/replaylink"), folder=tmp_path) as viewer:
        pages = [httpx.get(f"{viewer.url}{path}") for path in ("/setup", "/static/own/viewer.css")]
        assets = [
            httpx.get(f"{viewer.url}/static/own/vendor/{library}/{name}")
            for library, names in LIBRARIES.items()
            for name in sorted(names)
        ]
        script = httpx.get(f"{viewer.url}/static/array.js")

    assert {200} == {answer.status_code for answer in (*pages, *assets, script)}
    assert script.content == wheel.read(f"{VENDOR}/posthog-js/array.js")


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

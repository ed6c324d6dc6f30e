"""
Puts the browser libraries that the viewer serves into the package, out of node_modules.

They are in the wheel and in the sdist, and not in git. An sdist has them already, so a wheel
is built from it without npm.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = {
    # What a page loads from a PostHog, and what that loads; older ones have other recorders.
    "posthog-js": [
        "dist/array.js",
        "dist/array.full.no-external.js",
        "dist/exception-autocapture.js",
        "dist/lazy-recorder.js",
        "dist/posthog-recorder.js",
        "dist/recorder.js",
        "dist/tracing-headers.js",
    ],
    "rrweb-player": ["umd/rrweb-player.min.js", "dist/style.min.css"],
    "uplot": ["dist/uPlot.iife.min.js", "dist/uPlot.min.css"],
}
"""What is taken of each library."""

VENDOR = Path("src/replaylink/viewer/static/vendor")
RRWEB_LICENSE = Path("licenses/rrweb.txt")
"""The licence of rrweb's packages, which npm brings without its text."""

ADVICE = "run `npm ci --ignore-scripts` in {root}, with the npm of Node.js, and then again"


class BrowserLibraries(BuildHookInterface):  # type: ignore[type-arg]
    """
    Copies the libraries before anything is packed.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if not are_installed(root) and not are_vendored(root):
            npm = shutil.which("npm")
            if npm:
                command = [npm, "ci", "--ignore-scripts", "--silent"]
                subprocess.run(command, cwd=root, check=True)  # noqa: S603
        if are_installed(root):
            vendor(root)
        elif not are_vendored(root):
            msg = f"The viewer's browser libraries are missing: {ADVICE.format(root=root)}."
            if version != "editable":
                raise RuntimeError(msg)
            self.app.display_warning(f"{msg} Everything else works.")


def are_installed(root: Path) -> bool:
    """
    Return whether node_modules has the versions that package.json names.
    """
    wanted = json.loads((root / "package.json").read_bytes())["dependencies"]
    return all(
        manifest.is_file() and json.loads(manifest.read_bytes())["version"] == wanted[name]
        for name in FILES
        for manifest in [root / "node_modules" / name / "package.json"]
    )


def are_vendored(root: Path) -> bool:
    """
    Return whether the package has all files already.
    """
    return all(
        (root / VENDOR / name / Path(file).name).is_file()
        for name, files in FILES.items()
        for file in [*files, "LICENSE"]
    )


def vendor(root: Path) -> None:
    """
    Copy the libraries, each with its licence and those of what is bundled in it.
    """
    for name, files in FILES.items():
        target = root / VENDOR / name
        target.mkdir(parents=True, exist_ok=True)
        contents = {
            Path(file).name: (root / "node_modules" / name / file).read_bytes() for file in files
        }
        contents["LICENSE"] = "\n\n".join(licenses(root, name)).encode()
        for file, content in contents.items():
            path = target / file
            # A server may be reading it.
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)
        for path in target.iterdir():
            if path.name not in contents:
                path.unlink()


def licenses(root: Path, name: str) -> Iterator[str]:
    """
    Yield the licences of a library and of what is bundled in it: its dependencies, and rrweb.
    """
    seen: set[str] = set()
    names = [name]
    while names:
        package = names.pop(0)
        folder = root / "node_modules" / package
        # Types are for compilers only, and a package may be for other platforms.
        if package in seen or package.startswith("@types/") or not folder.is_dir():
            continue
        seen.add(package)
        manifest = json.loads((folder / "package.json").read_bytes())
        names += manifest.get("dependencies", {})
        title = f"{manifest['name']} {manifest['version']}, {manifest['license']}"
        yield f"=== {title} ==="
        for path in sorted(folder.glob("LICENSE*")):
            yield path.read_text()
    if name != "uplot":
        yield "=== rrweb and its packages, MIT ==="
        yield (root / RRWEB_LICENSE).read_text()

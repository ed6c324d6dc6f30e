from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

import replaylink

CORE = ["access", "asgi", "auth", "processors", "sources", "stdlib", "threads", "wsgi"]


def test_package_exports_what_it_defines() -> None:
    """What the package shows is what it lists, in order."""
    submodules = {name.partition(".")[2] for name in sys.modules if name.startswith("replaylink.")}
    public = {
        name
        for name in vars(replaylink)
        if not name.startswith("_") and name not in submodules and name != "annotations"
    }

    assert sorted(public) == replaylink.__all__


@pytest.mark.parametrize("name", CORE)
def test_modules_export_what_they_list(name: str) -> None:
    """Each public module has a list of its names, and has all of them."""
    module = importlib.import_module(f"replaylink.{name}")
    listed = module.__all__

    assert sorted(listed) == sorted(set(listed))
    assert [] == [listed_name for listed_name in listed if not hasattr(module, listed_name)]


def test_twins_export_the_same() -> None:
    """The middlewares for ASGI and WSGI have the same name."""
    from replaylink import asgi, wsgi

    assert ["ReplayLinkMiddleware"] == asgi.__all__ == wsgi.__all__


def test_version() -> None:
    """The version is that of the installed package."""
    assert version("replaylink") == replaylink.__version__


def test_unknown_name() -> None:
    """A name that is not there is reported as for any module."""
    with pytest.raises(AttributeError, match="module 'replaylink' has no attribute 'nothing'"):
        replaylink.nothing  # noqa: B018


def test_import_is_light() -> None:
    """Importing all of the core imports no framework, no extra and no server."""
    code = (
        "import sys\n"
        f"import {', '.join(f'replaylink.{name}' for name in CORE)}\n"
        "heavy = {'asgiref', 'cryptography', 'django', 'fastapi', 'flask', 'flask_login', 'jwt',\n"
        "         'litestar', 'opentelemetry', 'starlette', 'werkzeug'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert "[]\n" == result.stdout

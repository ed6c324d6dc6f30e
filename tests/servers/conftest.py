from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.servers.running import KINDS, Server, running

OUTPUT_CHARS = 4000
"""How much of a server's output a failed test shows."""


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.name)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Each of the servers in turn, with the app of its protocol."""
    with running(request.param, tmp_path_factory.mktemp(request.param.name)) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """
    Show what the server wrote, with a test that failed.
    """
    report = yield
    server = getattr(item, "funcargs", {}).get("server")
    if report.failed and isinstance(server, Server):
        report.sections.append(("Server output", server.output()[-OUTPUT_CHARS:]))
    return report

"""
Which line of a request is linked, on which server: what the README says, and nothing else.
"""

from __future__ import annotations

import inspect
import re

import pytest

from tests.servers import hypercorn_config, matrix
from tests.servers.matrix import ROWS, Cell, Column
from tests.servers.plan import Plan
from tests.servers.running import KINDS, Kind


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Column]:
    """The columns of all servers."""
    return matrix.measure_all(KINDS, tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def section() -> str:
    """What the README promises."""
    return matrix.README.read_text().split(matrix.HEADING)[1].split("\n## ")[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_of_line(measured: dict[str, Column], kind: Kind) -> None:
    """Each kind of line has the IDs of its request, or is told to have none."""
    column = measured[kind.name]

    assert "foreign" not in column.values()
    assert matrix.readme()[kind.name] == column


def test_the_readme_has_the_tables(measured: dict[str, Column], section: str) -> None:
    """The README shows the very tables that the measurements make."""
    assert matrix.tables(measured) in section


def test_the_readme_explains_what_is_not_linked(section: str) -> None:
    """Each row with a line that is not linked is told about, and no other."""
    columns = matrix.readme().values()
    rows = {
        row.name for row in ROWS for column in columns if column[row.name] not in ("linked", "n/a")
    }
    _, explained = section.rsplit("| middleware around, before and after |", 1)

    assert rows == set(re.findall(r"\*\*(.+?)\*\*", explained))


def test_the_readme_tells_how_the_servers_are_set_up() -> None:
    """What the README says that a server needs is what it is given here."""
    section = matrix.README.read_text().split("## Access lines")[1].split("```")[0]
    told = dict(re.findall(r"^- (\w+): (.+)$", section, re.MULTILINE))
    given = {kind.label: " ".join(kind.command) for kind in KINDS}
    given["hypercorn"] += inspect.getsource(hypercorn_config)
    settings = [
        (server, setting)
        for server, text in told.items()
        for setting in re.findall(r"`(--.+?|\w+ = .+?|action_.+?|server\..+? = .+?)`", text)
    ]

    assert {kind.label for kind in KINDS if not kind.label.startswith("gunicorn")} == {
        server for server in told if server != "gunicorn"
    }
    assert 9 == len(settings)
    for server, setting in settings:
        assert re.sub(r"\s", "", setting) in re.sub(r"\s", "", given[server])


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('{"event": "endpoint, sync", "n": 1, IDS1}', "linked"),
        ('{"event": "endpoint, sync", "n": 1}', "missing"),
        ('{"event": "endpoint, sync", "n": 1, "sessionId": "session-1"}', "missing"),
        ('{"event": "endpoint, sync", "n": 1, IDS2}', "foreign"),
        (
            '{"event": "endpoint, sync", "n": 1, IDS1}\n{"event": "endpoint, sync", "n": 1}',
            "missing",
        ),
        (
            '{"event": "endpoint, sync", "n": 1, IDS1}\n{"event": "endpoint, sync", "n": 2, IDS1}',
            "foreign",
        ),
        ("", "not written"),
    ],
    ids=["own", "none", "only-one", "of-another", "only-once", "on-another", "nothing"],
)
def test_a_cell_is_the_worst_of_its_lines(output: str, expected: Cell) -> None:
    """A control: IDs that are not there, or not the request's, do show."""
    for number in (1, 2):
        ids = f'"sessionId": "session-{number}", "posthogDistinctId": "claimed-{number}"'
        output = output.replace(f"IDS{number}", ids)
    plans = [
        Plan(number=1, path="/sync/"),
        Plan(number=2, path="/other/", session="", claims_user=False),
    ]

    assert expected == matrix.column("asgi", plans, output)["endpoint, sync"]

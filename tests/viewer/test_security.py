"""
Who may do what with the viewer, on each of its routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Final

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Message, Scope

pytest.importorskip("opentelemetry.proto")

from replaylink.viewer import pages
from replaylink.viewer.app import create_app
from replaylink.viewer.ingest import endpoints as ingest
from replaylink.viewer.security import COOKIE, CSP, PLAYER_CSP, is_origin
from replaylink.viewer.store import Store
from tests.viewer.asgi import ask

TOKEN: Final = "long-and-hard-to-guess"
CROSS_SITE: Final = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}

FOREIGN_HOSTS: Final = [
    "evil.example",
    "evil.example:8390",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil-localhost",
    "192.168.1.5",
    "[2001:db8::1]",
    "",
    "127.0.0.1:8390@evil.example",
    "127.0.0.1/",
    "127.0.0.1:port",
    "127.0.0.1 ",
    "loc\xe4lhost",
]

FOREIGN_PAGES: Final = [
    CROSS_SITE,
    {**CROSS_SITE, "Sec-Fetch-Site": "same-site"},
    {**CROSS_SITE, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "null"},
    {"Origin": "http://["},
]

OWN_ORIGINS: Final = [
    "http://localhost:3000",
    "http://127.0.0.1:8000",
    "https://app.localhost",
    "http://[::1]:5173",
    "http://127.0.0.1:8390",
]

FOREIGN_ORIGINS: Final = [
    "https://evil.example",
    "http://localhost.evil.example",
    "http://evil.example/localhost",
    "http://localhost@evil.example",
    "file://localhost",
    "null",
    "",
]


def path_of(route: BaseRoute) -> str:
    if isinstance(route, Mount):
        return f"{route.path}/icon.svg"
    assert isinstance(route, Route)
    return re.sub(r"\{[^}]*\}", "1", route.path)


PAGES: Final = [path_of(route) for route in pages.ROUTES]
INGESTION: Final[dict[str, set[str]]] = {}
for _route in ingest.ROUTES:
    assert isinstance(_route, Route)
    INGESTION.setdefault(path_of(_route), set()).update(_route.methods or ())
PLAYERS: Final = ["/replay/1", "/project/1/replay/1"]

each_page = pytest.mark.parametrize("path", PAGES)
each_ingestion = pytest.mark.parametrize("path", INGESTION)
each_route = pytest.mark.parametrize("path", [*PAGES, *INGESTION])


def sending(path: str) -> str:
    """
    Return the method that an SDK uses.
    """
    return "POST" if "POST" in INGESTION[path] else "GET"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    store = Store(None)
    yield store
    store.close()


@pytest.fixture
def app(store: Store) -> Starlette:
    return create_app(store)


@pytest.fixture
def guarded(store: Store) -> Starlette:
    """A viewer on all addresses of the machine, which needs a token."""
    return create_app(store, host="0.0.0.0", token=TOKEN)


def test_each_route_is_looked_at(app: Starlette) -> None:
    """No route is neither a page nor ingestion."""
    assert {*PAGES, *INGESTION} == {path_of(route) for route in app.routes}
    assert set(PLAYERS) <= set(PAGES)


@each_route
async def test_foreign_host_is_refused(app: Starlette, path: str) -> None:
    """Under a name that is not this machine's, no route answers (DNS rebinding)."""
    for host in FOREIGN_HOSTS:
        answer = await ask(app, path, headers={"Host": host})

        assert (403, host) == (answer.status, host)
        assert "localhost" in answer.body


@each_route
async def test_one_host_is_needed(app: Starlette, path: str) -> None:
    """A request with two Host headers is refused, whichever comes first."""
    two = [("Host", "127.0.0.1"), ("Host", "evil.example")]

    assert 403 == (await ask(app, path, headers=two)).status
    assert 403 == (await ask(app, path, headers=two[::-1])).status


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8390",
        "127.0.0.1",
        "127.0.0.1:8390",
        "127.1.2.3",
        "[::1]:8390",
        "viewer.localhost",
        "host.docker.internal:8390",
    ],
)
async def test_own_names_are_answered(app: Starlette, host: str) -> None:
    """Under each name that can only be this machine, the viewer answers."""
    assert 200 == (await ask(app, "/setup", headers={"Host": host})).status


async def test_given_host_is_answered(store: Store) -> None:
    """The viewer answers to the name that it is told to listen on, and not to others."""
    app = create_app(store, host="Viewer.example", token=TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}"}

    for host, status in (("viewer.example:8390", 200), ("evil.example", 403)):
        assert status == (await ask(app, "/setup", headers={**headers, "Host": host})).status


async def test_on_all_addresses_any_name_will_do_with_the_token(guarded: Starlette) -> None:
    """On all addresses of the machine it answers to any name, to those who have the token."""
    host = {"Host": "machine.example:8390"}

    assert 401 == (await ask(guarded, "/setup", headers=host)).status
    bearer = {"Authorization": f"Bearer {TOKEN}", **host}
    assert 200 == (await ask(guarded, "/setup", headers=bearer)).status


async def test_on_all_addresses_no_other_name_will_do_without(store: Store) -> None:
    """Without a token, which only an app of its own allows, foreign names are refused as ever."""
    app = create_app(store, host="0.0.0.0")

    assert 403 == (await ask(app, "/setup", headers={"Host": "evil.example"})).status


@each_page
async def test_pages_have_the_policy(app: Starlette, path: str) -> None:
    """Each page forbids scripts and styles but its own files; the player's allows styles."""
    answer = await ask(app, path)

    assert (PLAYER_CSP if path in PLAYERS else CSP) == answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"].partition("style-src")[0]
    assert ("nosniff", "same-origin", "same-origin", "same-origin") == (
        answer.headers["X-Content-Type-Options"],
        answer.headers["Cross-Origin-Opener-Policy"],
        answer.headers["Cross-Origin-Resource-Policy"],
        answer.headers["Referrer-Policy"],
    )
    assert "off" == answer.headers["X-DNS-Prefetch-Control"]
    assert "Cache-Control" in answer.headers


async def test_recordings_frame_nothing(app: Starlette) -> None:
    """The player's page, and the recorded page in it, can load no page in a frame or object."""
    (policy,) = {(await ask(app, path)).headers["Content-Security-Policy"] for path in PLAYERS}
    directives = dict(each.strip().partition(" ")[::2] for each in policy.split(";"))

    assert ("'none'", "'none'") == (directives["frame-src"], directives["child-src"])
    assert "'none'" == directives.get("object-src", directives["default-src"])


@each_page
async def test_pages_are_no_parts_of_pages(app: Starlette, path: str) -> None:
    """A recorded picture, style or font can be a static file, and nothing that takes a query."""
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors"}
    answers = [
        await ask(app, path, headers={**own, "Sec-Fetch-Dest": part})
        for part in ("image", "style", "font", "object")
    ]

    assert {path.startswith("/static/")} == {answer.status != 403 for answer in answers}


@each_page
async def test_pages_are_not_for_other_origins(app: Starlette, path: str) -> None:
    """Whatever a page of another origin asks for, it gets nothing, and may read nothing."""
    for headers, method in product(FOREIGN_PAGES, ("GET", "POST", "OPTIONS")):
        answer = await ask(app, path, method=method, headers=headers)

        assert (403, headers) == (answer.status, headers)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@each_page
async def test_pages_may_be_linked_to(app: Starlette, path: str) -> None:
    """A link on another site leads to a page; a form on it does not."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    headers = {**link, "Sec-Fetch-Dest": "document"}

    assert 403 != (await ask(app, path, headers=headers)).status
    assert 403 == (await ask(app, path, method="POST", headers=headers)).status


async def test_pages_are_for_their_own_origin(app: Starlette) -> None:
    """The pages' own scripts are answered, with or without a proxy that speaks TLS."""
    for origin in ("http://127.0.0.1:8390", "https://127.0.0.1:8390"):
        headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}

        assert 200 == (await ask(app, "/setup.json", headers=headers)).status


@each_ingestion
async def test_pages_of_this_machine_may_send(app: Starlette, path: str) -> None:
    """Ingestion answers the preflights of pages of this machine, private network included."""
    for origin in OWN_ORIGINS:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, x-custom",
            "Access-Control-Request-Private-Network": "true",
            **CROSS_SITE,
        }
        preflight = await ask(app, path, method="OPTIONS", headers=headers)
        answer = await ask(app, path, method=sending(path), headers={"Origin": origin})

        assert 204 == preflight.status
        assert (origin, "content-type, x-custom", "true", "Origin") == (
            preflight.headers["Access-Control-Allow-Origin"],
            preflight.headers["Access-Control-Allow-Headers"],
            preflight.headers["Access-Control-Allow-Private-Network"],
            preflight.headers["Vary"],
        )
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        assert [origin] == answer.headers.getlist("Access-Control-Allow-Origin")
        assert "cross-origin" == answer.headers["Cross-Origin-Resource-Policy"]


@each_ingestion
async def test_foreign_pages_may_not_send(app: Starlette, path: str) -> None:
    """Ingestion refuses what a foreign page sends, and tells what would let it."""
    for origin, method in product(FOREIGN_ORIGINS, {*INGESTION[path], "OPTIONS"}):
        answer = await ask(app, path, method=method, headers={"Origin": origin})

        assert (403, origin) == (answer.status, origin)
        assert "--allow-origin" in answer.body
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        pytest.param("https://app.example", "https://app.example", 204, id="named"),
        pytest.param("https://App.example/", "https://app.example", 204, id="written-otherwise"),
        pytest.param("*", "https://anything.example", 204, id="all"),
        pytest.param("https://app.example", "http://app.example", 403, id="scheme"),
        pytest.param("https://app.example", "https://app.example:8443", 403, id="port"),
        pytest.param("https://app.example", "https://sub.app.example", 403, id="subdomain"),
    ],
)
async def test_named_origins_may_send(store: Store, allowed: str, origin: str, status: int) -> None:
    """Of other origins those may send that are named, and those only."""
    app = create_app(store, allow_origins=[allowed])

    answer = await ask(app, "/e/", method="OPTIONS", headers={"Origin": origin})
    assert status == answer.status
    assert 403 == (await ask(app, "/logs.json", headers={"Origin": origin})).status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((origin, True) for origin in (*OWN_ORIGINS, "HTTPS://app.example/", "null")),
        *((origin, True) for origin in ("capacitor://localhost", "chrome-extension://abc")),
        *((text, False) for text in ("", "foo", "app.example:443", "://app.example", "http://")),
        *((f"https://{host}", False) for host in ("*.a.example", "a.example/b", "u@a.example")),
    ],
)
def test_what_an_origin_is(text: str, expected: bool) -> None:
    """An origin has a scheme and a host, and no more than a port."""
    assert expected == is_origin(text)


async def test_odd_names_of_headers_are_not_repeated(app: Starlette) -> None:
    """A preflight for what is no name of a header allows none."""
    headers = {"Origin": "http://localhost", "Access-Control-Request-Headers": "a; b"}
    answer = await ask(app, "/e/", method="OPTIONS", headers=headers)

    assert "Access-Control-Allow-Headers" not in answer.headers


@each_ingestion
async def test_servers_may_send(guarded: Starlette, path: str) -> None:
    """What is no browser may send, without the viewer's token."""
    answer = await ask(guarded, path, method=sending(path))

    assert 403 != answer.status
    assert "needs its token" not in answer.body


@each_page
async def test_pages_need_the_token(guarded: Starlette, path: str) -> None:
    """With a token, no page answers without it, nor with a wrong one."""
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer \xe9"},
        {"Cookie": f"{COOKIE}=wrong"},
        {"Cookie": f"{COOKIE}={TOKEN}"},
    ]
    answers = [await ask(guarded, path, headers=headers) for headers in wrong]
    answers += [await ask(guarded, f"{path}?token={value}") for value in ("wrong", "", "%FF")]

    assert [401] * len(answers) == [answer.status for answer in answers]
    assert {CSP} == {answer.headers["Content-Security-Policy"] for answer in answers}
    assert "Bearer" == answers[0].headers["WWW-Authenticate"]
    right = {"Authorization": f"bearer {TOKEN}"}
    assert 401 != (await ask(guarded, path, headers=right)).status


async def test_unknown_addresses_need_the_token(guarded: Starlette) -> None:
    """Without the token nobody learns which addresses there are."""
    assert 401 == (await ask(guarded, "/nothing")).status


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_token_in_the_address_becomes_a_cookie(guarded: Starlette, scheme: str) -> None:
    """The address with the token gives a cookie, and leads to the address without it."""
    target = f"/logs?severity=error&token={TOKEN}&severity=warn&q=a+b"
    answer = await ask(guarded, target, scheme=scheme)
    cookie, *flags = answer.headers["Set-Cookie"].split("; ")

    assert (303, "/logs?severity=error&severity=warn&q=a+b") == (
        answer.status,
        answer.headers["Location"],
    )
    assert {"HttpOnly", "SameSite=lax", "Path=/", *(["Secure"] if scheme == "https" else [])} == (
        set(flags)
    )
    assert TOKEN not in cookie
    assert 200 == (await ask(guarded, "/setup", headers={"Cookie": cookie})).status


async def test_token_leads_to_no_other_site(guarded: Starlette) -> None:
    """An address that begins with two slashes does not lead to a host of that name."""
    answer = await ask(guarded, f"//evil.example/?token={TOKEN}", headers={"Host": "localhost"})

    assert not answer.headers["Location"].startswith(("//", "http"))


async def test_cookie_is_of_its_token(store: Store, guarded: Starlette) -> None:
    """A cookie is worth nothing once the token is another."""
    cookie = (await ask(guarded, f"/?token={TOKEN}")).headers["Set-Cookie"].partition(";")[0]
    later = create_app(store, token="another")

    assert 401 == (await ask(later, "/setup", headers={"Cookie": cookie})).status


@each_route
async def test_websockets_are_refused(app: Starlette, path: str) -> None:
    """No route accepts a WebSocket, which any page of the web could open."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "websocket", "path": path, "headers": [(b"host", b"localhost")]}
    await app(scope, receive, send)

    assert ["websocket.close"] == [message["type"] for message in sent]


@pytest.mark.parametrize("path", [path for path in PAGES if path != "/live"])
async def test_head_is_get_without_a_body(app: Starlette, path: str) -> None:
    """HEAD has the status and the headers of GET, and no body."""
    head, get = await ask(app, path, method="HEAD"), await ask(app, path)

    assert get.status == head.status
    assert get.headers["Content-Security-Policy"] == head.headers["Content-Security-Policy"]
    assert get.headers.get("Content-Type") == head.headers.get("Content-Type")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        pytest.param("GET", "/<script>alert(1)</script>", 404, id="unknown"),
        pytest.param("GET", "/static/own/../../security.py", 404, id="file"),
        pytest.param("POST", "/setup", 405, id="method"),
        pytest.param("GET", "/broken", 500, id="failure"),
    ],
)
async def test_errors_are_plain_pages(store: Store, method: str, target: str, status: int) -> None:
    """What goes wrong is answered with a page of the same policy, which repeats no input."""

    def broken(request: Request) -> Response:
        msg = "<script>alert(1)</script>"
        raise RuntimeError(msg)

    app = create_app(store)
    app.router.routes.append(Route("/broken", broken))
    answer = await ask(app, target, method=method)

    assert (status, CSP, "text/html; charset=utf-8") == (
        answer.status,
        answer.headers["Content-Security-Policy"],
        answer.headers["Content-Type"],
    )
    assert "<h1>" in answer.body
    assert "alert" not in answer.body
    assert ("Allow" in answer.headers) == (status == 405)


async def test_words_of_errors_are_escaped(store: Store) -> None:
    """What a page says about an error is text, and its JSON twin is JSON."""

    def wrong(request: Request) -> Response:
        raise HTTPException(400, "<b>")

    app = create_app(store)
    app.router.routes += [Route("/wrong", wrong), Route("/wrong.json", wrong)]

    assert "<p>&lt;b&gt;</p>" in (await ask(app, "/wrong")).body
    assert '{"error":"<b>"}' == (await ask(app, "/wrong.json")).body

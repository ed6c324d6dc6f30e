"""
Who may do what with the viewer, which holds people's screens and an app's logs.

- The Host header has to be a name of this machine: a foreign page cannot reach the viewer by
  pointing a name of its own at 127.0.0.1 (DNS rebinding).
- Pages and their data are for their own origin. Other pages may link to them, and nothing else.
- With a token, pages and data are for those who know it.
- Ingestion is open, as PostHog's own is: the project token in it is public. Browsers may send
  from pages of this machine, and from those that ``allow_origins`` names.
- What is logged or recorded can run no script: the Content Security Policy forbids it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; frame-src 'self'; frame-ancestors 'self'; "
    "base-uri 'none'; form-action 'self'"
)
"""The policy of each page but the player's: no inline script, no inline style."""

PLAYER_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src data:; connect-src 'self'; font-src 'self' data:; "
    "frame-src 'none'; child-src 'none'; frame-ancestors 'self'; base-uri 'none'; "
    "form-action 'self'"
)
"""
The policy of the player's page, which that of the recorded page within it is as well: recorded
styles are inline, recorded scripts do not run, nothing comes from outside, and no page of the
viewer's is loaded into a recording. Frames are empty ones that rrweb fills, which it allows.
"""

COOKIE = "replaylink_viewer"
"""The cookie that stands for the token."""

PAGE_HEADERS = {
    "Content-Security-Policy": CSP,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With "no-referrer" a form of our own would be sent with the origin "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    # Browsers look up the hosts of links ahead, and those here are logged and recorded ones.
    "X-DNS-Prefetch-Control": "off",
}
"""The headers of each page, where it has none of its own by that name."""

_INGESTION_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # The app's own page loads posthog-js from here.
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}

# What browsers ask for where it is no part of a page: a page itself, or what a script fetches.
_WHOLE = ("document", "iframe", "empty")

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII | re.IGNORECASE)
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_-]+( *, *[A-Za-z0-9_-]+)*", re.ASCII)

# As containers call the machine that they are on. Nobody can own a name that ends in .internal.
_OF_CONTAINERS = ("host.docker.internal", "host.containers.internal")


class SecurityMiddleware:
    """
    Lets requests through that may do what they ask for, and puts the headers on all answers.

    Args:
        app: The app to wrap.
        is_ingestion: Whether a request is for one of the routes that SDKs and exporters use.
        player: The endpoint of the player's page.
        host: The name or address that the viewer listens on.
        token: What reading needs, if anything.
        allow_origins: Origins beside this machine's own whose pages may send, or ``*``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        is_ingestion: Callable[[Scope], bool],
        player: Callable[..., object] | None = None,
        host: str = "127.0.0.1",
        token: str | None = None,
        allow_origins: Iterable[str] = (),
    ) -> None:
        self.app = app
        self._is_ingestion = is_ingestion
        self._player = player
        self._host = host.lower()
        self._token = token
        self._allow_origins = {origin.rstrip("/").lower() for origin in allow_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # There are none here, and one would be open to each page of the web.
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        if self._is_ingestion(scope):
            answer, headers = self._ingestion(Request(scope))
        else:
            answer, headers = self._page(Request(scope)), PAGE_HEADERS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = MutableHeaders(scope=message)
                for name, value in headers.items():
                    present.setdefault(name, value)
                # Routing has put it there by now.
                if self._player is not None and scope.get("endpoint") is self._player:
                    present["Content-Security-Policy"] = PLAYER_CSP
            await send(message)

        await (answer or self.app)(scope, receive, send_with_headers)

    def _page(self, request: Request) -> Response | None:
        """
        Return the answer to a request for a page if it is not the page.
        """
        if not self._is_known_host(request):
            return _unknown_host(request)
        if is_foreign(request.method, request.headers):
            return _refuse("Other sites may link to this viewer, and not use it.")
        is_part = request.headers.get("Sec-Fetch-Dest", "empty") not in _WHOLE
        if is_part and not request.url.path.startswith("/static/"):
            # A recorded picture or style: it would have the viewer search without end.
            return _refuse("Only static files may be parts of a page.")
        if self._token is None:
            return None

        given = request.query_params.get("token")
        if given is not None:
            if not _equal(given, self._token):
                return _unauthorized()
            pairs = [pair for pair in request.query_params.multi_items() if pair[0] != "token"]
            # Not an absolute address, and none that begins with two slashes: it stays here.
            path = "/" + request.url.path.lstrip("/")
            response = RedirectResponse(f"{path}?{urlencode(pairs)}" if pairs else path, 303)
            response.set_cookie(
                COOKIE,
                cookie_value(self._token),
                httponly=True,
                secure=request.url.scheme == "https",
                # Strict would ask those for the token who come by a link in a chat or a mail.
                samesite="lax",
            )
            return response
        if _equal(request.cookies.get(COOKIE, ""), cookie_value(self._token)):
            return None
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(credentials.strip(), self._token):
            return None
        return _unauthorized()

    def _ingestion(self, request: Request) -> tuple[Response | None, dict[str, str]]:
        """
        Return the answer to an SDK's request if it is not the app's, and the headers.
        """
        origin = request.headers.get("Origin")
        # A page behind a name for this machine is as foreign as its name.
        if not self._is_known_host(request):
            return _unknown_host(request), _INGESTION_HEADERS
        if origin is None:
            return None, {**_INGESTION_HEADERS, "Vary": "Origin"}
        if not self._may_send(origin):
            refusal = _refuse(
                f"Pages of {origin} may not send to this viewer: "
                f"start it with --allow-origin {origin}"
            )
            return refusal, _INGESTION_HEADERS

        headers = {
            **_INGESTION_HEADERS,
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": "Retry-After",
        }
        if request.method != "OPTIONS":
            return None, headers
        headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
        headers["Access-Control-Max-Age"] = "3600"
        wanted = request.headers.get("Access-Control-Request-Headers", "")
        if _HEADER_NAMES.fullmatch(wanted):
            headers["Access-Control-Allow-Headers"] = wanted
        # A page of a public site, such as a preview of the app, that may send here.
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return Response(status_code=204), headers

    def _is_known_host(self, request: HTTPConnection) -> bool:
        hosts = request.headers.getlist("Host")
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            return False
        # Who listens on all addresses is called by many names. The token, without which it
        # does not listen there, keeps foreign names out: they have no cookie.
        return self._is_own(match[1]) or (self._token is not None and is_wildcard(self._host))

    def _is_own(self, name: str) -> bool:
        return is_local(name) or name.lower().strip("[]") == self._host

    def _may_send(self, origin: str) -> bool:
        if "*" in self._allow_origins or origin.lower() in self._allow_origins:
            return True
        scheme, _, host = origin.partition("://")
        match = _HOST.fullmatch(host)
        return scheme.lower() in ("http", "https") and match is not None and self._is_own(match[1])


def is_local(name: str) -> bool:
    """
    Return whether a host name or an address can only be this machine.
    """
    name = name.lower().strip("[]")
    if name == "localhost" or name.endswith(".localhost") or name in _OF_CONTAINERS:
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def is_origin(text: str) -> bool:
    """
    Return whether a page can have this origin; a slash at the end does no harm.
    """
    # That of pages without one: files, and frames in a sandbox.
    if text.lower() == "null":
        return True
    scheme, _, host = text.rstrip("/").partition("://")
    return bool(_SCHEME.fullmatch(scheme) and _HOST.fullmatch(host))


def is_wildcard(host: str) -> bool:
    """
    Return whether a server on this address is on all addresses of the machine.
    """
    return host in ("", "0.0.0.0", "::")  # noqa: S104


def is_foreign(method: str, headers: Headers) -> bool:
    """
    Return whether a page of another origin makes this request, in place of a person.

    Browsers tell by two headers; what sends neither is no browser, or an old one's navigation.
    """
    site = headers.get("Sec-Fetch-Site", "none")
    if site not in ("same-origin", "none"):
        # A link, which shows the viewer to the person, and nothing to the other page.
        return not (
            method in ("GET", "HEAD")
            and headers.get("Sec-Fetch-Mode") == "navigate"
            and headers.get("Sec-Fetch-Dest") == "document"
        )
    origin = headers.get("Origin")
    # Without the scheme: a proxy in between may speak TLS.
    return origin is not None and _netloc(origin) != headers.get("Host", "").lower()


def cookie_value(token: str) -> str:
    """
    Return what stands for the token in the cookie: it is not the token, and of safe characters.
    """
    return sha256(b"replaylink viewer\0" + token.encode()).hexdigest()


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _refuse(text: str) -> Response:
    return PlainTextResponse(f"{text}\n", 403)


def _unknown_host(request: Request) -> Response:
    return _refuse("This viewer answers to localhost, 127.0.0.1, [::1] and its --host only.")


def _unauthorized() -> Response:
    text = (
        "This viewer needs its token: open the address with ?token=... that it told at its start.\n"
    )
    return PlainTextResponse(text, 401, headers={"WWW-Authenticate": "Bearer"})

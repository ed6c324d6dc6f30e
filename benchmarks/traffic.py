"""
The requests that are measured, as Chromium 156 and posthog-js 1.449 send them.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import sys
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from replaylink._types import Environ, Message, Scope

Headers = tuple[tuple[str, str], ...]

CHUNK_BYTES = 64 * 1024
"""How much of a body a server hands over at once."""

TOKEN = "phc_Ab3dEfGhIjKlMnOpQrStUvWxYz0123456789abcdefg"
SESSION_ID = "01a20589-7982-7afd-a6b5-3e3745e646db"
WINDOW_ID = "01a20589-7982-7afd-a6b5-3e3833330256"


def posthog_cookie() -> str:
    now = round(time.time() * 1000)
    state = {
        "$device_id": "01a20589-7942-76f2-bfb0-17a470f0055d",
        "distinct_id": "user-42",
        "$sesid": [now, SESSION_ID, now - 60_000],
        "$epp": True,
        "$user_state": "identified",
    }
    value = quote(json.dumps(state, separators=(",", ":")), safe="")
    return f"ph_{TOKEN}_posthog={value}"


def headers(
    *,
    traced: bool = False,
    cookie: str = "theme=dark",
    content_length: int | None = None,
) -> Headers:
    """
    Return what Chromium sends with a fetch(), in its order.

    Args:
        traced: Whether posthog-js adds its three headers.
        cookie: The cookies.
        content_length: The length of a JSON body, in bytes.
    """
    ids = iter(
        (
            ("X-PostHog-Distinct-ID", "user-42"),
            ("X-PostHog-Session-ID", SESSION_ID),
            ("X-PostHog-Window-ID", WINDOW_ID),
        )
        if traced
        else ()
    )
    post = content_length is not None
    return (
        ("Host", "app.example.com"),
        ("Connection", "keep-alive"),
        *((("Content-Length", str(content_length)),) if post else ()),
        ("sec-ch-ua-platform", '"Linux"'),
        *itertools.islice(ids, 1),
        ("sec-ch-ua", '"Not:A-Brand";v="8", "Chromium";v="156"'),
        *itertools.islice(ids, 1),
        (
            "User-Agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/156.0.0.0 Safari/537.36",
        ),
        ("sec-ch-ua-mobile", "?0"),
        *itertools.islice(ids, 1),
        *((("Content-Type", "application/json"),) if post else ()),
        ("Accept", "*/*"),
        *((("Origin", "https://app.example.com"),) if post else ()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Dest", "empty"),
        ("Referer", "https://app.example.com/chat"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", "en-US,en;q=0.9"),
        ("Cookie", cookie),
    )


@dataclass(frozen=True)
class Request:
    """
    A request, and the session ID that is to be found in it.
    """

    name: str
    headers: Headers
    body: bytes = b""
    session_id: str | None = SESSION_ID

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"

    @property
    def is_traced(self) -> bool:
        return any(name == "X-PostHog-Session-ID" for name, _ in self.headers)

    def scope(self) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 51234),
            "scheme": "http",
            "root_path": "",
            "method": self.method,
            "path": "/api/chat",
            "raw_path": b"/api/chat",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in self.headers],
            "state": {},
        }

    def messages(self) -> list[Message]:
        starts = range(0, max(len(self.body), 1), CHUNK_BYTES)
        return [
            {
                "type": "http.request",
                "body": self.body[start : start + CHUNK_BYTES],
                "more_body": start != starts[-1],
            }
            for start in starts
        ]

    def environ(self) -> Environ:
        environ: Environ = {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": "/api/chat",
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(self.body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.headers:
            key = name.upper().replace("-", "_")
            environ[key if key.startswith("CONTENT_") else f"HTTP_{key}"] = value
        return environ


def chat(size: int, words: int, *, session_id: str | None = SESSION_ID) -> bytes:
    """
    Return a chat as a browser's JSON.stringify() writes it.

    Args:
        size: About how long it is, in bytes.
        words: How many words a message has, on average.
        session_id: The session ID in it, if any: its last field, as in PostHog's guide.
    """
    chance = random.Random(size)
    vocabulary = (
        *("the", "replay", "shows", "that", "café", "orders", "were", "“lost”", "when", "a"),
        *("user", "clicked", "twice", "on", "pay", "so", "we", "retry", "once", "and", "log"),
        *("it", "as", '"duplicate"', "with", "the", "cart", "total", "and", "then\nmove", "on"),
    )

    def message(number: int) -> dict[str, Any]:
        text = " ".join(chance.choices(vocabulary, k=chance.randint(1, 2 * words - 1)))
        return {
            "id": f"msg_{number:08d}",
            "role": "assistant" if number % 2 else "user",
            "createdAt": 1795389225345 + 4000 * number,
            "content": [{"type": "text", "text": text}],
            "usage": {"tokens": 2 * words, "latencyMs": round(900 * chance.random(), 3)},
            "edited": chance.random() < 0.1,
            "feedback": None,
            "tags": ["billing", "eu"],
        }

    body: dict[str, Any] = {
        "conversationId": "01a20589-9c11-7e0e-8b52-c1a5a3b7e9d4",
        "model": "large-2",
        "temperature": 0.7,
        "stream": True,
        "messages": [],
        "message": "hi",
    }
    if session_id is not None:
        body["sessionId"] = session_id
    for number in itertools.count():
        encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        if len(encoded) >= size:
            return encoded
        body["messages"].append(message(number))
    raise AssertionError


HIT_GET = Request("header, GET", headers(traced=True))


def posted(name: str, body: bytes, *, traced: bool = False, **kwargs: Any) -> Request:
    return Request(name, headers(traced=traced, content_length=len(body)), body, **kwargs)


HIT_POST = posted("header, POST of 67 bytes", b'{"message":"%s"}' % (b"x" * 53), traced=True)


def other_requests() -> list[Request]:
    """
    Return what the middlewares of peers have no answer to.
    """
    return [
        posted("header, POST of 64 KiB", chat(64 * 1024, 12), traced=True),
        Request("cookie, GET", headers(cookie=f"theme=dark; {posthog_cookie()}; cart=17")),
        Request("nothing, GET", headers(cookie="theme=dark; cart=17"), session_id=None),
        posted(
            "nothing, POST of 1 KiB of JSON",
            chat(1024, 12, session_id=None),
            session_id=None,
        ),
    ]

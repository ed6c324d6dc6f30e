"""
What a request shall do, and what its lines must then carry.

A plan is written into the request by the client and followed by the apps; its number
stands in the path and on every line, so that each line can be checked by itself. No two
requests have an ID in common.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import parse_qsl, quote, urlencode

Line: TypeAlias = dict[str, Any]
Protocol: TypeAlias = Literal["asgi", "wsgi"]

NUMBER: Final = re.compile(r"request-(\d+)")
"""Where the number stands: in a path, and in what a failing app says."""

LARGE: Final = 200_000
"""A body that uvicorn does not read in one go, and that is still read ahead."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """
    The part of a plan that the app follows.

    Args:
        read: Whether the app reads the body.
        identify: Whether it says in a thread who the user is.
        thread: Whether it logs in a thread.
        background: Whether it leaves work behind that logs after the response.
        chunks: How many chunks it streams; 0 for a response in one piece.
        chunk_bytes: How large each of them is.
        fails: Whether it raises before the response, or in it after all chunks; "knotted"
            is before the response, by an error that its own traceback keeps alive.
    """

    read: bool = False
    identify: bool = False
    thread: bool = False
    background: bool = False
    chunks: int = 0
    chunk_bytes: int = 10
    fails: Literal["", "early", "knotted", "late"] = ""

    @classmethod
    def parse(cls, query_string: str) -> Steps:
        given = dict(parse_qsl(query_string))
        return cls(
            read="read" in given,
            identify="identify" in given,
            thread="thread" in given,
            background="background" in given,
            chunks=int(given.get("chunks", 0)),
            chunk_bytes=int(given.get("chunk_bytes", 10)),
            fails=given.get("fails", ""),  # type: ignore[arg-type]
        )

    def query_string(self) -> str:
        return urlencode(
            {name: value if value is not True else 1 for name, value in vars(self).items() if value}
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    One request.

    Args:
        number: What tells it from all others.
        path: What is asked for, of an app that has more than one thing.
        session: Where its session ID stands, if anywhere.
        claims_user: Whether a header names its user.
        body_bytes: How long its JSON body is, about; 0 for none.
        chunked: Whether the body is sent in chunks.
        slow: Whether the body is sent in two parts, both too large for uvicorn.
        hangs_up: Whether the client goes away in the body or in the response.
    """

    number: int
    path: str = "/"
    session: Literal["", "header", "cookie", "body"] = "header"
    claims_user: bool = True
    body_bytes: int = 0
    chunked: bool = False
    slow: bool = False
    hangs_up: Literal["", "body", "response"] = ""
    steps: Steps = field(default_factory=Steps)

    @property
    def target(self) -> str:
        return f"{self.path}request-{self.number}?{self.steps.query_string()}"

    @property
    def headers(self) -> dict[str, str]:
        headers = {}
        if self.session == "header":
            headers["X-PostHog-Session-ID"] = f"session-{self.number}"
        elif self.session == "cookie":
            now = int(time.time() * 1000)
            state = {"distinct_id": "anonymous", "$sesid": [now, f"session-{self.number}", now]}
            headers["Cookie"] = f"ph_phc_abc_posthog={quote(json.dumps(state))}"
        if self.claims_user:
            headers["X-User"] = f"claimed-{self.number}"
        return headers

    @property
    def body(self) -> bytes | None:
        if not self.body_bytes and self.session != "body":
            return None
        fields = {"padding": "x" * self.body_bytes}
        if self.session == "body":
            fields["sessionId"] = f"session-{self.number}"
        return json.dumps(fields).encode()

    @property
    def session_id(self) -> str | None:
        cut_off = self.session == "body" and self.hangs_up == "body"
        return f"session-{self.number}" if self.session and not cut_off else None

    @property
    def user_id(self) -> str | None:
        """
        The user, as known in the end.
        """
        return f"user-{self.number}" if self.steps.identify else self.claimed_user_id

    @property
    def claimed_user_id(self) -> str | None:
        return f"claimed-{self.number}" if self.claims_user else None

    def ids(self, event: str) -> dict[str, str]:
        """
        Return the IDs that the line *event* must have.
        """
        if event == "around":
            return {}
        known_late = event not in ("start", "read")
        ids = {
            "sessionId": self.session_id,
            "posthogDistinctId": self.user_id if known_late else self.claimed_user_id,
        }
        return {key: value for key, value in ids.items() if value is not None}

    def events(self, protocol: Protocol) -> Counter[str]:
        """
        Return the lines that there must be, if nobody hangs up.
        """
        steps = self.steps
        events = Counter(["around", "start"])
        for step in ("read", "identify", "thread", "background"):
            events[step] += getattr(steps, step)
        if steps.fails in ("early", "knotted"):
            events["failed, around"] += 1
            return +events
        events["respond"] += 1
        events["chunk"] += steps.chunks
        if protocol == "wsgi":
            # A list, which is what a response in one piece is, has no close().
            events["after"] += steps.chunks > 0
        elif steps.fails == "late":
            events["failed, around"] += 1
        else:
            events["after"] += 1
        return +events

    def faults(self, lines: list[Line], protocol: Protocol) -> list[str]:
        """
        Return what is wrong with the *lines* that have this plan's number.
        """
        faults = []
        for line in lines:
            allowed = self._allowed(line["event"])
            if ids_of(line) not in allowed:
                faults.append(f"{line}: has not {allowed[0]}")
            if not self._is_right_in_stock_set_up(line):
                faults.append(f"{line}: wrong without add_identity")
        if not self.hangs_up:
            wanted = self.events(protocol)
            seen = Counter(line["event"] for line in lines if line["event"] in OWN_EVENTS)
            if seen != wanted:
                faults.append(f"{self}: logged {dict(seen)} and not {dict(wanted)}")
        return faults

    def _allowed(self, event: str) -> list[dict[str, str]]:
        allowed = [self.ids(event)]
        if event not in OWN_EVENTS:
            # What the server logs outside of the request has no IDs at all.
            allowed.append({})
        if self.hangs_up and event != "around" and event not in STEPS:
            # The app may have failed before it could say who the user is.
            allowed.append(self.ids("start"))
        return allowed

    def _is_right_in_stock_set_up(self, line: Line) -> bool:
        if "stock" not in line:
            return True
        session_id, user_id = line["stock"]
        if line["event"] == "around":
            return session_id is None and user_id is None
        if line["event"] == "failed, around" and session_id is None and user_id is None:
            # Nothing tells structlog's own keys when handlers around are through.
            return True
        if self.steps.identify:
            # Known late, and in another context: merge_contextvars need not see it.
            users = {None, self.claimed_user_id, self.user_id}
        else:
            users = {self.user_id}
        return session_id == self.session_id and user_id in users


STEPS: Final = frozenset(
    {
        "start",
        "read",
        "identify",
        "thread",
        "background",
        "respond",
        "chunk",
        "after",
    }
)
"""What the apps log."""

OWN_EVENTS: Final = STEPS | {"around", "failed, around"}
"""What they and the layers around log; all other lines are the servers' own."""


def ids_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the IDs that a line has.
    """
    return {key: line[key] for key in ("sessionId", "posthogDistinctId") if key in line}

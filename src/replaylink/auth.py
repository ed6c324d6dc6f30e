"""
Where the ID of the authenticated user may stand.

Sources for the option ``user_id`` of the middlewares. None of them loads a user or
touches a database, and what they look at was verified by the app's authentication, or
is verified here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ._ids import NOT_THERE, Absent, Accept, Found, as_text
from ._types import Environ, Scope
from .sources import FindInEnviron, FindInScope, Source

__all__ = ["authenticated_user", "bearer_jwt", "session_user"]

ID_ATTRIBUTES: Final = ("id", "pk", "user_id", "sub", "identity")
"""
The attributes, or the keys of a mapping, under which users keep their ID.

No e-mail address and no name among them: what is logged should not name a person.
"""

UNUSABLE: Final = Absent("no usable ID")


class authenticated_user(Source):
    """
    The user that the app's authentication found, looked for at each line until known.

    Looks at ``scope["user"]`` (Starlette, FastAPI, Litestar), ``REMOTE_USER`` (servers
    and proxies), and the user that Flask-Login has already loaded.

    Args:
        attributes: The attributes, or the keys of a mapping, to try in turn for the ID;
            by default `ID_ATTRIBUTES`.

    Raises:
        TypeError: If an attribute is not a string.
    """

    __slots__ = ("attributes",)
    late = True

    def __init__(self, *attributes: str) -> None:
        for attribute in attributes:
            if not isinstance(attribute, str):
                msg = f"authenticated_user({attribute!r}): an attribute must be a str"
                raise TypeError(msg)
        self.attributes = attributes or ID_ATTRIBUTES

    def __repr__(self) -> str:
        given = () if self.attributes == ID_ATTRIBUTES else self.attributes
        return f"authenticated_user({', '.join(map(repr, given))})"

    def in_scope(self, accept: Accept) -> FindInScope:
        def find(scope: Scope) -> Found:
            user = scope.get("user")
            return NOT_THERE if user is None else self._id_of(user, accept)

        return find

    def in_environ(self, accept: Accept) -> FindInEnviron:
        def find(environ: Environ) -> Found:
            remote_user = environ.get("REMOTE_USER")
            if remote_user:
                return _accepted(remote_user, accept)
            user = _flask_login_user()
            return NOT_THERE if user is None else self._id_of(user, accept)

        return find

    def _id_of(self, user: object, accept: Accept) -> Found:
        try:
            return _accepted(_id_of(user, self.attributes), accept)
        # A user is any object of the app's: its attributes may be properties that fail.
        except Exception:
            return UNUSABLE


def _accepted(value: object, accept: Accept) -> Found:
    try:
        text = as_text(value)
    except TypeError:
        return UNUSABLE
    return NOT_THERE if text is None else accept(text)


def _id_of(user: object, attributes: Sequence[str]) -> object:
    user = _evaluated(user)
    try:
        return as_text(user)
    except TypeError:
        pass
    if isinstance(user, Mapping):
        return next((user[name] for name in attributes if user.get(name) is not None), None)
    own = vars(user) if hasattr(user, "__dict__") else {}
    state = own.get("_sa_instance_state")
    if state is not None:
        # SQLAlchemy loads an expired attribute as it is read, the ones behind
        # is_authenticated too. Its state tells the primary key without.
        value = next((own[name] for name in attributes if name in own), None)
        if value is None and attributes is ID_ATTRIBUTES and len(state.identity or ()) == 1:
            return state.identity[0]
        return value
    if not _is_authenticated(user):
        return None
    for name in attributes:
        try:
            value = getattr(user, name, None)
        # Starlette's BaseUser has an identity that is not implemented.
        except NotImplementedError:
            continue
        if value is not None:
            return value
    get_id = getattr(user, "get_id", None)
    return get_id() if callable(get_id) else None


def _evaluated(user: object) -> object:
    # Django's lazy users load themselves at the first touch. What they wrap is in their
    # own __dict__: a bare object(), with no ID, until then.
    try:
        own = object.__getattribute__(user, "__dict__")
    except AttributeError:
        return user
    return own.get("_wrapped", user)


def _is_authenticated(user: object) -> bool:
    authenticated = getattr(user, "is_authenticated", True)
    return bool(authenticated() if callable(authenticated) else authenticated)


def _flask_login_user() -> object:
    # An app that has not imported Flask-Login has no user of it.
    if "flask_login" not in sys.modules:
        return None
    flask = sys.modules["flask"]
    return flask.g.get("_login_user") if flask.has_app_context() else None


class session_user(Source):
    """
    A user ID in the session that the app's framework signs or keeps.

    Looks into ``scope["session"]`` (Starlette's and Litestar's session middleware) and
    into Flask's ``session``, at each line until there is an ID. Only for a key that the
    app sets after authentication.

    Args:
        key: The key under which the app keeps the user's ID.

    Raises:
        TypeError: If the key is not a string.
    """

    __slots__ = ("key",)
    late = True

    def __init__(self, key: str) -> None:
        if not isinstance(key, str):
            msg = f"session_user({key!r}): the key must be a str"
            raise TypeError(msg)
        self.key = key

    def __repr__(self) -> str:
        return f"session_user({self.key!r})"

    def in_scope(self, accept: Accept) -> FindInScope:
        def find(scope: Scope) -> Found:
            return self._find(scope.get("session"), accept)

        return find

    def in_environ(self, accept: Accept) -> FindInEnviron:
        def find(environ: Environ) -> Found:
            return self._find(_flask_session(), accept)

        return find

    def _find(self, session: object, accept: Accept) -> Found:
        # Read as a plain dict: Flask's own get() marks the session as accessed.
        if not isinstance(session, dict):
            return NOT_THERE
        return _accepted(dict.get(session, self.key), accept)


def _flask_session() -> object:
    flask = sys.modules.get("flask")
    if flask is None or not flask.has_request_context():
        return None
    # Not by flask.session: that marks the session as accessed, which adds "Vary: Cookie"
    # to the response. The attribute got its underscore in Flask 3.1.3.
    context = vars(flask.globals.request_ctx._get_current_object())
    return context.get("_session") or context.get("session")


class bearer_jwt(Source):
    """
    A claim of the JSON Web Token in ``Authorization: Bearer ...``.

    Signature, expiry and "not before" are verified, and the audience and issuer that are
    given here; a token that says an audience needs *audience*. An unverifiable token
    means no user, never an error: refusing it is the app's business.

    Needs the extra ``jwt``: ``pip install "replaylink[jwt]"``.

    Args:
        key: The key to verify with (PEM text for RSA and elliptic curves, the secret for
            HMAC), or the issuer's JWKS document as a dict.
        algorithms: The algorithms to allow, such as ``["RS256"]``.
        claim: The claim that holds the user ID.
        audience: Who the token must be for.
        issuer: Who the token must be from.
        leeway: How far clocks may differ, in seconds.

    Raises:
        ImportError: If PyJWT is not installed.
        TypeError: If *algorithms* is a single string.
        ValueError: If *algorithms* is empty, or contains ``none`` or one that PyJWT does not
            know; if *key* fits none of them, or the JWKS document holds no usable key.

    See Also:
        https://www.rfc-editor.org/rfc/rfc7519
    """

    __slots__ = ("_decode", "claim")

    def __init__(
        self,
        key: Any,
        *,
        algorithms: Sequence[str],
        claim: str = "sub",
        audience: str | Sequence[str] | None = None,
        issuer: str | Sequence[str] | None = None,
        leeway: float = 0,
    ) -> None:
        try:
            import jwt
        except ImportError as exc:
            msg = 'bearer_jwt() needs PyJWT: pip install "replaylink[jwt]"'
            raise ImportError(msg) from exc
        if isinstance(algorithms, str):
            msg = f"algorithms={algorithms!r}: must be a list of names, such as [{algorithms!r}]"
            raise TypeError(msg)
        if not algorithms or "none" in (name.lower() for name in algorithms):
            msg = (
                f"algorithms={algorithms!r}: name the algorithms that the issuer signs with, "
                "such as ['RS256']; 'none' would accept forged tokens"
            )
            raise ValueError(msg)
        _check_algorithms(key, algorithms)
        self.claim = claim
        choose = _key_chooser(key)

        def decode(token: str) -> dict[str, Any]:
            claims: dict[str, Any] = jwt.decode(
                token,
                choose(token),
                algorithms=list(algorithms),
                audience=audience,
                issuer=issuer,
                leeway=leeway,
                # PyJWT refuses a "sub" that is a number; to us a number is an ID.
                options={"verify_sub": False},
            )
            return claims

        self._decode = decode

    def __repr__(self) -> str:
        return f"bearer_jwt(claim={self.claim!r})"

    def _find(self, authorization: str, accept: Accept) -> Found:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return NOT_THERE
        try:
            return _accepted(self._decode(token.strip()).get(self.claim), accept)
        # Any error means an unverifiable token: PyJWT's own, those of a key that does
        # not fit the algorithm, those of a header that is no JSON.
        except Exception as exc:
            return Absent(f"no verifiable token: {type(exc).__name__}")

    def in_scope(self, accept: Accept) -> FindInScope:
        def find(scope: Scope) -> Found:
            for name, value in scope.get("headers", ()):
                if name == b"authorization":
                    return self._find(value.decode("latin-1"), accept)
            return NOT_THERE

        return find

    def in_environ(self, accept: Accept) -> FindInEnviron:
        def find(environ: Environ) -> Found:
            authorization = environ.get("HTTP_AUTHORIZATION")
            return NOT_THERE if authorization is None else self._find(authorization, accept)

        return find


def _check_algorithms(key: Any, algorithms: Sequence[str]) -> None:
    import jwt

    known = jwt.algorithms.get_default_algorithms()
    for name in algorithms:
        if name in jwt.algorithms.requires_cryptography and name not in known:
            msg = f"{name} needs the package cryptography: pip install cryptography"
            raise ImportError(msg)
        if name not in known:
            msg = f"algorithms={algorithms!r}: PyJWT knows no {name!r}, but {', '.join(known)}"
            raise ValueError(msg)
    # Of other kinds of keys, PyJWT knows best what they are for.
    if not isinstance(key, (str, bytes)):
        return
    problems = []
    for name in algorithms:
        try:
            known[name].prepare_key(key)
        except (jwt.PyJWTError, ValueError, TypeError) as exc:
            problems.append(f"{name}: {exc}")
    if len(problems) == len(algorithms):
        msg = f"the key fits none of the algorithms: {'; '.join(problems)}"
        raise ValueError(msg)


def _key_chooser(key: Any) -> Callable[[str], Any]:
    if not isinstance(key, Mapping):
        return lambda token: key

    import jwt

    try:
        keys = jwt.PyJWKSet.from_dict(dict(key)).keys
    except (jwt.PyJWTError, AttributeError, TypeError) as exc:
        msg = f"key: not a JWKS document with a usable key: {exc}"
        raise ValueError(msg) from exc

    def choose(token: str) -> Any:
        # A token names its key by "kid"; one that does not may use the only key.
        kid = jwt.get_unverified_header(token).get("kid")
        if kid is None and len(keys) == 1:
            return keys[0]
        return next(candidate for candidate in keys if candidate.key_id == kid)

    return choose

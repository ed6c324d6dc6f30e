from __future__ import annotations

import json
import sys
import time
from collections import UserDict
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from replaylink._ids import Absent, accept_user_id
from replaylink.auth import authenticated_user, bearer_jwt, session_user
from replaylink.sources import Source
from tests.helpers import SESSION, USER, Raw, http_environ, http_scope


def in_scope(source: Source, **more: Any) -> str | None:
    found = source.in_scope(accept_user_id)(http_scope(**more))
    return None if isinstance(found, Absent) else found


def in_environ(source: Source, **more: Any) -> str | None:
    found = source.in_environ(accept_user_id)(http_environ(**more))
    return None if isinstance(found, Absent) else found


class StarletteUser:
    """As `starlette.authentication.BaseUser`: an identity that is not implemented."""

    is_authenticated = True
    display_name = "Ann"

    @property
    def identity(self) -> str:
        raise NotImplementedError

    def get_id(self) -> str:
        return "from-get-id"


class Failing:
    @property
    def id(self) -> str:
        message = "the database is gone"
        raise ConnectionError(message)


class Slots:
    __slots__ = ("pk",)

    def __init__(self, pk: int) -> None:
        self.pk = pk


class Lazy:
    """As Django's lazy objects: what they wrap is loaded at the first touch."""

    def __init__(self, wrapped: object) -> None:
        object.__setattr__(self, "_wrapped", wrapped)

    def __getattribute__(self, name: str) -> Any:
        message = f"{name} was touched"
        raise AssertionError(message)


class Row:
    """As a row of SQLAlchemy: an expired attribute is loaded from the database."""

    def __init__(self, identity: tuple[object, ...] | None, **loaded: object) -> None:
        self._sa_instance_state = SimpleNamespace(identity=identity)
        self.__dict__.update(loaded)

    def __getattr__(self, name: str) -> Any:
        message = f"{name} was loaded"
        raise AssertionError(message)

    @property
    def is_authenticated(self) -> bool:
        message = "is_authenticated was asked"
        raise AssertionError(message)


USERS = [
    pytest.param("ann", "ann", id="text"),
    pytest.param(7, "7", id="int"),
    pytest.param(UUID(SESSION), SESSION, id="uuid"),
    pytest.param(None, None, id="none"),
    pytest.param("", None, id="empty"),
    pytest.param("undefined", None, id="no-id"),
    pytest.param(SimpleNamespace(id=0), "0", id="zero"),
    pytest.param(SimpleNamespace(id=7), "7", id="id"),
    pytest.param(SimpleNamespace(pk=7), "7", id="pk"),
    pytest.param(SimpleNamespace(user_id=7), "7", id="user_id"),
    pytest.param(SimpleNamespace(sub="auth0|7"), "auth0|7", id="sub"),
    pytest.param(SimpleNamespace(identity="7"), "7", id="identity"),
    pytest.param(SimpleNamespace(id=1, pk=2, sub=3), "1", id="order"),
    pytest.param(SimpleNamespace(id=None, sub="x"), "x", id="none-is-passed-over"),
    pytest.param({"id": None, "sub": "x"}, "x", id="mapping"),
    pytest.param({"id": 0}, "0", id="mapping-zero"),
    pytest.param(UserDict(sub="x"), "x", id="another-mapping"),
    pytest.param({}, None, id="mapping-empty"),
    pytest.param(SimpleNamespace(email="a@b.c", username="ann", name="Ann"), None, id="no-names"),
    pytest.param({"email": "a@b.c", "username": "ann", "name": "Ann"}, None, id="no-names-either"),
    pytest.param(SimpleNamespace(id=["x"]), None, id="another-type"),
    pytest.param(SimpleNamespace(id=True), None, id="bool"),
    pytest.param(SimpleNamespace(id=b"x"), None, id="bytes"),
    pytest.param(object(), None, id="any-object"),
    pytest.param(Slots(7), "7", id="slots"),
    pytest.param(Failing(), None, id="failing"),
    pytest.param(StarletteUser(), "from-get-id", id="starlette"),
    pytest.param(SimpleNamespace(is_authenticated=False, id=7), None, id="anonymous"),
    pytest.param(SimpleNamespace(is_authenticated=lambda: False, id=7), None, id="asked"),
    pytest.param(SimpleNamespace(is_authenticated=lambda: True, id=7), "7", id="asked-and-known"),
    pytest.param(SimpleNamespace(get_id=lambda: "x"), "x", id="get_id"),
    pytest.param(SimpleNamespace(get_id="x"), None, id="get_id-is-no-method"),
    pytest.param(Lazy(object()), None, id="lazy-not-loaded"),
    pytest.param(Lazy(SimpleNamespace(pk=7)), "7", id="lazy-loaded"),
    pytest.param(Lazy(None), None, id="lazy-nobody"),
    pytest.param(Row((7,), id=8), "8", id="row-loaded"),
    pytest.param(Row((7,)), "7", id="row-expired"),
    pytest.param(Row((1, 7)), None, id="row-expired-with-two-keys"),
    pytest.param(Row(None), None, id="row-never-saved"),
]


@pytest.mark.parametrize(("user", "expected"), USERS)
def test_user_of_the_scope(user: object, expected: str | None) -> None:
    """The ID of the authenticated user is found, and nothing is loaded for it."""
    actual = in_scope(authenticated_user(), user=user)

    assert expected == actual


def test_no_user_in_the_scope() -> None:
    """Without authentication there is no user."""
    assert in_scope(authenticated_user()) is None


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        pytest.param(SimpleNamespace(id=1, email="a@b.c"), "a@b.c", id="attribute"),
        pytest.param({"id": 1, "email": "a@b.c"}, "a@b.c", id="key"),
        pytest.param(SimpleNamespace(uid=7), "7", id="second"),
        pytest.param(SimpleNamespace(id=1), None, id="no-other"),
        pytest.param(Row((7,), email="a@b.c"), "a@b.c", id="row"),
        pytest.param(Row((7,)), None, id="row-expired"),
    ],
)
def test_other_attributes(user: object, expected: str | None) -> None:
    """Other attributes count when they are asked for, and then no default one does."""
    actual = in_scope(authenticated_user("email", "uid"), user=user)

    assert expected == actual


@pytest.mark.parametrize(
    ("remote_user", "expected"),
    [
        pytest.param("ann", "ann", id="there"),
        pytest.param("", None, id="empty"),
        pytest.param(" ", None, id="space"),
        pytest.param("null", None, id="no-id"),
    ],
)
def test_remote_user(remote_user: str, expected: str | None) -> None:
    """The user that a server or a proxy authenticated is found."""
    actual = in_environ(authenticated_user(), REMOTE_USER=remote_user)

    assert expected == actual


def test_no_user_in_the_environ() -> None:
    """Without authentication there is no user."""
    assert in_environ(authenticated_user()) is None


@contextmanager
def flask(
    monkeypatch: pytest.MonkeyPatch, *, user: object = None, session: object = None, login: bool
) -> Iterator[None]:
    """
    Stand in for Flask and Flask-Login, which the core's tests do not need installed.
    """
    module: Any = ModuleType("flask")
    module.g = {} if user is None else {"_login_user": user}
    module.has_app_context = lambda: user is not None
    module.has_request_context = lambda: session is not None
    context = SimpleNamespace(_session=session)
    module.globals = SimpleNamespace(
        request_ctx=SimpleNamespace(_get_current_object=lambda: context)
    )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "flask", module)
        if login:
            patch.setitem(sys.modules, "flask_login", ModuleType("flask_login"))
        else:
            patch.delitem(sys.modules, "flask_login", raising=False)
        yield


def test_user_of_flask_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user that Flask-Login has loaded is found, after REMOTE_USER."""
    user = SimpleNamespace(is_authenticated=True, get_id=lambda: USER)
    with flask(monkeypatch, user=user, login=True):
        assert USER == in_environ(authenticated_user())
        assert "ann" == in_environ(authenticated_user(), REMOTE_USER="ann")


def test_no_user_of_flask_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a Flask request, or without Flask-Login, there is no user."""
    with flask(monkeypatch, login=True):
        assert in_environ(authenticated_user()) is None
    with flask(monkeypatch, user=SimpleNamespace(id=USER), login=False):
        assert in_environ(authenticated_user()) is None


@pytest.mark.parametrize(
    ("session", "expected"),
    [
        pytest.param({"user": USER}, USER, id="text"),
        pytest.param({"user": 7}, "7", id="int"),
        pytest.param({"user": None}, None, id="none"),
        pytest.param({"user": ["x"]}, None, id="another-type"),
        pytest.param({"other": USER}, None, id="another-key"),
        pytest.param({}, None, id="empty"),
        pytest.param(["user"], None, id="no-dict"),
    ],
)
def test_session_user(
    monkeypatch: pytest.MonkeyPatch, session: object, expected: str | None
) -> None:
    """A user ID in the framework's session is found."""
    assert expected == in_scope(session_user("user"), session=session)
    with flask(monkeypatch, session=session, login=False):
        assert expected == in_environ(session_user("user"))


def test_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a session there is no user, with Flask or without."""
    assert in_scope(session_user("user")) is None
    with flask(monkeypatch, login=False):
        assert in_environ(session_user("user")) is None
    monkeypatch.delitem(sys.modules, "flask", raising=False)
    assert in_environ(session_user("user")) is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(authenticated_user(), "authenticated_user()", id="user"),
        pytest.param(authenticated_user("email"), "authenticated_user('email')", id="attribute"),
        pytest.param(session_user("uid"), "session_user('uid')", id="session"),
    ],
)
def test_sources_show_how_they_are_made(source: Source, expected: str) -> None:
    """A debugger shows a source as it is written."""
    assert expected == repr(source)


def test_attributes_must_be_text() -> None:
    """An attribute of another type is refused."""
    with pytest.raises(TypeError, match=r"authenticated_user\(7\): an attribute must be a str"):
        authenticated_user("id", 7)  # type: ignore[arg-type]


def test_session_key_must_be_text() -> None:
    """A session's key of another type is refused."""
    with pytest.raises(TypeError, match=r"session_user\(None\): the key must be a str"):
        session_user(None)  # type: ignore[arg-type]


def test_bearer_jwt_without_pyjwt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyJWT the error names the feature, the package and the command."""
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ImportError) as caught:
        bearer_jwt("secret", algorithms=["HS256"])

    assert 'bearer_jwt() needs PyJWT: pip install "replaylink[jwt]"' == str(caught.value)


SECRET = "a secret that is long enough for HMAC with SHA-512, as PyJWT wants it to be"


@pytest.fixture
def jwt() -> Any:
    """PyJWT, which is an extra."""
    return pytest.importorskip("jwt")


def bearing(source: Source, authorization: str) -> str | None:
    """
    Return the user of a request with that header, the same in both protocols.
    """
    request = Raw([(b"host", b"test"), (b"authorization", authorization.encode("latin-1"))])
    found = in_scope(source, headers=request.all_headers)
    assert found == in_environ(source, HTTP_AUTHORIZATION=authorization)
    return found


def test_bearer_jwt(jwt: Any) -> None:
    """The subject of a verified token is the user."""
    source = bearer_jwt(SECRET, algorithms=["HS256"])
    token = jwt.encode({"sub": USER, "exp": time.time() + 60}, SECRET, algorithm="HS256")

    assert USER == bearing(source, f"Bearer {token}")
    assert USER == bearing(source, f"bearer  {token} ")


def test_bearer_jwt_without_a_header(jwt: Any) -> None:
    """A request without the header, or with another scheme, has no user."""
    source = bearer_jwt(SECRET, algorithms=["HS256"])
    token = jwt.encode({"sub": USER}, SECRET, algorithm="HS256")

    assert in_scope(source) is None
    assert in_environ(source) is None
    assert bearing(source, f"Basic {token}") is None
    assert bearing(source, token) is None


@pytest.mark.parametrize(
    ("claims", "options"),
    [
        pytest.param({"exp": 1}, {}, id="expired"),
        pytest.param({"nbf": 2**40}, {}, id="not-yet"),
        pytest.param({"aud": "us"}, {}, id="audience-not-expected"),
        pytest.param({"aud": "them"}, {"audience": "us"}, id="another-audience"),
        pytest.param({}, {"audience": "us"}, id="no-audience"),
        pytest.param({"iss": "them"}, {"issuer": "us"}, id="another-issuer"),
        pytest.param({}, {"issuer": "us"}, id="no-issuer"),
        pytest.param({}, {"claim": "uid"}, id="no-such-claim"),
        pytest.param({"uid": ["x"]}, {"claim": "uid"}, id="claim-of-another-type"),
        pytest.param({"uid": "undefined"}, {"claim": "uid"}, id="claim-that-is-no-id"),
    ],
)
def test_unverifiable_tokens(jwt: Any, claims: dict[str, Any], options: dict[str, Any]) -> None:
    """A token that does not hold for us has no user, and no error either."""
    source = bearer_jwt(SECRET, algorithms=["HS256"], **options)
    token = jwt.encode({"sub": USER, **claims}, SECRET, algorithm="HS256")

    assert bearing(source, f"Bearer {token}") is None


def test_verified_claims(jwt: Any) -> None:
    """Audience, issuer, leeway and another claim are taken into account."""
    source = bearer_jwt(
        SECRET, algorithms=["HS256"], claim="uid", audience=["us"], issuer="me", leeway=60
    )
    claims = {"uid": 7, "aud": "us", "iss": "me", "exp": time.time() - 30}
    token = jwt.encode(claims, SECRET, algorithm="HS256")

    assert "7" == bearing(source, f"Bearer {token}")


def test_forged_tokens(jwt: Any) -> None:
    """A token signed by another key, another algorithm or nobody has no user."""
    source = bearer_jwt(SECRET, algorithms=["HS256"])
    other_key = jwt.encode({"sub": USER}, SECRET[::-1], algorithm="HS256")
    other_algorithm = jwt.encode({"sub": USER}, SECRET, algorithm="HS512")
    unsigned = jwt.encode({"sub": USER}, None, algorithm="none")
    cut = jwt.encode({"sub": USER}, SECRET, algorithm="HS256").rpartition(".")[0] + "."

    for token in (other_key, other_algorithm, unsigned, cut):
        assert bearing(source, f"Bearer {token}") is None


@pytest.mark.parametrize(
    "token",
    ["", "x", "a.b.c", "....", "e30.e30.e30", "\xff.\xfe.\xfd", "bnVsbA.bnVsbA.", "a" * 10**6],
)
def test_broken_tokens(jwt: Any, token: str) -> None:
    """What is no token has no user."""
    source = bearer_jwt(SECRET, algorithms=["HS256"])
    jwks = bearer_jwt({"keys": [octets("a")]}, algorithms=["HS256"])

    assert bearing(source, f"Bearer {token}") is None
    assert bearing(jwks, f"Bearer {token}") is None


def octets(key_id: str, secret: str = SECRET) -> dict[str, str]:
    """
    Return a symmetric key as a JSON Web Key.
    """
    import base64

    value = base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
    return {"kty": "oct", "kid": key_id, "k": value, "alg": "HS256"}


def test_jwks(jwt: Any) -> None:
    """Of a JWKS document the key that the token names verifies it."""
    document = {"keys": [octets("a"), octets("b", SECRET[::-1])]}
    source = bearer_jwt(document, algorithms=["HS256"])

    def signed(secret: str, **headers: str) -> str | None:
        token = jwt.encode({"sub": USER}, secret, algorithm="HS256", headers=headers)
        return bearing(source, f"Bearer {token}")

    assert USER == signed(SECRET, kid="a")
    assert USER == signed(SECRET[::-1], kid="b")
    assert signed(SECRET, kid="b") is None
    assert signed(SECRET, kid="c") is None
    assert signed(SECRET) is None


def test_jwks_of_one_key(jwt: Any) -> None:
    """A token that names no key is verified by the only one there is."""
    source = bearer_jwt({"keys": [octets("a")]}, algorithms=["HS256"])
    token = jwt.encode({"sub": USER}, SECRET, algorithm="HS256")

    assert USER == bearing(source, f"Bearer {token}")


def test_rsa_keys(jwt: Any) -> None:
    """A public key verifies, as PEM text or as a JWKS document."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key()))
    token = jwt.encode({"sub": USER}, private, algorithm="RS256")

    assert USER == bearing(bearer_jwt(public, algorithms=["RS256"]), f"Bearer {token}")
    assert USER == bearing(bearer_jwt({"keys": [jwk]}, algorithms=["RS256"]), f"Bearer {token}")
    assert USER == bearing(bearer_jwt(public, algorithms=["ES256", "RS256"]), f"Bearer {token}")
    # The public key used as a secret is the oldest forgery of all.
    with pytest.raises(ValueError, match="the key fits none of the algorithms: HS256: "):
        bearer_jwt(public, algorithms=["HS256"])


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({}, id="empty"),
        pytest.param({"keys": []}, id="no-key"),
        pytest.param({"keys": "x"}, id="text"),
        pytest.param({"keys": [{"kty": "x"}]}, id="unknown-type"),
        pytest.param({"keys": None}, id="none"),
    ],
)
def test_unusable_jwks(jwt: Any, document: dict[str, Any]) -> None:
    """A JWKS document without a usable key is refused as the app starts."""
    with pytest.raises(ValueError, match="key: not a JWKS document with a usable key"):
        bearer_jwt(document, algorithms=["RS256"])


def test_algorithms_must_be_a_list(jwt: Any) -> None:
    """A single name would be read as its letters, and is refused."""
    with pytest.raises(TypeError, match=r"algorithms='HS256': must be a list .* \['HS256'\]"):
        bearer_jwt(SECRET, algorithms="HS256")


@pytest.mark.parametrize("algorithms", [[], ["none"], ["HS256", "None"]], ids=str)
def test_algorithms_must_verify(jwt: Any, algorithms: list[str]) -> None:
    """No algorithm, or the one that signs nothing, is refused."""
    with pytest.raises(ValueError, match="name the algorithms that the issuer signs with"):
        bearer_jwt(SECRET, algorithms=algorithms)


@pytest.mark.parametrize(
    ("key", "algorithms", "expected"),
    [
        pytest.param(SECRET, ["HS999"], "PyJWT knows no 'HS999', but .*HS256", id="unknown"),
        pytest.param(SECRET, ["RS256"], "the key fits none of the algorithms: RS256", id="key"),
    ],
)
def test_algorithms_that_cannot_work(
    jwt: Any, key: str, algorithms: list[str], expected: str
) -> None:
    """What could never verify a token is refused as the app starts, and the key is not told."""
    pytest.importorskip("cryptography")
    with pytest.raises(ValueError, match=expected) as caught:
        bearer_jwt(key, algorithms=algorithms)

    assert SECRET not in str(caught.value)


def test_algorithms_without_cryptography(jwt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An algorithm for which a package is missing names it."""
    monkeypatch.setattr(jwt.algorithms, "get_default_algorithms", dict)
    with pytest.raises(ImportError, match="RS256 needs the package cryptography: pip install"):
        bearer_jwt(SECRET, algorithms=["RS256"])


def test_bearer_jwt_never_shows_its_key(jwt: Any) -> None:
    """A debugger shows the claim, and not the secret."""
    assert "bearer_jwt(claim='sub')" == repr(bearer_jwt(SECRET, algorithms=["HS256"]))

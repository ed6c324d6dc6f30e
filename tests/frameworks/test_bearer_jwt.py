from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any

import pytest

pytest.importorskip("jwt")
pytest.importorskip("cryptography")

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from replaylink import asgi, wsgi
from replaylink.auth import authenticated_user, bearer_jwt
from replaylink.sources import header
from tests.conftest import Lines
from tests.frameworks.helpers import (
    HEADERS,
    SESSION_ID,
    USER_ID,
    both,
    log,
    neither,
    same_context_client,
    session_only,
    told,
)

SECRET = "a secret that is long enough for HS256"
OTHER_SECRET = "another secret, as long, for HS256, that signs forgeries"


def pem_pair(key: Any) -> tuple[str, str]:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_PRIVATE, RSA_PUBLIC = pem_pair(RSA_KEY)
OTHER_RSA_PRIVATE, _ = pem_pair(rsa.generate_private_key(public_exponent=65537, key_size=2048))
EC_KEY = ec.generate_private_key(ec.SECP256R1())
EC_PRIVATE, EC_PUBLIC = pem_pair(EC_KEY)


def jwk(key: Any, **fields: str) -> dict[str, str]:
    algorithm: Any = jwt.algorithms.RSAAlgorithm
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = jwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), **fields}


JWKS: dict[str, Any] = {
    "keys": [
        jwk(RSA_KEY, kid="rsa-1", alg="RS256", use="sig"),
        jwk(EC_KEY, kid="ec-1", alg="ES256", use="sig"),
    ]
}
JWKS_OF_ONE: dict[str, Any] = {"keys": [jwk(RSA_KEY, kid="rsa-1", alg="RS256")]}


def token(
    key: str = SECRET,
    algorithm: str = "HS256",
    headers: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    """
    Return a token of the user that is valid for a minute, with *claims* on top.
    """
    payload = {"sub": USER_ID, "exp": time.time() + 60, **claims}
    encoded: str = jwt.encode(
        {name: value for name, value in payload.items() if value is not None},
        key,
        algorithm=algorithm,
        headers=headers,
    )
    return encoded


def by_hand(header: Mapping[str, object], claims: Mapping[str, object], key: bytes) -> str:
    """
    Return a token that no honest library would sign.
    """

    def encoded(data: bytes) -> bytes:
        return urlsafe_b64encode(data).rstrip(b"=")

    head = encoded(json.dumps(header).encode()) + b"." + encoded(json.dumps(claims).encode())
    signature = encoded(hmac.new(key, head, hashlib.sha256).digest()) if key else b""
    return (head + b"." + signature).decode()


CLAIMS = {"sub": USER_ID, "exp": 4_000_000_000}


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    log.info("line")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    log.info("line")
    start_response("200 OK", [])
    return [b"done"]


Ask = Callable[..., None]


def ask_asgi(source: Any, *authorizations: bytes) -> None:
    """
    Make requests with these values of Authorization, all in one context.
    """
    app = asgi.ReplayLinkMiddleware(asgi_app, user_id=source)

    async def send() -> None:
        async with same_context_client(app) as client:
            for value in authorizations:
                headers = [(b"X-PostHog-Session-ID", SESSION_ID.encode())]
                headers += [(b"Authorization", value)] if value else []
                assert "done" == (await client.get("/", headers=headers)).text

    asyncio.run(send())


def ask_wsgi(source: Any, *authorizations: bytes) -> None:
    """
    Make requests with these values of Authorization, all in one thread.
    """
    app = wsgi.ReplayLinkMiddleware(wsgi_app, user_id=source)
    for value in authorizations:
        environ: dict[str, Any] = {"HTTP_X_POSTHOG_SESSION_ID": SESSION_ID}
        if value:
            environ["HTTP_AUTHORIZATION"] = value.decode("latin-1")
        response: Any = app(environ, lambda status, headers, exc_info=None: lambda data: None)
        assert [b"done"] == list(response)
        response.close()


@pytest.fixture(params=[ask_asgi, ask_wsgi], ids=["asgi", "wsgi"])
def ask(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize(
    ("source", "bearer"),
    [
        pytest.param(
            lambda: bearer_jwt(SECRET, algorithms=["HS256"]),
            lambda: token(),
            id="HS256",
        ),
        pytest.param(
            lambda: bearer_jwt(RSA_PUBLIC, algorithms=["RS256"]),
            lambda: token(RSA_PRIVATE, "RS256"),
            id="RS256",
        ),
        pytest.param(
            lambda: bearer_jwt(EC_PUBLIC, algorithms=["ES256"]),
            lambda: token(EC_PRIVATE, "ES256"),
            id="ES256",
        ),
        pytest.param(
            lambda: bearer_jwt(RSA_PUBLIC, algorithms=["RS256", "RS512"]),
            lambda: token(RSA_PRIVATE, "RS512"),
            id="one-of-several-algorithms",
        ),
        pytest.param(
            lambda: bearer_jwt(JWKS, algorithms=["RS256", "ES256"]),
            lambda: token(RSA_PRIVATE, "RS256", {"kid": "rsa-1"}),
            id="JWKS-RS256",
        ),
        pytest.param(
            lambda: bearer_jwt(JWKS, algorithms=["RS256", "ES256"]),
            lambda: token(EC_PRIVATE, "ES256", {"kid": "ec-1"}),
            id="JWKS-ES256",
        ),
        pytest.param(
            lambda: bearer_jwt(JWKS_OF_ONE, algorithms=["RS256"]),
            lambda: token(RSA_PRIVATE, "RS256"),
            id="JWKS-of-one-without-kid",
        ),
        pytest.param(
            lambda: bearer_jwt(SECRET, algorithms=["HS256"], audience="api", issuer="https://i"),
            lambda: token(aud="api", iss="https://i"),
            id="audience-and-issuer",
        ),
        pytest.param(
            lambda: bearer_jwt(SECRET, algorithms=["HS256"], audience=["api", "web"]),
            lambda: token(aud=["web", "other"]),
            id="one-of-several-audiences",
        ),
        pytest.param(
            lambda: bearer_jwt(SECRET, algorithms=["HS256"], claim="uid"),
            lambda: token(sub="another", uid=USER_ID),
            id="another-claim",
        ),
        pytest.param(
            lambda: bearer_jwt(SECRET, algorithms=["HS256"], claim="uid"),
            lambda: token(uid=42),
            id="a-number",
        ),
        pytest.param(
            lambda: bearer_jwt(SECRET, algorithms=["HS256"], leeway=60),
            lambda: token(exp=time.time() - 5),
            id="expired-within-the-leeway",
        ),
    ],
)
def test_a_verified_token_tells_the_user(
    stock_lines: Lines, ask: Ask, source: Callable[[], Any], bearer: Callable[[], str]
) -> None:
    """The claim of a token that verifies is the user ID; the next request has none."""
    ask(source(), b"Bearer " + bearer().encode(), b"bearer  %s " % bearer().encode(), b"")

    assert [*both("line", "line"), *session_only("line")] == told(stock_lines)


HS256 = bearer_jwt(SECRET, algorithms=["HS256"])
RS256 = bearer_jwt(RSA_PUBLIC, algorithms=["RS256"])
FROM_JWKS = bearer_jwt(JWKS, algorithms=["RS256", "ES256"])
STRICT = bearer_jwt(SECRET, algorithms=["HS256"], audience="api", issuer="https://issuer")

BAD_TOKENS: dict[str, tuple[Any, Callable[[], str]]] = {
    "expired": (HS256, lambda: token(exp=time.time() - 5)),
    "not-yet-valid": (HS256, lambda: token(nbf=time.time() + 60)),
    "issued-in-the-future": (HS256, lambda: token(iat=time.time() + 3600)),
    "wrong-audience": (STRICT, lambda: token(aud="web", iss="https://issuer")),
    "no-audience": (STRICT, lambda: token(iss="https://issuer")),
    "audience-not-asked-for": (HS256, lambda: token(aud="api")),
    "wrong-issuer": (STRICT, lambda: token(aud="api", iss="https://other")),
    "no-issuer": (STRICT, lambda: token(aud="api")),
    "wrong-secret": (HS256, lambda: token(OTHER_SECRET)),
    "wrong-key": (RS256, lambda: token(OTHER_RSA_PRIVATE, "RS256")),
    "wrong-algorithm": (RS256, lambda: token(RSA_PRIVATE, "RS512")),
    "algorithm-none": (HS256, lambda: by_hand({"alg": "none"}, CLAIMS, b"")),
    "algorithm-NONE": (HS256, lambda: by_hand({"alg": "NONE"}, CLAIMS, b"")),
    "no-algorithm": (HS256, lambda: by_hand({}, CLAIMS, SECRET.encode())),
    "stripped-signature": (HS256, lambda: token().rpartition(".")[0] + "."),
    "algorithm-confusion": (
        RS256,
        lambda: by_hand({"alg": "HS256"}, CLAIMS, RSA_PUBLIC.encode()),
    ),
    "algorithm-confusion-where-both-are-allowed": (
        bearer_jwt(RSA_PUBLIC, algorithms=["RS256", "HS256"]),
        lambda: by_hand({"alg": "HS256"}, CLAIMS, RSA_PUBLIC.encode()),
    ),
    "algorithm-confusion-with-JWKS": (
        bearer_jwt(JWKS_OF_ONE, algorithms=["RS256", "HS256"]),
        lambda: by_hand({"alg": "HS256", "kid": "rsa-1"}, CLAIMS, RSA_PUBLIC.encode()),
    ),
    "unknown-kid": (FROM_JWKS, lambda: token(RSA_PRIVATE, "RS256", {"kid": "rsa-2"})),
    "no-kid-and-several-keys": (FROM_JWKS, lambda: token(RSA_PRIVATE, "RS256")),
    "kid-of-another-key": (FROM_JWKS, lambda: token(RSA_PRIVATE, "RS256", {"kid": "ec-1"})),
    "kid-that-is-no-text": (
        FROM_JWKS,
        lambda: by_hand({"alg": "RS256", "kid": {"$ne": 1}}, CLAIMS, b"x"),
    ),
    "key-in-the-token": (
        RS256,
        lambda: by_hand(
            {"alg": "HS256", "jwk": {"kty": "oct", "k": "eA"}, "jku": "http://127.0.0.1:9"},
            CLAIMS,
            b"x",
        ),
    ),
    "no-subject": (HS256, lambda: token(sub=None)),
    "empty-subject": (HS256, lambda: token(sub="")),
    "subject-undefined": (HS256, lambda: token(sub="undefined")),
    "claim-of-another-type": (
        bearer_jwt(SECRET, algorithms=["HS256"], claim="uid"),
        lambda: token(uid={"id": 42}),
    ),
    "claim-true": (
        bearer_jwt(SECRET, algorithms=["HS256"], claim="uid"),
        lambda: token(uid=True),
    ),
    "expiry-of-another-type": (
        HS256,
        lambda: by_hand({"alg": "HS256"}, {"sub": USER_ID, "exp": "soon"}, SECRET.encode()),
    ),
    "claims-are-a-list": (
        HS256,
        lambda: jwt.api_jws.encode(b"[1]", SECRET, algorithm="HS256"),
    ),
    "claims-are-no-JSON": (
        HS256,
        lambda: jwt.api_jws.encode(b"\xff{", SECRET, algorithm="HS256"),
    ),
    "deep-claims": (
        HS256,
        lambda: jwt.api_jws.encode(b"[" * 100_000, SECRET, algorithm="HS256"),
    ),
    "garbage": (HS256, lambda: "x.y.z"),
    "no-dots": (HS256, lambda: "garbage"),
    "only-dots": (HS256, lambda: ".."),
    "five-parts": (HS256, lambda: "a.b.c.d.e"),
    "empty": (HS256, lambda: ""),
    "a-megabyte": (HS256, lambda: "x" * 1_000_000),
}


@pytest.mark.parametrize(("source", "bearer"), BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_an_unverifiable_token_means_no_user(
    lines: Lines, ask: Ask, source: Any, bearer: Callable[[], str]
) -> None:
    """A token that does not verify gives no user, and never an error."""
    ask(source, b"Bearer " + bearer().encode())

    assert session_only("line") == told(lines)


@pytest.mark.parametrize(
    "authorization",
    [
        b"Bearer",
        b"Basic YWRhOnNlY3JldA==",
        b"Digest username=ada",
        b"Bearer \xff\xfe.\x80.\xe9",
        b"Bearer a.b.c, Bearer d.e.f",
    ],
    ids=["no-token", "Basic", "Digest", "not-ASCII", "two-tokens"],
)
def test_another_authorization_means_no_user(lines: Lines, ask: Ask, authorization: bytes) -> None:
    """An Authorization header with anything but one token gives no user."""
    ask(HS256, authorization)

    assert session_only("line") == told(lines)


def test_an_unverifiable_token_leaves_the_next_source_its_turn(lines: Lines, ask: Ask) -> None:
    """Where a token tells nobody, the sources after it are asked."""
    sources = (authenticated_user(), HS256, header("Authorization"))
    ask(sources, b"Bearer " + token().encode(), b"Bearer x.y.z")

    user_ids = [user_id for _, _, user_id in told(lines)]
    assert [USER_ID, "Bearer x.y.z"] == user_ids


def test_nothing_of_a_bad_token_is_logged(
    lines: Lines, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    """No part of a token gets into a log, not even into the debug lines."""
    caplog.set_level("DEBUG")
    bad = token(OTHER_SECRET)
    ask(HS256, b"Bearer " + bad.encode())

    told_elsewhere = caplog.text + repr(lines)
    assert [] == [part for part in bad.split(".") if part in told_elsewhere]


def test_the_source_does_not_show_its_key() -> None:
    """The representation of the source names the claim, not the key."""
    assert "bearer_jwt(claim='sub')" == repr(HS256)


@pytest.mark.parametrize(
    ("key", "algorithms", "error"),
    [
        pytest.param(SECRET, "HS256", TypeError, id="one-name"),
        pytest.param(SECRET, [], ValueError, id="no-algorithm"),
        pytest.param(SECRET, ["HS256", "none"], ValueError, id="none"),
        pytest.param(SECRET, ["None"], ValueError, id="None"),
        pytest.param({"keys": []}, ["RS256"], ValueError, id="JWKS-without-keys"),
        pytest.param({}, ["RS256"], ValueError, id="no-JWKS"),
        pytest.param({"keys": [{"kty": "?"}]}, ["RS256"], ValueError, id="JWKS-of-no-use"),
    ],
)
def test_wrong_options_are_refused_at_once(
    key: Any, algorithms: Any, error: type[Exception]
) -> None:
    """Options that could verify nothing, or anything, raise in the constructor."""
    with pytest.raises(error):
        bearer_jwt(key, algorithms=algorithms)


def test_a_token_is_verified_behind_fastapi(lines: Lines) -> None:
    """FastAPI's own bearer scheme and ours read the same token."""
    pytest.importorskip("fastapi")
    from fastapi import Depends, FastAPI
    from fastapi.security import HTTPBearer
    from fastapi.testclient import TestClient

    app = FastAPI()

    @app.get("/", dependencies=[Depends(HTTPBearer())])
    def endpoint() -> None:
        log.info("endpoint")

    app.add_middleware(asgi.ReplayLinkMiddleware, user_id=HS256)
    with TestClient(app) as client:
        client.get("/", headers={**HEADERS, "Authorization": f"Bearer {token()}"})
        client.get("/", headers={"Authorization": "Bearer x.y.z"})

    assert [*both("endpoint"), *neither("endpoint")] == told(lines)

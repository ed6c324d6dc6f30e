"""
A Django project in one module: settings, views, middleware.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import django  # type: ignore[import-untyped]
from asgiref.sync import iscoroutinefunction
from django.conf import settings  # type: ignore[import-untyped]

from replaylink import identify
from tests.frameworks.helpers import USER_ID, log

GetResponse = Callable[[Any], Any]

BASE_MIDDLEWARE = [
    f"{__name__}.log_around",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["app.test"],
        AUTHENTICATION_BACKENDS=[f"{__name__}.CountingBackend"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "set by a fixture"}},
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
        LOGGING_CONFIG=None,
        MIDDLEWARE=BASE_MIDDLEWARE,
        ROOT_URLCONF=__name__,
        SECRET_KEY="not-a-secret",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        USE_TZ=True,
    )
    django.setup()

from django.contrib.auth import get_user_model, login  # type: ignore[import-untyped]  # noqa: E402
from django.contrib.auth.backends import ModelBackend  # type: ignore[import-untyped]  # noqa: E402
from django.http import (  # type: ignore[import-untyped]  # noqa: E402
    FileResponse,
    HttpResponse,
    HttpResponseServerError,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path  # type: ignore[import-untyped]  # noqa: E402
from django.utils.decorators import (  # type: ignore[import-untyped]  # noqa: E402
    sync_and_async_middleware,
)

LOADED: list[Any] = []
"""The users that were loaded."""


class CountingBackend(ModelBackend):  # type: ignore[misc]
    def get_user(self, user_id: Any) -> Any:
        LOADED.append(user_id)
        return super().get_user(user_id)


@sync_and_async_middleware  # type: ignore[untyped-decorator]
def log_around(get_response: GetResponse) -> GetResponse:
    if iscoroutinefunction(get_response):

        async def around_async(request: Any) -> Any:
            log.info("before")
            response = await get_response(request)
            log.info("after")
            return response

        return around_async

    def around(request: Any) -> Any:
        log.info("before")
        response = get_response(request)
        log.info("after")
        return response

    return around


def identify_user(get_response: GetResponse) -> GetResponse:
    def middleware(request: Any) -> Any:
        identify(request.user.pk)
        return get_response(request)

    return middleware


def identify_user_async(get_response: Callable[[Any], Awaitable[Any]]) -> GetResponse:
    async def middleware(request: Any) -> Any:
        user = await request.auser()
        identify(user.pk)
        return await get_response(request)

    return middleware


identify_user_async.async_capable = True  # type: ignore[attr-defined]
identify_user_async.sync_capable = False  # type: ignore[attr-defined]


@sync_and_async_middleware  # type: ignore[untyped-decorator]
def user_in_scope(get_response: GetResponse) -> GetResponse:
    """
    Put Django's lazy user into the ASGI scope, as Channels does.
    """
    if iscoroutinefunction(get_response):

        async def middleware_async(request: Any) -> Any:
            request.scope["user"] = request.user
            return await get_response(request)

        return middleware_async

    def middleware(request: Any) -> Any:
        request.environ["user"] = request.user
        return get_response(request)

    return middleware


def sign_in(request: Any) -> Any:
    log.info("anonymous")
    login(request, get_user_model().objects.get(pk=USER_ID))
    log.info("view")
    return HttpResponse("done")


def sync_view(request: Any) -> Any:
    log.info("view")
    return HttpResponse("done")


async def async_view(request: Any) -> Any:
    await asyncio.sleep(0)
    log.info("view")
    return HttpResponse("done")


def late_view(request: Any) -> Any:
    log.info("anonymous")
    identify(42)
    log.info("view")
    return HttpResponse("done")


async def late_async_view(request: Any) -> Any:
    log.info("anonymous")
    identify(42)
    log.info("view")
    return HttpResponse("done")


def greeting(request: Any) -> Any:
    log.info("anonymous")
    name = "you" if request.user.is_authenticated else "stranger"
    log.info("view")
    return HttpResponse(f"Hello, {name}!")


def stream(request: Any) -> Any:
    def chunks() -> Iterator[str]:
        for number in range(2):
            log.info("chunk")
            yield str(number)

    log.info("view")
    return StreamingHttpResponse(chunks())


async def async_stream(request: Any) -> Any:
    async def chunks() -> AsyncIterator[str]:
        for number in range(2):
            await asyncio.sleep(0)
            log.info("chunk")
            yield str(number)

    log.info("view")
    return StreamingHttpResponse(chunks())


def file(request: Any) -> Any:
    log.info("view")
    return FileResponse(Path(__file__).open("rb"))


def fail(request: Any) -> Any:
    log.info("view")
    raise LookupError


async def async_fail(request: Any) -> Any:
    log.info("view")
    raise LookupError


def chat(request: Any) -> Any:
    log.info("view")
    return JsonResponse(json.loads(request.body))


def form(request: Any) -> Any:
    log.info("view")
    sizes = [len(file.read()) for file in request.FILES.values()]
    return HttpResponse(f"{request.POST['name']} {sum(sizes)}")


urlpatterns = [
    path("sign-in", sign_in),
    path("sync", sync_view),
    path("async", async_view),
    path("late", late_view),
    path("late-async", late_async_view),
    path("greeting", greeting),
    path("stream", stream),
    path("async-stream", async_stream),
    path("file", file),
    path("fail", fail),
    path("async-fail", async_fail),
    path("chat", chat),
    path("form", form),
]


def handler500(request: Any) -> Any:
    log.error("handler")
    return HttpResponseServerError("handled")

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.share.receiver import Receiver, receiving

if TYPE_CHECKING:
    from posthog import Posthog


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A stand-in for PostHog."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def posthog(receiver: Receiver) -> Iterator[Posthog]:
    """The real SDK, which sends each event at once."""
    sdk = pytest.importorskip("posthog")
    client: Posthog = sdk.Posthog("phc_test", host=receiver.url, sync_mode=True)
    yield client
    client.shutdown()

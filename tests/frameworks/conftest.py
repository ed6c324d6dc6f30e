from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def garbage_stays() -> Iterator[None]:
    """No garbage is collected: what frameworks leave in reference cycles stays alive."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()

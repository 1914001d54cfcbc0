"""Polling with a deadline."""

import time
from collections.abc import Callable
from typing import Any


def until(claim: Callable[[], Any], seconds: float = 20, pause: float = 0.02) -> Any:
    """Poll until `claim()` is true, and return its value. When the time is up, return its last value."""
    deadline = time.monotonic() + seconds
    while not (value := claim()) and time.monotonic() < deadline:
        time.sleep(pause)
    return value

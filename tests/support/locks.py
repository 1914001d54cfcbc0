"""Locks between processes."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Hold the lock of that name, so that tests which need the same thing take turns across processes."""
    with (Path(tempfile.gettempdir()) / f"course-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

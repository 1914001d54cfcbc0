"""Locks between the processes of a test run."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Tests that need the same thing take turns, in whatever process they run."""
    with (Path(tempfile.gettempdir()) / f"course-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

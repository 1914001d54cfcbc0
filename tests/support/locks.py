"""Locks between processes."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(name: str) -> Iterator[None]:
    """Hold the named lock, so that only one process at a time uses a shared resource."""
    with (Path(tempfile.gettempdir()) / f"course-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

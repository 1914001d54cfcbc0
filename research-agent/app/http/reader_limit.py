"""Limit the event streams that one caller reads at once: each of them costs time for every event."""

from collections import Counter


class TooManyReaders(Exception):
    """The caller already reads as many streams as one caller may."""


class ReaderLimit:
    """Counts the open streams of each caller."""

    def __init__(self, max_readers: int) -> None:
        self.max_readers = max_readers
        self.open: Counter[str] = Counter()

    def acquire(self, caller: str) -> None:
        if self.open[caller] >= self.max_readers:
            raise TooManyReaders
        self.open[caller] += 1

    def release(self, caller: str) -> None:
        self.open[caller] -= 1
        self.open += Counter()  # removes callers that have no open stream left

"""The events of a run, and whoever follows them."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from app import telemetry
from app.models import Event, EventId, Record

PING_SECONDS = 15
BATCH_EVENTS = 100
"""What is known already is sent in so many at once: a piece for each event costs more than the event."""


class Log:
    """The events of one run as far as they are known here, and whoever follows them."""

    def __init__(self, events: list[Event] | None = None) -> None:
        self.events = events or []
        self.changed = asyncio.Event()
        self.closed = False
        self.listeners = 0

    def add(self, *events: Event) -> None:
        self.events += events
        self.wake()

    def close(self) -> None:
        """Nothing more comes here: who follows must ask another replica."""
        self.closed = True
        self.wake()

    @property
    def readable(self) -> int:
        """How many of the events may be told."""
        return len(self.events)

    @property
    def ended(self) -> bool:
        return self.readable > 0 and self.events[self.readable - 1].last

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self, after: EventId) -> AsyncGenerator[list[Event]]:
        """Every event after that id, to the last one, in batches; an empty one when nothing happens."""
        self.listeners += 1
        telemetry.open_streams.inc()
        try:
            position = 0
            while True:
                while position < self.readable:
                    batch = []
                    for event in self.events[position : min(position + BATCH_EVENTS, self.readable)]:
                        position += 1
                        # What comes late may still be older than what its reader has seen.
                        if event.id > after:
                            batch.append(event)
                    if batch:
                        yield batch
                    if event.last:
                        return
                    await asyncio.sleep(0)  # a long run must not hold up everybody else
                if self.closed:
                    return
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        await self.changed.wait()
                except TimeoutError:
                    yield []
        finally:
            telemetry.open_streams.dec()
            self.listeners -= 1


class Live(Log):
    """A run that this replica carries out."""

    def __init__(self, record: Record, events: list[Event] | None = None) -> None:
        super().__init__(events)
        self.record = record
        self.stored = len(self.events)
        self.record_changed = False
        self.heard_at = time.monotonic()
        self.task: asyncio.Task[None] | None = None
        self.cancel_asked = False
        self.heard_elsewhere = False
        self.end_told = False
        self.settled = asyncio.Event()  # its end is told, or will be told by another replica
        self.refused = False
        self.retry_at = 0.0  # when a refused write may be tried again

    @property
    def readable(self) -> int:
        """All events, but the last one not before it is settled.

        Otherwise a client could be told of an end that dies with this replica, and then read another one.
        """
        held = bool(self.events) and self.events[-1].last and not self.end_told
        return len(self.events) - held

    def settle(self) -> None:
        """Tell the last event: it is stored, or the store cannot take it."""
        self.end_told = True
        self.settled.set()
        self.wake()

    def close(self) -> None:
        self.settled.set()
        super().close()

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        number = (
            self.events[-1].id[1] + 1 if self.events and self.events[-1].id[0] == self.record.epoch else 1
        )
        self.add(Event(id=(self.record.epoch, number), type=kind, data=data))

    @property
    def written(self) -> bool:
        return self.stored == len(self.events) and not self.record_changed

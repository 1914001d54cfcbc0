"""The events of one run, and the clients that follow them."""

import asyncio
from collections.abc import AsyncGenerator

from app import telemetry
from app.models import Event, EventId

PING_SECONDS = 15  # between two pings of a stream without events
BATCH_EVENTS = 100  # sent to a client in one piece: a piece for each event costs more than the event


class EventLog:
    """The events of one run as far as this replica knows them. Clients follow it with `follow`."""

    def __init__(self, events: list[Event] | None = None) -> None:
        self.events = events or []
        self.changed = asyncio.Event()
        self.closed = False
        self.listeners = 0

    def add(self, *events: Event) -> None:
        self.events += events
        self.wake()

    def close(self) -> None:
        """End all streams without a last event: the clients have to continue at another replica."""
        self.closed = True
        self.wake()

    @property
    def readable(self) -> int:
        """The number of events that clients may read."""
        return len(self.events)

    @property
    def ended(self) -> bool:
        return self.readable > 0 and self.events[self.readable - 1].is_last

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self, after: EventId) -> AsyncGenerator[list[Event]]:
        """Yield every event after that id in batches, to the last one. An empty batch is a ping."""
        self.listeners += 1
        telemetry.open_streams.inc()
        try:
            position = 0
            while True:
                while position < self.readable:
                    batch = []
                    for event in self.events[position : min(position + BATCH_EVENTS, self.readable)]:
                        position += 1
                        # This log may be behind what the client has read at another replica.
                        if event.id > after:
                            batch.append(event)
                    if batch:
                        yield batch
                    if event.is_last:
                        return
                    await asyncio.sleep(0)  # let other tasks run between the batches of a long run
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

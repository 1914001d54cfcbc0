"""The event log: events are written in batches, and readers see an event only after its commit.

A reader remembers the id of its last event and asks for what follows. It waits on an event object that it
takes before it reads, so nothing falls between history and live; and it pulls, so a slow reader slows nobody.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import structlog
from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError

from parallel_agents.models import Event
from parallel_agents.store import PAGE, Store

log = structlog.stdlib.get_logger("parallel-agents")
LAST_EVENT = "done"
BATCH_SECONDS = 0.02
QUEUE = 200  # events of a run that wait for the writer; then its variations wait as well
TAIL = 1_000_000  # bytes of a run's newest events that are kept in memory, for readers that keep up
PING_SECONDS = 15


class RunLog:
    """The events of a run that is going on."""

    def __init__(self, run_id: str, last_id: int = 0) -> None:
        self.run_id, self.last_id = run_id, last_id
        self.queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE)
        self.unwritten: list[Event] = []
        self.tail: deque[tuple[int, str, bytes]] = deque()  # id, type, and encoded event
        self.tail_bytes = 0
        self.changed = asyncio.Event()
        self.appending = asyncio.Lock()

    async def append(self, variation: int | None, type: str, /, **data: Any) -> None:
        """Append an event. Waits while the writer is behind. States say when they began, in epoch seconds."""
        at = {"at": round(time.time(), 3)} if type == "state" else {}
        text = json.dumps({"variation": variation} | at | data)
        async with self.appending:  # ids ascend in the order of the queue
            number = self.last_id + 1
            await self.queue.put(
                Event(run_id=self.run_id, id=number, variation=variation, type=type, data=text)
            )
            self.last_id = number  # not before: a caller that is cancelled while it waits leaves no gap

    def take(self) -> list[Event]:
        """The events to write next; those of a write that failed are taken again."""
        while len(self.unwritten) < QUEUE and not self.queue.empty():
            self.unwritten.append(self.queue.get_nowait())
        return self.unwritten

    def publish(self) -> None:
        """Show committed events to the readers."""
        for item in map(encode, self.unwritten):
            self.tail.append(item)
            self.tail_bytes += len(item[2])
        while self.tail_bytes > TAIL and len(self.tail) > 1:
            self.tail_bytes -= len(self.tail.popleft()[2])
        self.unwritten = []
        self.changed.set()
        self.changed = asyncio.Event()

    def newest(self, after: int) -> list[tuple[int, str, bytes]] | None:
        """The next page of events from memory; None when it begins before the tail."""
        if not self.tail or self.tail[0][0] > after + 1:
            return None if self.last_id > after else []
        start = after + 1 - self.tail[0][0]
        return [self.tail[index] for index in range(start, min(start + PAGE, len(self.tail)))]


class EventLog:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.active: dict[str, RunLog] = {}
        self.writer: asyncio.Task[None] | None = None

    def open(self) -> None:
        self.writer = asyncio.create_task(self.write_batches())

    async def close(self) -> None:
        if self.writer:
            self.writer.cancel()
            await asyncio.wait([self.writer])

    def start(self, run_id: str, last_id: int = 0) -> RunLog:
        self.active[run_id] = RunLog(run_id, last_id)
        return self.active[run_id]

    async def finish(self, run_log: RunLog) -> None:
        """Wait until a run's last event is committed. From then on its events are read from the store."""
        while not run_log.tail or run_log.tail[-1][0] < run_log.last_id:
            await run_log.changed.wait()
        del self.active[run_log.run_id]

    async def write_batches(self) -> None:
        while True:
            await asyncio.sleep(BATCH_SECONDS)
            logs = [run_log for run_log in self.active.values() if run_log.take()]
            try:
                if logs:
                    await self.store.append_events([event for each in logs for event in each.unwritten])
                for each in logs:
                    each.publish()
            except SQLAlchemyError as error:  # the disk may be full: runs wait, and the write is tried again
                log.error("events were not written", error=type(error).__name__)
                await asyncio.sleep(1)

    async def follow(self, run_id: str, after: int) -> AsyncGenerator[bytes]:
        """A run's events after an id, encoded, until its last one. A ping is a comment."""
        while True:
            run_log = self.active.get(run_id)
            changed = run_log.changed if run_log else None  # before reading: a later commit sets it
            page = run_log.newest(after) if run_log else None
            if page is None:
                page = [encode(event) for event in await self.store.events(run_id, after)]
            if page:
                after, last_type, _ = page[-1]
                yield b"".join(piece for _, _, piece in page)
                if last_type == LAST_EVENT:
                    return
            elif changed is None:
                return  # the run was deleted meanwhile
            else:
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        await changed.wait()
                except TimeoutError:
                    yield b": ping\n\n"


def encode(event: Event) -> tuple[int, str, bytes]:
    return event.id, event.type, format_sse_event(event=event.type, data_str=event.data, id=str(event.id))

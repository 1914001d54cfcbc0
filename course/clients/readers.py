"""Readers of runs: they follow a run to its end, reconnect after a cut, and record every event."""

import asyncio
import itertools
import time
import uuid
from dataclasses import dataclass, field

import httpx2


@dataclass
class ReceivedEvents:
    """The events of one run that one reader has received."""

    run_id: str = ""
    ids: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # when each event came, by time.monotonic()
    cuts: int = 0  # how often the stream ended without a last event
    failed: list[str] = field(default_factory=list)  # requests that were refused

    @property
    def pauses(self) -> list[float]:
        """The silences between each event and the next, in seconds."""
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]

    @property
    def gap(self) -> float:
        """The longest silence between two events, in seconds."""
        return max(self.pauses, default=0)

    @property
    def finished(self) -> bool:
        return bool(self.types) and self.types[-1] in ("done", "error")

    def record(self, event: httpx2.ServerSentEvent) -> None:
        self.times.append(time.monotonic())
        self.ids.append(event.id)
        self.types.append(event.event)

    def in_order(self) -> bool:
        """Whether the ids of its events ascend, without one that came twice."""
        return self.out_of_order() == 0

    def out_of_order(self) -> int:
        """How many events came twice, or after a later one."""
        order = [tuple(map(int, each.split("-"))) for each in self.ids]
        return sum(later <= earlier for earlier, later in itertools.pairwise(order))


def new_client() -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(limits=limits, timeout=httpx2.Timeout(60, connect=5), trust_env=False)


async def read(client: httpx2.AsyncClient, url: str, query: str, seen: ReceivedEvents) -> ReceivedEvents:
    """Start a run and follow it to its end; after each cut, resume by Last-Event-ID."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    while not seen.finished:
        connected = False
        try:
            if seen.run_id:
                headers = {"Last-Event-ID": seen.ids[-1]} if seen.ids else {}
                stream = client.stream("GET", f"{url}/v1/research/{seen.run_id}/events", headers=headers)
            else:
                stream = client.stream(
                    "POST", f"{url}/v1/research/stream", json={"query": query}, headers=key
                )
            async with stream as response:
                if response.status_code != 200:
                    seen.failed.append(f"{response.status_code} {(await response.aread()).decode()}")
                else:
                    connected = True
                    seen.run_id = response.headers["x-run-id"]
                    async for event in httpx2.EventSource(response):
                        seen.record(event)
        except httpx2.TransportError as error:
            if not connected:
                seen.failed.append(repr(error))
        if not seen.finished:
            seen.cuts += connected
            await asyncio.sleep(0.5)  # as `retry:` in the stream asks
    return seen


async def stored(client: httpx2.AsyncClient, url: str, seen: ReceivedEvents) -> list[str]:
    """The ids of a run's events, as a later reader gets them."""
    async with client.stream("GET", f"{url}/v1/research/{seen.run_id}/events") as response:
        return [event.id async for event in httpx2.EventSource(response)]


def count_missing_or_duplicate(seen: ReceivedEvents, kept: list[str]) -> int:
    """The number of stored events that a reader missed, or received twice or out of order."""
    return len(set(kept) - set(seen.ids)) + seen.out_of_order()

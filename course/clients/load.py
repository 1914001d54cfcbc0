"""A load of questions at a constant rate, however long the answers take."""

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2

LONG = "Research as deeply as you can: what is a container image?"
SHORT = "What is graceful shutdown?"


@dataclass
class LoadResult:
    """The outcome of a load: the requests that were sent, their failures and their times."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)
    max_delay: float = 0  # seconds by which the client itself sent a request late, at most
    milliseconds: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)  # when each was sent, by time.monotonic()


async def send_at_constant_rate(
    client: httpx2.AsyncClient,
    url: str,
    rate: float,
    query: Callable[[int], str],
    stop: asyncio.Event,
    keys: bool = False,
) -> LoadResult:
    """Send `rate` requests a second. With `keys` they are idempotent, so that the proxy may repeat them."""
    seen = LoadResult()

    async def ask(number: int) -> None:
        began = time.monotonic()
        seen.at.append(began)
        headers = {"Idempotency-Key": uuid.uuid4().hex} if keys else {}
        try:
            reply = await client.post(f"{url}/v1/research", json={"query": query(number)}, headers=headers)
            if reply.status_code != 200:
                seen.failed.append(f"{reply.status_code} {reply.text[:200]}")
        except httpx2.TransportError as error:
            seen.failed.append(repr(error))
        seen.milliseconds.append((time.monotonic() - began) * 1000)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            due = began + seen.sent / rate
            await asyncio.sleep(max(0, due - time.monotonic()))
            seen.max_delay = max(seen.max_delay, time.monotonic() - due)
            group.create_task(ask(seen.sent))
            seen.sent += 1
    return seen


def numbered_question(number: int) -> str:
    """A question that was not asked before, so that no answer is cached."""
    return f"{SHORT[:-1]}, asked for the {number}th time, {os.getpid()}?"

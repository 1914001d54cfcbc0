"""The Dapr sidecar: state with ETags, and events. It is HTTP, so curl can do the same.

Dapr's own client for Python has no `concurrency` and no time to live in a transaction; the HTTP API has both.
"""

import hashlib
import random
from asyncio import sleep
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import httpx2

from messages import Answer, Event, Outgoing

DAYS_7 = str(7 * 86_400)  # seconds for which an answer is kept, and a duplicate of its event recognised
ATTEMPTS = 20
traceparent: ContextVar[str] = ContextVar("traceparent", default="")  # W3C trace context of this request


class SidecarError(Exception):
    """The sidecar, or what it stands for, did not do what it was asked."""


class NonRetryableError(SidecarError):
    """The request was refused. Dapr retries no step of a workflow that raises an error of this name."""


class Conflict(SidecarError):
    """Another writer was first."""


class Transaction:
    """Reads remember their ETags; `commit` writes all or nothing, and only if nobody wrote in between."""

    def __init__(self, sidecar: "Sidecar") -> None:
        self.sidecar = sidecar
        self.etags: dict[str, str] = {}
        self.writes: dict[str, dict[str, Any]] = {}

    async def load(self, key: str) -> Any:
        """The value of a key; None if it has none."""
        answer = await self.sidecar.request("GET", f"/v1.0/state/statestore/{key}")
        if answer.status_code == 204:
            return None
        self.etags[key] = answer.headers["etag"]
        return answer.json()

    def save(self, key: str, value: Any, ttl: str = "") -> None:
        request = {"key": key, "value": value, "options": {"concurrency": "first-write"}}
        if key in self.etags:
            request["etag"] = self.etags[key]
        self.writes[key] = request | ({"metadata": {"ttlInSeconds": ttl}} if ttl else {})

    async def commit(self) -> None:
        operations = [{"operation": "upsert", "request": request} for request in self.writes.values()]
        path, body = "/v1.0/state/statestore/transaction", {"operations": operations}
        try:
            await self.sidecar.request("POST", path, json=body)
        except SidecarError as error:
            raise Conflict from error


class Sidecar:
    def __init__(self, port: int, seconds: float) -> None:
        self.http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=seconds, trust_env=False)

    async def request(self, method: str, path: str, **more: Any) -> httpx2.Response:
        more["headers"] = more.get("headers", {}) | {"traceparent": traceparent.get()}
        try:
            answer = await self.http.request(method, path, **more)
        except httpx2.HTTPError as error:
            raise SidecarError(f"{method} {path}: {error!r}") from error
        if answer.is_error:
            kind = NonRetryableError if answer.is_client_error else SidecarError
            raise kind(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer

    async def connected(self) -> bool:
        with suppress(SidecarError):
            await self.request("GET", "/v1.0/healthz/outbound", timeout=1)
            return True
        return False

    async def publish(self, event: Outgoing, event_id: str, user_id: str) -> None:
        """Publish a CloudEvent. Kafka keeps the order of the events that have the same partition key."""
        envelope = {"specversion": "1.0", "id": event_id, "source": "learnflow", "type": event.topic}
        envelope |= {"time": datetime.now(UTC).isoformat(), "datacontenttype": "application/json"}
        await self.request(
            "POST",
            f"/v1.0/publish/pubsub/{event.topic}",
            params={"metadata.partitionKey": user_id},
            json=envelope | {"data": event.data},
            headers={"content-type": "application/cloudevents+json"},
        )

    async def once(self, event: Event, handle: Callable[[Event, Transaction], Awaitable[Answer]]) -> Answer:
        """Answer an event once, however often it is delivered, and publish what follows from it.

        The answer is stored in the same transaction as the state that it changed. A process that dies before
        the commit has changed nothing; one that dies after it publishes the events again, with the same ids.
        """
        key = f"event:{hashlib.sha256(f'{event.data.user_id} {event.id}'.encode()).hexdigest()}"
        for attempt in range(ATTEMPTS):
            transaction = Transaction(self)
            if stored := await transaction.load(key):
                answer = Answer.model_validate(stored)
                break
            answer = await handle(event, transaction)
            transaction.save(key, answer.model_dump(), ttl=DAYS_7)
            with suppress(Conflict):
                await transaction.commit()
                break
            await sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))  # noqa: S311  # jitter
        else:
            raise SidecarError("Other writers were always faster.")
        for number, outgoing in enumerate(answer.events):
            await self.publish(outgoing, outgoing.id or f"{event.id[:180]}/{number}", event.data.user_id)
        return answer

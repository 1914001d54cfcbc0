"""The store of many replicas: Redis, with a stream for the events of each run.

    run:{id}          hash: record, caller, owner, epoch, takeovers, released, cancelled
    events:{id}       stream; its ids are the events' own ids, so that no event is stored twice
    leases            sorted set: run id by the time at which its lease expires
    running:{caller}  sorted set: the caller's unfinished runs by the latest time at which they end
    alias:{name}      the id of a run
    followed:{id}     exists while a client follows the run
    rate:{caller}     counter of requests in a minute
    finished          sorted set: run id by the time at which it finished

Changes that must be atomic are Lua scripts (`app/runs/scripts`): Redis runs a script without interruption.

Redis must not evict keys (`maxmemory-policy noeviction`): it would start with the keys that expire soonest,
which are the rate limits. Instead, `create_run.lua` removes the oldest finished runs, so that runs leave a
quarter of the memory free. The small scripts may run even when no memory is left (`allow-oom`).
"""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from app.models import Event, EventId, Run, StoredRun, format_event_id, parse_event_id
from app.runs.stores.base import (
    MAX_TAKEOVERS,
    AppendResult,
    LeaseStatus,
    Quota,
    StoreDown,
    StoreRefused,
    TooManyRuns,
)

SCRIPTS = Path(__file__).parents[1] / "scripts"
BATCH_EVENTS = 500  # in one call of append_events.lua: other clients wait while a script runs
CONNECTIONS = 32


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise StoreDown if Redis cannot be reached, and StoreRefused if it answers with an error."""
    try:
        yield
    except (OSError, ConnectionError, TimeoutError) as error:
        raise StoreDown(f"{type(error).__name__}: {error}") from error
    except RuntimeError as error:  # uvloop raises it for a write on a connection that has just closed
        if "handler is closed" not in str(error):
            raise
        raise StoreDown(f"{type(error).__name__}: {error}") from error
    except RedisError as error:
        raise StoreRefused(f"{type(error).__name__}: {error}") from error


class RedisStore:
    """Implements Store for many replicas on one Redis."""

    shared = True

    def __init__(self, url: str, *, lease: float, ttl: int, max_seconds: float) -> None:
        """All times are in seconds.

        `lease`: how long a lease lasts. `ttl`: how long a finished run is kept. `max_seconds`: the
        longest time that a run can take.
        """
        pool = BlockingConnectionPool.from_url(
            url,
            decode_responses=True,
            max_connections=CONNECTIONS + 2,  # two for pings
            socket_timeout=2,
            socket_connect_timeout=1,
            # Retry once on a connection that a restart of Redis has closed, but not when Redis hangs.
            retry=Retry(NoBackoff(), 1, (ConnectionError,)),
        )
        self.connections = asyncio.Semaphore(CONNECTIONS)  # more requests than this wait for their turn
        self.down: StoreDown | None = None
        self.pings = 0  # that Redis has answered
        self.redis = Redis.from_pool(pool)
        # The host name tells an operator who holds a run; the rest tells the processes of one host apart.
        self.owner = f"{socket.gethostname()}:{uuid.uuid4().hex}"
        self.lease, self.ttl, self.max_seconds = lease, ttl, max_seconds
        self.scripts = {
            path.stem: self.redis.register_script(path.read_text(encoding="utf-8"))
            for path in SCRIPTS.glob("*.lua")
        }

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        """Wait for a free connection. Fail at once while Redis is known to be down: `ping` ends that."""
        async with self.connections:
            if self.down:
                raise StoreDown(str(self.down))
            with self.noticed():
                yield

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Remember that Redis is down, unless it has answered a ping since: it is back, then."""
        pings = self.pings
        try:
            with translate_errors():
                yield
        except StoreDown as error:
            if pings == self.pings:
                self.down = error
            raise

    async def create(self, record: StoredRun, alias: str | None, max_runs: int) -> str:
        run_id = record.run.id
        keys = [f"run:{run_id}", "leases", f"running:{record.caller}", f"alias:{alias}" if alias else ""]
        keys.append("finished")
        values: list[str | float] = [run_id, record.caller, self.owner, record.model_dump_json(), self.lease]
        values += [self.max_seconds, max_runs, self.ttl]
        async with self.connection():
            known = await self.scripts["create_run"](keys, values)
        if known == "busy":
            raise TooManyRuns
        if known == "full":
            raise StoreRefused("unfinished runs use all the memory that runs may use")
        return str(known)

    async def find_alias(self, alias: str) -> str | None:
        async with self.connection():
            known: str | None = await self.redis.get(f"alias:{alias}")  # type: ignore[assignment]
        return known

    async def set_alias(self, alias: str, run_id: str, seconds: float) -> None:
        async with self.connection():
            values: list[str | float] = [run_id, max(1, round(seconds * 1000))]
            await self.scripts["set_value"]([f"alias:{alias}"], values)

    async def load(self, run_id: str) -> StoredRun | None:
        async with self.connection():
            record = await self.redis.hget(f"run:{run_id}", "record")
        return StoredRun.model_validate_json(record) if record else None

    async def append(
        self, record: StoredRun, events: list[Event], *, changed: bool, first: bool
    ) -> AppendResult:
        """Append in batches. Only the last one says that the run is over."""
        *batches, rest = [events[n : n + BATCH_EVENTS] for n in range(0, len(events) or 1, BATCH_EVENTS)]
        for batch in batches:
            text = record.model_dump_json() if first else ""
            result = await self.append_batch(record, batch, text, over=False, first=first)
            if result != "written":
                return result
            first = False
        text = record.model_dump_json() if changed or first else ""
        return await self.append_batch(record, rest, text, over=record.run.finished, first=first)

    async def append_batch(
        self, record: StoredRun, events: list[Event], text: str, *, over: bool, first: bool
    ) -> AppendResult:
        run = record.run
        keys = [f"run:{run.id}", "leases", f"running:{record.caller}", f"events:{run.id}", "finished"]
        values: list[str | float] = [run.id, self.owner, record.epoch, text, int(over), self.lease]
        values += [self.max_seconds, self.ttl, int(first)]
        for event in events:
            values += [format_event_id(event.id), json.dumps([event.type, event.data])]
        async with self.connection():
            result: AppendResult = await self.scripts["append_events"](keys, values)
        return result

    async def read_events(self, after: dict[str, EventId], wait: float = 0) -> dict[str, list[Event]]:
        streams: dict[Any, Any] = {
            f"events:{run_id}": format_event_id(last) for run_id, last in after.items()
        }
        async with self.connection():
            found: Any = await self.redis.xread(streams, block=round(wait * 1000) or None)
        return {
            name.removeprefix("events:"): [parse_event(number, fields) for number, fields in entries]
            for name, entries in found
        }

    async def renew_leases(self, run_ids: list[str]) -> dict[str, LeaseStatus]:
        async with self.connection(), self.redis.pipeline(transaction=False) as pipeline:
            for run_id in run_ids:
                keys = [f"run:{run_id}", "leases", f"followed:{run_id}"]
                await self.scripts["renew_lease"](keys, [run_id, self.owner, self.lease], client=pipeline)
            replies = await pipeline.execute(raise_on_error=False)
        return {
            run_id: LeaseStatus(*map(bool, reply))
            for run_id, reply in zip(run_ids, replies, strict=True)
            if not isinstance(reply, RedisError)
        }

    async def release(self, run_id: str) -> None:
        async with self.connection():
            await self.scripts["release_run"]([f"run:{run_id}", "leases"], [run_id, self.owner])

    async def claim(self) -> StoredRun | None:
        async with self.connection():
            claimed = await self.scripts["claim_run"](["leases"], [self.owner, self.lease, "run:"])
        if not claimed:
            return None
        run_id, caller, text, epoch, takeovers = claimed
        try:
            record = StoredRun.model_validate_json(text)
        except ValidationError:
            if takeovers <= MAX_TAKEOVERS:  # another replica may run a version of this app that can read it
                raise StoreRefused(f"the record of run {run_id} cannot be read") from None
            record = StoredRun(run=Run(id=run_id, query=""), caller=caller, request_id="")
        record.epoch, record.takeovers = epoch, takeovers
        return record

    async def cancel(self, run_id: str) -> None:
        async with self.connection():
            await self.scripts["cancel_run"]([f"run:{run_id}"])

    async def mark_followed(self, run_ids: list[str], seconds: float) -> None:
        async with self.connection(), self.redis.pipeline(transaction=False) as pipeline:
            for run_id in run_ids:
                values: list[str | float] = ["1", max(1, round(seconds * 1000))]
                await self.scripts["set_value"]([f"followed:{run_id}"], values, client=pipeline)
            await pipeline.execute()

    async def count_request(self, caller: str, per_minute: int) -> Quota:
        """Our own script, not `limits`: that takes two round trips, and fails when Redis is out of memory."""
        async with self.connection():
            count, seconds = await self.scripts["count_request"]([f"rate:{caller}"])
        return Quota(count <= per_minute, max(0, per_minute - count), time.time() + seconds)

    async def ping(self) -> None:
        with self.noticed():
            await self.redis.ping()
        self.down = None
        self.pings += 1

    async def close(self) -> None:
        await self.redis.aclose()


def parse_event(number: str, fields: dict[str, str]) -> Event:
    kind, data = json.loads(fields["event"])
    return Event(id=parse_event_id(number), type=kind, data=data)

"""The store of many replicas: Redis, with a stream for the events of each run.

    run:{id}          hash: record, caller, owner, epoch, takeovers, released, cancelled
    events:{id}       stream; its ids are the events' own, so that none is written twice
    leases            sorted set: run id by the time its lease ends
    going:{caller}    sorted set: the caller's runs by the time they are over at the latest
    alias:{name}      the id of a run
    heard:{id}        somebody listens
    rate:{caller}     counter of a minute
    finished          sorted set: run id by the time it was over

What must happen at once, or not at all, is a script: Redis runs it with nothing in between.

Redis must not evict keys by itself (`maxmemory-policy noeviction`): it would begin with what expires soonest,
the rate limits. Instead the oldest finished runs make room before a new run is kept, so that runs leave a
quarter of the memory free; and the small scripts may run even when none is left (`allow-oom`).
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pydantic import ValidationError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from app.models import Event, EventId, Record, Run, event_id, wire_id
from app.runs.stores.base import MAX_TAKEOVERS, Busy, Lease, Quota, StoreDown, StoreRefused, Written

BATCH_EVENTS = 500
CONNECTIONS = 32

ALLOW_OOM = "#!lua flags=allow-oom\n"

NOW = "local t = redis.call('TIME') local now = t[1] + t[2] / 1000000 "

CREATE = (
    ALLOW_OOM
    + NOW
    + """
local run, leases, going, alias, finished = unpack(KEYS)
local id, caller, owner, record, lease, longest, most, ttl = unpack(ARGV)
if alias ~= '' then
  local known = redis.call('GET', alias)
  if known and redis.call('EXISTS', 'run:' .. known) == 1 then return known end
end
redis.call('ZREMRANGEBYSCORE', going, '-inf', now)
if redis.call('ZCARD', going) >= tonumber(most) then return 'busy' end
redis.call('ZREMRANGEBYSCORE', finished, '-inf', now - ttl)  -- these have expired
local function memory(field)
  return tonumber(redis.call('INFO', 'memory'):match('\\n' .. field .. ':(%d+)'))
end
local limit = 0.75 * memory('maxmemory')  -- 0: none
while limit > 0 and memory('used_memory') > limit do
  local oldest = redis.call('ZPOPMIN', finished)[1]
  if not oldest then return 'full' end
  redis.call('DEL', 'run:' .. oldest, 'events:' .. oldest)
end
redis.call('ZADD', going, now + longest, id)
redis.call('EXPIRE', going, math.ceil(longest))
redis.call('HSET', run, 'record', record, 'caller', caller, 'owner', owner, 'epoch', 0)
redis.call('EXPIRE', run, math.ceil(longest + ttl))
redis.call('ZADD', leases, now + lease, id)
if alias ~= '' then redis.call('SET', alias, id, 'EX', ttl) end
return id
"""
)

APPEND = (
    NOW
    + """
local run, leases, going, events, finished = unpack(KEYS)
local id, owner, epoch, record, over, lease, longest, ttl, first = unpack(ARGV, 1, 9)
local has = redis.call('HMGET', run, 'owner', 'epoch')
if has[1] and (has[1] ~= owner or has[2] ~= epoch) then return 'lost' end
if not has[1] then
  if first == '0' then return 'forgotten' end
  redis.call('HSET', run, 'owner', owner, 'epoch', epoch)
end
if record ~= '' then redis.call('HSET', run, 'record', record) end
for n = 10, #ARGV, 2 do
  local added = redis.pcall('XADD', events, ARGV[n], 'event', ARGV[n + 1])
  if added.err and not string.find(added.err, 'equal or smaller') then return added end  -- written before
end
local keep = math.ceil(longest + ttl)
if over == '1' then
  keep = ttl
  redis.call('ZREM', leases, id)
  redis.call('ZREM', going, id)
  redis.call('ZADD', finished, now, id)
else
  redis.call('ZADD', leases, now + lease, id)
end
redis.call('EXPIRE', run, keep)
redis.call('EXPIRE', events, keep)
return 'written'
"""
)

RENEW = (
    ALLOW_OOM
    + NOW
    + """
local run, leases, heard = unpack(KEYS)
local id, owner, lease = unpack(ARGV)
local has = redis.call('HMGET', run, 'owner', 'cancelled')
if has[1] and has[1] ~= owner then return {0, 0, 0} end
redis.call('ZADD', leases, 'XX', now + lease, id)  -- XX: a run that is over has none
return {1, has[2] and 1 or 0, redis.call('EXISTS', heard)}
"""
)

CLAIM = (
    ALLOW_OOM
    + NOW
    + """
local leases = KEYS[1]
local owner, lease, prefix = unpack(ARGV)
local id, run, record
repeat
  id = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 1)[1]
  if not id then return nil end
  run = prefix .. id
  record = redis.call('HGET', run, 'record')
  if not record then redis.call('ZREM', leases, id) end
until record
local epoch = redis.call('HINCRBY', run, 'epoch', 1)
local handed_over = redis.call('HDEL', run, 'released') == 1
local takeovers = redis.call('HINCRBY', run, 'takeovers', handed_over and 0 or 1)
redis.call('HSET', run, 'owner', owner)
redis.call('ZADD', leases, now + lease, id)
return {id, redis.call('HGET', run, 'caller') or '', record, epoch, takeovers}
"""
)

RELEASE = (
    ALLOW_OOM
    + """
local run, leases = unpack(KEYS)
local id, owner = unpack(ARGV)
if redis.call('HGET', run, 'owner') == owner then
  redis.call('HSET', run, 'released', 1)
  redis.call('ZADD', leases, 'XX', 0, id)
end
"""
)

CANCEL = (
    ALLOW_OOM
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'cancelled', 1) end
"""
)

SET = ALLOW_OOM + "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])"

HIT = (
    ALLOW_OOM
    + """
local used = redis.call('INCR', KEYS[1])
if used == 1 then redis.call('EXPIRE', KEYS[1], 60) end
return {used, redis.call('TTL', KEYS[1])}
"""
)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Only a Redis that cannot be reached is down; one that answers with an error refuses this command.

    The text is the error's own: redis-py's `repr` shows no more than its class.
    """
    try:
        yield
    except (OSError, ConnectionError, TimeoutError) as error:
        raise StoreDown(f"{type(error).__name__}: {error}") from error
    except RedisError as error:
        raise StoreRefused(f"{type(error).__name__}: {error}") from error


class RedisStore:
    shared = True

    def __init__(self, url: str, *, lease: float, ttl: int, longest: float) -> None:
        """Seconds: `lease` without a sign of life, `ttl` for a finished run, `longest` for any run."""
        pool = BlockingConnectionPool.from_url(
            url,
            decode_responses=True,
            max_connections=CONNECTIONS + 2,  # two for pings
            socket_timeout=2,
            socket_connect_timeout=1,
            # Once, for a connection that Redis has closed by restarting; not when it hangs.
            retry=Retry(NoBackoff(), 1, (ConnectionError,)),
        )
        self.connections = asyncio.Semaphore(CONNECTIONS)  # a burst of requests waits in line
        self.down: StoreDown | None = None
        self.redis = Redis.from_pool(pool)
        self.owner = uuid.uuid4().hex
        self.lease, self.ttl, self.longest = lease, ttl, longest
        script = self.redis.register_script
        self.scripts = {
            "create": script(CREATE),
            "append": script(APPEND),
            "renew": script(RENEW),
            "claim": script(CLAIM),
            "release": script(RELEASE),
            "cancel": script(CANCEL),
            "set": script(SET),
            "hit": script(HIT),
        }

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        """Wait in line for Redis; while it is known to be down, fail at once, until a ping has succeeded."""
        async with self.connections:
            if self.down:
                raise StoreDown(str(self.down))
            try:
                with translate_errors():
                    yield
            except StoreDown as error:
                self.down = error
                raise

    async def create(self, record: Record, alias: str | None, max_runs: int) -> str:
        run_id = record.run.id
        keys = [f"run:{run_id}", "leases", f"going:{record.caller}", f"alias:{alias}" if alias else ""]
        keys.append("finished")
        values: list[str | float] = [run_id, record.caller, self.owner, record.model_dump_json(), self.lease]
        values += [self.longest, max_runs, self.ttl]
        async with self.connection():
            known = await self.scripts["create"](keys, values)
        if known == "busy":
            raise Busy
        if known == "full":
            raise StoreRefused("the runs that are going take all memory that runs may take")
        return str(known)

    async def find(self, alias: str) -> str | None:
        async with self.connection():
            known: str | None = await self.redis.get(f"alias:{alias}")  # type: ignore[assignment]
        return known

    async def alias(self, alias: str, run_id: str, seconds: float) -> None:
        async with self.connection():
            values: list[str | float] = [run_id, max(1, round(seconds * 1000))]
            await self.scripts["set"]([f"alias:{alias}"], values)

    async def load(self, run_id: str) -> Record | None:
        async with self.connection():
            record = await self.redis.hget(f"run:{run_id}", "record")
        return Record.model_validate_json(record) if record else None

    async def append(self, record: Record, events: list[Event], *, changed: bool, first: bool) -> Written:
        """In batches: one script call holds up all others, and the last one says that the run is over."""
        *batches, rest = [events[n : n + BATCH_EVENTS] for n in range(0, len(events) or 1, BATCH_EVENTS)]
        for batch in batches:
            whole = record.model_dump_json() if first else ""
            if (told := await self.append_batch(record, batch, whole, over=False, first=first)) != "written":
                return told
            first = False
        whole = record.model_dump_json() if changed or first else ""
        return await self.append_batch(record, rest, whole, over=record.run.over, first=first)

    async def append_batch(
        self, record: Record, events: list[Event], whole: str, *, over: bool, first: bool
    ) -> Written:
        run = record.run
        keys = [f"run:{run.id}", "leases", f"going:{record.caller}", f"events:{run.id}", "finished"]
        values: list[str | float] = [run.id, self.owner, record.epoch, whole, int(over), self.lease]
        values += [self.longest, self.ttl, int(first)]
        for event in events:
            values += [wire_id(event.id), json.dumps([event.type, event.data])]
        async with self.connection():
            written: Written = await self.scripts["append"](keys, values)
        return written

    async def read(self, after: dict[str, EventId]) -> dict[str, list[Event]]:
        streams: dict[Any, Any] = {f"events:{run_id}": wire_id(last) for run_id, last in after.items()}
        async with self.connection():
            found: Any = await self.redis.xread(streams)
        return {
            name.removeprefix("events:"): [from_wire(number, fields) for number, fields in entries]
            for name, entries in found
        }

    async def renew(self, run_ids: list[str]) -> dict[str, Lease]:
        async with self.connection(), self.redis.pipeline(transaction=False) as pipeline:
            for run_id in run_ids:
                keys = [f"run:{run_id}", "leases", f"heard:{run_id}"]
                await self.scripts["renew"](keys, [run_id, self.owner, self.lease], client=pipeline)
            leases = await pipeline.execute(raise_on_error=False)
        return {
            run_id: Lease(*map(bool, told))
            for run_id, told in zip(run_ids, leases, strict=True)
            if not isinstance(told, RedisError)
        }

    async def release(self, run_id: str) -> None:
        async with self.connection():
            await self.scripts["release"]([f"run:{run_id}", "leases"], [run_id, self.owner])

    async def claim(self) -> Record | None:
        async with self.connection():
            claimed = await self.scripts["claim"](["leases"], [self.owner, self.lease, "run:"])
        if not claimed:
            return None
        run_id, caller, text, epoch, takeovers = claimed
        try:
            record = Record.model_validate_json(text)
        except ValidationError:
            if takeovers <= MAX_TAKEOVERS:  # another replica may have a version of this app that can read it
                raise StoreRefused(f"the record of the run {run_id} cannot be read") from None
            record = Record(run=Run(id=run_id, query=""), caller=caller, request_id="")
        record.epoch, record.takeovers = epoch, takeovers
        return record

    async def cancel(self, run_id: str) -> None:
        async with self.connection():
            await self.scripts["cancel"]([f"run:{run_id}"])

    async def hear(self, run_ids: list[str], seconds: float) -> None:
        async with self.connection(), self.redis.pipeline(transaction=False) as pipeline:
            for run_id in run_ids:
                values: list[str | float] = ["1", max(1, round(seconds * 1000))]
                await self.scripts["set"]([f"heard:{run_id}"], values, client=pipeline)
            await pipeline.execute()

    async def hit(self, caller: str, per_minute: int) -> Quota:
        async with self.connection():
            used, wait = await self.scripts["hit"]([f"rate:{caller}"])
        return Quota(used <= per_minute, max(0, per_minute - used), time.time() + wait)

    async def ping(self) -> None:
        try:
            with translate_errors():
                await self.redis.ping()
        except StoreDown as error:
            self.down = error
            raise
        self.down = None

    async def close(self) -> None:
        await self.redis.aclose()


def from_wire(number: str, fields: dict[str, str]) -> Event:
    kind, data = json.loads(fields["event"])
    return Event(id=event_id(number), type=kind, data=data)

"""Where runs are kept, for any replica to show and to go on with; and the store of a replica alone."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, Protocol

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from app.models import Event, EventId, Record
from app.runs.stores.event_codec import pack_events, unpack_events

MAX_TAKEOVERS = 3
"""Of a run by another replica, because the one that had it has ended without a word."""


class StoreError(Exception):
    """The store did not do what it was asked for; the text says why, for the log alone."""


class StoreDown(StoreError):
    """The store cannot be reached."""


class StoreRefused(StoreError):
    """The store answers, and refuses this one command: it is out of memory, say, or a key is broken."""


class Busy(Exception):
    """The caller has as many runs going as one may have."""


Written = Literal["written", "lost", "forgotten"]


@dataclass
class Lease:
    """What the store says of a run that this replica has."""

    held: bool = True
    cancelled: bool = False
    heard: bool = False
    """Somebody listens, here or at another replica."""


@dataclass
class Quota:
    allowed: bool
    left: int
    reset_at: float
    """Seconds since 1970."""


class Store(Protocol):
    """Every method may raise StoreDown or StoreRefused, and none waits long for it.

    A run belongs to the replica that holds its lease. Only that one may write; the lease ends by itself when
    it is not renewed, and then whoever claims the run first has it.
    """

    shared: bool
    """Other replicas see the same runs."""

    async def create(self, record: Record, alias: str | None, max_runs: int) -> str:
        """Keep a new run and hold its lease; the id of the run. Busy when its caller has too many.
        StoreRefused when there is no room for it.

        An alias (of an idempotency key, say) names one run: when it names one already, that one's id.
        """

    async def find(self, alias: str) -> str | None: ...

    async def alias(self, alias: str, run_id: str, seconds: float) -> None: ...

    async def load(self, run_id: str) -> Record | None: ...

    async def append(self, record: Record, events: list[Event], *, changed: bool, first: bool) -> Written:
        """Write events, and the record if it has changed, at once; renew the lease.

        Events that are there already are not written again. A run of which the store knows nothing (any more)
        is "forgotten", unless these are its first events: then it is kept anew.
        """

    async def read(self, after: dict[str, EventId]) -> dict[str, list[Event]]:
        """For each run the events after that id, which are there already; waits for none."""

    async def renew(self, run_ids: list[str]) -> dict[str, Lease]:
        """Hold on to these runs; one whose lease the store refuses to renew is missing in the reply."""

    async def release(self, run_id: str) -> None:
        """End the lease now: another replica may go on at once."""

    async def claim(self) -> Record | None:
        """Take over a run whose lease has ended, in its next epoch.

        A record that cannot be read is refused, until the run has had all its takeovers: then an empty one.
        """

    async def cancel(self, run_id: str) -> None:
        """Leave word for whoever holds the lease."""

    async def hear(self, run_ids: list[str], seconds: float) -> None:
        """Say that somebody listens to these runs, for so long."""

    async def hit(self, caller: str, per_minute: int) -> Quota:
        """Count a request of this caller."""

    async def ping(self) -> None:
        """Ask for a sign of life: until this succeeds, a store that was down may fail at once."""

    async def close(self) -> None: ...


@dataclass
class Kept:
    record: Record
    events: list[Event] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    cancelled: bool = False


@dataclass
class FinishedRun:
    """A run that does not change any more, packed: memory has to hold many of them."""

    record: bytes
    events: bytes
    aliases: list[str]
    expires: float

    @property
    def size(self) -> int:
        return len(self.record) + len(self.events)


class MemoryStore:
    """The store of a replica that is alone. Runs end with the process."""

    shared = False

    def __init__(self, ttl: float, max_runs: int, max_bytes: int = 64_000_000) -> None:
        """`ttl`: seconds for a finished run; the oldest go sooner beyond `max_runs` or `max_bytes`."""
        self.ttl, self.max_runs, self.max_bytes = ttl, max_runs, max_bytes
        self.runs: dict[str, Kept] = {}
        self.finished: dict[str, FinishedRun] = {}  # the oldest first
        self.bytes = 0
        self.aliases: dict[str, tuple[str, float]] = {}
        self.going: Counter[str] = Counter()
        self.limiter = FixedWindowRateLimiter(MemoryStorage())

    async def create(self, record: Record, alias: str | None, max_runs: int) -> str:
        if alias and (known := await self.find(alias)):
            return known
        if self.going[record.caller] >= max_runs:
            raise Busy
        self.going[record.caller] += 1
        self.runs[record.run.id] = Kept(record)
        if alias:
            await self.alias(alias, record.run.id, self.ttl)
        return record.run.id

    async def find(self, alias: str) -> str | None:
        run_id, until = self.aliases.get(alias, ("", 0.0))
        return run_id if until > time.monotonic() else None

    async def alias(self, alias: str, run_id: str, seconds: float) -> None:
        if kept := self.runs.get(run_id) or self.finished.get(run_id):
            self.aliases[alias] = (run_id, time.monotonic() + seconds)
            kept.aliases.append(alias)

    async def load(self, run_id: str) -> Record | None:
        self.expire()
        if finished := self.finished.get(run_id):
            return Record.model_validate_json(finished.record)
        kept = self.runs.get(run_id)
        return kept.record if kept else None

    async def append(self, record: Record, events: list[Event], *, changed: bool, first: bool) -> Written:
        run_id = record.run.id
        kept = self.runs[run_id]
        kept.events += events
        if record.run.over:
            packed = pack_events(kept.events)
            text = record.model_dump_json().encode()
            self.finished[run_id] = FinishedRun(text, packed, kept.aliases, time.monotonic() + self.ttl)
            self.bytes += self.finished[run_id].size
            del self.runs[run_id]
            self.going[record.caller] -= 1
            self.going += Counter()  # drops what has come to zero
            self.expire()
        return "written"

    async def read(self, after: dict[str, EventId]) -> dict[str, list[Event]]:
        found = {}
        for run_id, last in after.items():
            if finished := self.finished.get(run_id):
                found[run_id] = unpack_events(finished.events, last)
            elif kept := self.runs.get(run_id):
                found[run_id] = [event for event in kept.events if event.id > last]
        return found

    async def renew(self, run_ids: list[str]) -> dict[str, Lease]:
        return {
            run_id: Lease(cancelled=kept.cancelled) for run_id in run_ids if (kept := self.runs.get(run_id))
        }

    async def release(self, run_id: str) -> None:
        """There is nobody to go on with it."""

    async def claim(self) -> Record | None:
        return None

    async def cancel(self, run_id: str) -> None:
        if kept := self.runs.get(run_id):
            kept.cancelled = True

    async def hear(self, run_ids: list[str], seconds: float) -> None:
        """Whoever listens, listens here."""

    async def hit(self, caller: str, per_minute: int) -> Quota:
        limit = RateLimitItemPerMinute(per_minute)
        allowed = await self.limiter.hit(limit, caller)
        reset_at, left = await self.limiter.get_window_stats(limit, caller)
        return Quota(allowed, left, reset_at)

    async def ping(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        """And leaves nothing behind."""

    def expire(self) -> None:
        """Forget the finished runs that are too old, and the oldest of too many; running ones stay."""
        now = time.monotonic()
        while self.finished:
            run_id, oldest = next(iter(self.finished.items()))
            full = len(self.finished) > self.max_runs or self.bytes > self.max_bytes
            if oldest.expires > now and not (full and len(self.finished) > 1):
                break
            del self.finished[run_id]
            self.bytes -= oldest.size
            for alias in oldest.aliases:
                if self.aliases.get(alias, ("",))[0] == run_id:
                    del self.aliases[alias]

"""The store of a single process: runs are kept in memory and end with it."""

import time
from collections import Counter
from dataclasses import dataclass, field

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from app.models import Event, EventId, StoredRun
from app.runs.stores.base import AppendResult, LeaseStatus, Quota, TooManyRuns
from app.runs.stores.event_codec import pack_events, unpack_events


@dataclass
class UnfinishedRun:
    record: StoredRun
    events: list[Event] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    cancelled: bool = False


@dataclass
class FinishedRun:
    """A run that no longer changes. It is compressed, because memory has to hold many of them."""

    record: bytes
    events: bytes
    aliases: list[str]
    expires: float

    @property
    def size(self) -> int:
        return len(self.record) + len(self.events)


class MemoryStore:
    """Implements Store for one process. No other replica sees its runs, so no lease ever moves."""

    shared = False

    def __init__(self, ttl: float, max_runs: int, max_bytes: int = 64_000_000) -> None:
        """Keep finished runs for `ttl` seconds; remove the oldest sooner beyond `max_runs` or `max_bytes`."""
        self.ttl, self.max_runs, self.max_bytes = ttl, max_runs, max_bytes
        self.runs: dict[str, UnfinishedRun] = {}
        self.finished: dict[str, FinishedRun] = {}  # the oldest first
        self.bytes = 0
        self.aliases: dict[str, tuple[str, float]] = {}  # run id and expiry
        self.unfinished: Counter[str] = Counter()  # by caller
        self.limiter = FixedWindowRateLimiter(MemoryStorage())

    async def create(self, record: StoredRun, alias: str | None, max_runs: int) -> str:
        if alias and (known := await self.find_alias(alias)):
            return known
        if self.unfinished[record.caller] >= max_runs:
            raise TooManyRuns
        self.unfinished[record.caller] += 1
        self.runs[record.run.id] = UnfinishedRun(record)
        if alias:
            await self.set_alias(alias, record.run.id, self.ttl)
        return record.run.id

    async def find_alias(self, alias: str) -> str | None:
        run_id, expires = self.aliases.get(alias, ("", 0.0))
        return run_id if expires > time.monotonic() else None

    async def set_alias(self, alias: str, run_id: str, seconds: float) -> None:
        if stored := self.runs.get(run_id) or self.finished.get(run_id):
            self.aliases[alias] = (run_id, time.monotonic() + seconds)
            stored.aliases.append(alias)

    async def load(self, run_id: str) -> StoredRun | None:
        self.remove_expired()
        if finished := self.finished.get(run_id):
            return StoredRun.model_validate_json(finished.record)
        unfinished = self.runs.get(run_id)
        return unfinished.record if unfinished else None

    async def append(
        self, record: StoredRun, events: list[Event], *, changed: bool, first: bool
    ) -> AppendResult:
        run_id = record.run.id
        self.runs[run_id].events += events
        if record.run.finished:
            unfinished = self.runs.pop(run_id)
            packed = pack_events(unfinished.events)
            text = record.model_dump_json().encode()
            finished = FinishedRun(text, packed, unfinished.aliases, time.monotonic() + self.ttl)
            self.finished[run_id] = finished
            self.bytes += finished.size
            self.unfinished[record.caller] -= 1
            self.unfinished += Counter()  # removes callers that have no unfinished run left
            self.remove_expired()
        return "written"

    async def read_events(self, after: dict[str, EventId], wait: float = 0) -> dict[str, list[Event]]:
        events = {}
        for run_id, last in after.items():
            if finished := self.finished.get(run_id):
                events[run_id] = unpack_events(finished.events, last)
            elif unfinished := self.runs.get(run_id):
                events[run_id] = [event for event in unfinished.events if event.id > last]
        return events

    async def renew_leases(self, run_ids: list[str]) -> dict[str, LeaseStatus]:
        return {
            run_id: LeaseStatus(cancelled=self.runs[run_id].cancelled)
            for run_id in run_ids
            if run_id in self.runs
        }

    async def release(self, run_id: str) -> None:
        """No-op: there is no other replica."""

    async def claim(self) -> StoredRun | None:
        return None

    async def cancel(self, run_id: str) -> None:
        if unfinished := self.runs.get(run_id):
            unfinished.cancelled = True

    async def mark_followed(self, run_ids: list[str], seconds: float) -> None:
        """No-op: every client is connected to this process."""

    async def count_request(self, caller: str, per_minute: int) -> Quota:
        limit = RateLimitItemPerMinute(per_minute)
        allowed = await self.limiter.hit(limit, caller)
        reset_at, remaining = await self.limiter.get_window_stats(limit, caller)
        return Quota(allowed, remaining, reset_at)

    async def ping(self) -> None:
        """No-op: memory is always reachable."""

    async def close(self) -> None:
        """No-op: there is nothing to close."""

    def remove_expired(self) -> None:
        """Remove finished runs that are too old, and the oldest if there are too many of them."""
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

"""Write the events and records of this replica's runs to the store."""

import asyncio
import hashlib
import time

import structlog

from app.config import Settings
from app.runs.active_runs import ActiveRun, ActiveRuns
from app.runs.stores.base import Store, StoreDown

log = structlog.stdlib.get_logger("research-agent")
WRITE_INTERVAL_SECONDS = 0.03  # between two writes: events in the meantime are written together
RETRY_SECONDS = 1  # the time after which a write that the store has refused is tried again


def answer_alias(caller: str, query: str) -> str:
    """The alias of a finished run, under which it is found when the same caller asks the question again."""
    return f"answer:{caller}:{hashlib.sha256(query.encode()).hexdigest()}"


class EventWriter:
    """Writes the new events of the active runs, and removes a run from them when its end is stored."""

    def __init__(self, settings: Settings, store: Store, active: ActiveRuns) -> None:
        self.settings, self.store, self.active = settings, store, active
        self.pending = asyncio.Event()

    def wake(self) -> None:
        """Tell the writer that a run has something new to write."""
        self.pending.set()

    async def write_pending(self) -> None:
        """Wait for something to write, then write all runs. One that fails does not stop the others."""
        await self.pending.wait()
        self.pending.clear()
        runs = self.active.unwritten()
        results = await asyncio.gather(*map(self.write, runs), return_exceptions=True)
        for run, error in zip(runs, results, strict=True):
            if isinstance(error, Exception) and not isinstance(error, StoreDown):
                self.handle_refusal(run, error)
            if error and run.record.run.finished:
                run.publish_end()  # let clients read the end although it is not stored
        for error in results:
            if isinstance(error, StoreDown):
                self.wake()
                raise error

    async def write(self, run: ActiveRun) -> None:
        """Write the new events of one run. When its end is written, publish it and remove the run here."""
        start = run.stored_events
        events = run.events[start:]
        changed, run.record_changed = run.record_changed, False
        try:
            result = await self.store.append(run.record, events, changed=changed, first=not start)
        except BaseException:
            run.record_changed = run.record_changed or changed
            raise
        if result == "not_owner":
            self.active.relinquish(run)
        elif result == "missing":
            run.stored_events, run.record_changed = 0, True
        else:
            run.stored_events = start + len(events)
            if run.record.run.finished and run.written:
                await self.complete(run)

    async def complete(self, run: ActiveRun) -> None:
        """The end of the run is stored: let clients read it, and let it answer the same question again."""
        run.publish_end()
        if self.active.pop(run.record.run.id, None) is None:
            return
        seconds = min(self.settings.cache_ttl_seconds, self.settings.run_ttl_seconds)
        result = run.record.run.result
        if seconds and result and result.finish_reason == "stop":
            alias = answer_alias(run.record.caller, run.record.run.query)
            await self.store.set_alias(alias, run.record.run.id, seconds)

    def handle_refusal(self, run: ActiveRun, error: Exception) -> None:
        """Fail a run that the store refuses to write. That end is written later, if the store takes it."""
        if not run.write_refused:
            reason = f"{type(error).__name__}: {error}"
            log.error("a run cannot be stored", run_id=run.record.run.id, error=reason)
        run.write_refused = True
        run.retry_at = time.monotonic() + RETRY_SECONDS
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self.wake)
        if not run.record.run.finished:
            run.fail(503, "The run could not be stored.")
            self.wake()
            run.stop_task()
        elif time.time() > run.record.run.created_at + self.settings.timeout_seconds:
            # The run is past its deadline: a replica that claims it fails it at once.
            self.active.pop(run.record.run.id, None)

    async def write_rest(self, seconds: float) -> None:
        """Have the background task write everything, for at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while self.active.unwritten():
                    self.wake()
                    await asyncio.sleep(WRITE_INTERVAL_SECONDS)
        except TimeoutError:
            log.warning("not everything could be stored", runs=len(self.active.unwritten()))

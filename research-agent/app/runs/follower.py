"""Follow a run wherever it is executed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.models import STREAM_START_ID, Event, EventId, Problem
from app.runs.active_runs import ActiveRun, ActiveRuns
from app.runs.event_log import EventLog
from app.runs.remote_logs import RemoteLogs
from app.runs.stores.base import Store, StoreError


class RunFollower:
    """Reads the events of any run: from the active run of this replica, or from the store."""

    def __init__(self, store: Store, active: ActiveRuns, remote_logs: RemoteLogs) -> None:
        self.store, self.active, self.remote_logs = store, active, remote_logs

    def can_follow(self, run_id: str) -> bool:
        """Return False if this replica drains and does not execute the run: clients use another replica."""
        return run_id in self.active or not self.remote_logs.closed

    async def log_of(self, run_id: str) -> EventLog:
        return self.active.get(run_id) or await self.remote_logs.get(run_id)

    async def follow(self, run_id: str, after: EventId) -> AsyncGenerator[list[Event]]:
        """Yield the events after that id in batches. The last event is missing if the run moves away."""
        while self.can_follow(run_id):
            try:
                log = await self.log_of(run_id)
            except StoreError:
                return
            async with aclosing(log.follow(after)) as batches:
                async for batch in batches:
                    if not batch and (last := await self.make_missing_last_event(run_id, log)):
                        yield [last]
                        return
                    yield batch
                    if batch:
                        after = batch[-1].id
            if self.remote_logs.closed or log.ended:
                return

    async def make_missing_last_event(self, run_id: str, log: EventLog) -> Event | None:
        """Return a last event for a run that has finished or expired without a stored one.

        None if the run is still active, or if the store fails.
        """
        if isinstance(log, ActiveRun):
            return None
        try:
            record = await self.store.load(run_id)
        except StoreError:
            return None
        if record and not record.run.finished:
            return None
        end = (log.events[-1].id[0] + 1 if log.events else 0, 1)
        if record:
            return Event(end, *record.run.last_event)
        gone = Problem(title="Not Found", status=404, detail="The run is gone.", request_id="")
        return Event(end, "error", {"problem": gone.model_dump(exclude_none=True)})

    async def wait_until_finished(self, run_id: str) -> bool:
        """Wait for the end of a run. False if this replica cannot follow it to the end."""
        if run := self.active.get(run_id):
            run.listeners += 1
            try:
                await run.settled.wait()
            finally:
                run.listeners -= 1
        async with aclosing(self.follow(run_id, STREAM_START_ID)) as batches:
            async for batch in batches:
                if batch and batch[-1].is_last:
                    return True
        return False

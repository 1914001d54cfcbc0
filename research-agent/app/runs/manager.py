"""The run manager: what the API can do with runs. It wires the classes that do the work."""

from collections.abc import AsyncGenerator

from app.agent import Agent
from app.config import Settings
from app.models import Event, EventId, StoredRun
from app.runs.active_runs import ActiveRun, ActiveRuns
from app.runs.background import BackgroundTasks, StoreStatus
from app.runs.drain import Drainer
from app.runs.event_writer import WRITE_INTERVAL_SECONDS, EventWriter
from app.runs.executor import RunExecutor
from app.runs.follower import RunFollower
from app.runs.remote_logs import RemoteLogs
from app.runs.replication import LeaseKeeper, Takeover
from app.runs.stores.base import Store

READ_INTERVAL_SECONDS = 0.03  # between two reads of other replicas' runs


class RunManager:
    """Starts, finds, follows, cancels and drains runs, wherever they are executed."""

    def __init__(self, settings: Settings, store: Store, agent: Agent) -> None:
        self.settings, self.store, self.agent = settings, store, agent
        self.starting = 0
        self.active = ActiveRuns()
        self.remote_logs = RemoteLogs(store)
        self.follower = RunFollower(store, self.active, self.remote_logs)
        self.writer = EventWriter(settings, store, self.active)
        self.executor = RunExecutor(settings, agent, self.active, self.writer)
        status = StoreStatus()
        takeover = Takeover(store, self.active, self.writer, self.executor)
        self.leases = LeaseKeeper(settings, store, self.active, self.remote_logs, status, takeover)
        self.drainer = Drainer(store, self.active, self.writer, self.remote_logs, self.leases)
        self.background = BackgroundTasks(status)

    def open(self) -> None:
        """Start the background tasks."""
        self.background.run_periodically(self.writer.write_pending, WRITE_INTERVAL_SECONDS)
        self.background.run_periodically(self.remote_logs.refresh, READ_INTERVAL_SECONDS)
        self.background.run_periodically(self.leases.heartbeat, self.settings.lease_seconds / 6)

    async def drain(self, seconds: float) -> None:
        await self.drainer.drain(seconds)

    async def close(self) -> None:
        await self.background.stop()
        await self.store.close()

    @property
    def draining(self) -> bool:
        return self.drainer.draining

    @property
    def full(self) -> bool:
        """True if MAX_CONCURRENCY runs are executed and MAX_QUEUE wait."""
        unfinished = self.starting + len(self.active.unfinished())
        return unfinished >= self.settings.max_concurrency + self.settings.max_queue

    async def start(self, record: StoredRun, alias: str | None = None) -> str:
        """Start a run, unless the alias already names one. Returns the id of the run."""
        self.starting += 1
        try:
            run_id = await self.store.create(record, alias, self.settings.max_runs_per_caller)
        except BaseException:
            self.agent.circuit.release_trial(record.run.id)
            raise
        finally:
            self.starting -= 1
        if run_id == record.run.id:
            self.executor.execute(ActiveRun(record))
        else:
            self.agent.circuit.release_trial(record.run.id)
        return run_id

    async def get(self, run_id: str) -> StoredRun | None:
        run = self.active.get(run_id)
        if run and run.record.run.finished:
            await run.settled.wait()
        if run and (run.end_published or not run.record.run.finished):
            return run.record
        return await self.store.load(run_id)

    def can_follow(self, run_id: str) -> bool:
        return self.follower.can_follow(run_id)

    async def is_last_event(self, run_id: str, event_id: EventId) -> bool:
        """Return True if the run has finished and this id is that of its last event, or a later one."""
        known = (await self.follower.log_of(run_id)).events
        return bool(known) and known[-1].is_last and known[-1].id <= event_id

    def follow(self, run_id: str, after: EventId) -> AsyncGenerator[list[Event]]:
        return self.follower.follow(run_id, after)

    async def wait_until_finished(self, run_id: str) -> bool:
        return await self.follower.wait_until_finished(run_id)

    async def abandon(self, run_id: str) -> None:
        """Cancel a run that a client has left, unless others follow it or it runs in the background."""
        run = self.active.get(run_id)
        if run and not (run.listeners or run.followed_elsewhere or run.record.run.background):
            run.cancel()

    async def cancel(self, run_id: str) -> None:
        if run := self.active.get(run_id):
            run.cancel()
        else:
            await self.store.cancel(run_id)

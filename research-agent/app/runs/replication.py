"""Share runs among replicas: renew this replica's leases, and take over runs whose replica ended."""

import time

import structlog

from app import telemetry
from app.config import Settings
from app.models import STREAM_START_ID, StoredRun, format_event_id
from app.runs.active_runs import ActiveRun, ActiveRuns
from app.runs.background import StoreStatus
from app.runs.event_writer import EventWriter
from app.runs.executor import RunExecutor
from app.runs.remote_logs import RemoteLogs
from app.runs.stores.base import MAX_TAKEOVERS, LeaseStatus, Store

log = structlog.stdlib.get_logger("research-agent")


class Takeover:
    """Goes on with a run that this replica has claimed, from its last finished step."""

    def __init__(self, store: Store, active: ActiveRuns, writer: EventWriter, executor: RunExecutor) -> None:
        self.store, self.active, self.writer, self.executor = store, active, writer, executor

    async def take_over(self, record: StoredRun) -> None:
        run_id = record.run.id
        if old := self.active.get(run_id):
            self.active.relinquish(old)
        events = (await self.store.read_events({run_id: STREAM_START_ID})).get(run_id, [])
        run = ActiveRun(record, events)
        if record.run.finished:  # its replica ended before writing the last event
            run.emit(*record.run.last_event)
            self.active[run_id] = run
            self.writer.wake()
            return
        if record.takeovers > MAX_TAKEOVERS:
            self.give_up(run)
            return
        complete = [event.id for event in events if event.type != "token"]
        last = complete[-1] if complete else STREAM_START_ID
        log.warning("took over a run", run_id=run_id, epoch=record.epoch)
        telemetry.takeovers.inc()
        run.emit("reset", {"from_id": format_event_id(last)})
        self.executor.execute(run)

    def give_up(self, run: ActiveRun) -> None:
        """Fail a run after several replicas ended while they executed it: the run itself may crash them."""
        run_id = run.record.run.id
        log.error("gave up a run", run_id=run_id, takeovers=MAX_TAKEOVERS)
        self.active[run_id] = run
        run.fail(500, f"The run was given up: {MAX_TAKEOVERS + 1} replicas ended while they executed it.")
        self.executor.record_end(run)


class LeaseKeeper:
    """Owns the leases of this replica's runs: renews them, and claims runs whose lease has expired."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        active: ActiveRuns,
        remote_logs: RemoteLogs,
        status: StoreStatus,
        takeover: Takeover,
    ) -> None:
        self.settings, self.store, self.active, self.remote_logs = settings, store, active, remote_logs
        self.status, self.takeover = status, takeover
        self.claiming = True

    async def heartbeat(self) -> None:
        """Renew this replica's leases, cancel runs without followers, and take over expired leases."""
        now = time.monotonic()
        unfinished = [run.record.run.id for run in self.active.unfinished()]
        followed = self.remote_logs.followed()
        await self.store.ping()
        self.status.set_up()
        if followed:
            await self.store.mark_followed(followed, self.settings.lease_seconds)
        if unfinished:
            for run_id, lease in (await self.store.renew_leases(unfinished)).items():
                if run := self.active.get(run_id):
                    self.apply(run, lease, now)
        # When the store was away, all leases have expired. Wait one lease, so that live owners can renew.
        if now - self.status.down_at > self.settings.lease_seconds:
            await self.claim_expired()

    def apply(self, run: ActiveRun, lease: LeaseStatus, now: float) -> None:
        if not lease.held:
            self.active.relinquish(run)
            return
        run.followed_elsewhere = lease.followed
        if run.listeners or lease.followed or run.record.run.background:
            run.followed_at = now
        if lease.cancelled or now - run.followed_at > self.settings.resume_grace_seconds:
            run.cancel()

    async def claim_expired(self) -> None:
        while self.claiming and len(self.active) < self.settings.max_concurrency:
            if (record := await self.store.claim()) is None:
                break
            await self.takeover.take_over(record)

    def stop_claiming(self) -> None:
        self.claiming = False

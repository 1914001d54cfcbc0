"""Drain this replica: let its runs finish, and hand the rest over to other replicas."""

import asyncio
from contextlib import suppress

import structlog

from app.runs.active_runs import ActiveRun, ActiveRuns
from app.runs.event_writer import EventWriter
from app.runs.remote_logs import RemoteLogs
from app.runs.replication import LeaseKeeper
from app.runs.stores.base import Store, StoreError

log = structlog.stdlib.get_logger("research-agent")
STORE_SECONDS = 2  # the time limit for handing over all runs, and again for writing the remaining events


class Drainer:
    """Stops this replica's work on its runs before the process ends."""

    def __init__(
        self,
        store: Store,
        active: ActiveRuns,
        writer: EventWriter,
        remote_logs: RemoteLogs,
        leases: LeaseKeeper,
    ) -> None:
        self.store, self.active, self.writer = store, active, writer
        self.remote_logs, self.leases = remote_logs, leases
        self.draining = False

    async def drain(self, seconds: float) -> None:
        """Wait up to `seconds` for runs to finish.

        Then hand over the remaining runs, or fail them if there is no other replica.
        """
        self.draining = True
        self.leases.stop_claiming()
        self.remote_logs.close()
        if tasks := [run.task for run in self.active.values() if run.task and not run.task.done()]:
            await asyncio.wait(tasks, timeout=seconds)
        rest = self.active.unfinished()
        if self.store.shared:
            await self.hand_over_all(rest)
        else:
            for run in rest:
                run.fail(503, "The server is stopping.")
                run.stop_task()
        await self.writer.write_rest(STORE_SECONDS)
        for run in self.active.values():
            run.publish_end()

    async def hand_over_all(self, runs: list[ActiveRun]) -> None:
        with suppress(TimeoutError):  # the store hangs: the leases will expire
            async with asyncio.timeout(STORE_SECONDS):
                await asyncio.gather(*map(self.hand_over, runs))
        for run in runs:
            run.close()

    async def hand_over(self, run: ActiveRun) -> None:
        run_id = run.record.run.id
        run.stop_task()
        if run.task:
            await asyncio.wait([run.task])
        try:
            await self.writer.write(run)
            if not run.record.run.finished:
                self.active.pop(run_id, None)
                await self.store.release(run_id)
            log.info("handed over a run", run_id=run_id)
        except StoreError as error:
            log.warning("could not hand over a run: its lease will expire", run_id=run_id, error=str(error))

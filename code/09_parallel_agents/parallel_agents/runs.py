"""Runs: start their variations, let a number of them run at once, store what they became, and stop them."""

import asyncio
import fcntl
import time
from contextlib import suppress
from typing import Any, Literal, TextIO

import structlog

from parallel_agents import telemetry
from parallel_agents.config import Settings
from parallel_agents.engines.base import Engine, EngineDown, Job
from parallel_agents.event_log import EventLog, RunLog
from parallel_agents.gateway import Budget, Gateway, Usage
from parallel_agents.models import UNFINISHED, Run, Variation
from parallel_agents.repositories import BadRepository, GitFailed, Repositories
from parallel_agents.store import Store
from parallel_agents.supervisor import Outcome, supervise

log = structlog.stdlib.get_logger("parallel-agents")
RETRY_SECONDS = 5  # between two attempts to reach the engine for the sweep


class QuotaExceeded(Exception):
    """The user has too many variations that run or wait."""


class ActiveRun:
    """A run that this process carries out."""

    def __init__(self, run: Run, variations: list[Variation], log: RunLog, budget: Budget) -> None:
        self.run, self.variations, self.log, self.budget = run, variations, log, budget
        self.task: asyncio.Task[None] | None = None
        self.stop_state: Literal["cancelled", "interrupted"] | None = None  # once it was told to stop

    @property
    def unfinished(self) -> int:
        return sum(each.state in UNFINISHED for each in self.variations)


class RunManager:
    def __init__(
        self, settings: Settings, store: Store, events: EventLog, engine: Engine, gateway: Gateway
    ) -> None:
        self.settings, self.store, self.events = settings, store, events
        self.engine, self.gateway = engine, gateway
        self.repositories = Repositories(settings)
        self.slots = asyncio.Semaphore(settings.max_concurrency)
        self.active: dict[str, ActiveRun] = {}
        self.reserved: dict[str, int] = {}  # variations of users whose runs are being stored
        self.swept = asyncio.Event()
        self.sweeping: asyncio.Task[None] | None = None
        self.draining = False

    async def open(self) -> None:
        """Mark what a dead server left as interrupted, and remove its containers in the background."""
        self.repositories.open()
        for run_id, lost in await self.store.interrupt_unfinished():
            last = await self.store.last_event(run_id)
            run_log = self.events.start(run_id, last.id if last else 0)
            for n in lost:
                await run_log.append(n, "state", name="interrupted")
            await run_log.append(None, "done", reason="interrupted")
            await self.events.finish(run_log)
            log.warning("interrupted", run_id=run_id, variations=len(lost))
        self.sweeping = asyncio.create_task(self.sweep())

    async def sweep(self) -> None:
        """Remove what a dead server left. No variation starts before that."""
        while True:
            try:
                await self.engine.open()
                found = await self.engine.sweep()
                break
            except Exception as error:  # noqa: BLE001  # whatever fails, the sweep must happen
                log.error("the sweep failed", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
        found["folders"] = await asyncio.to_thread(self.repositories.sweep)  # no container uses them any more
        for kind, count in found.items():
            telemetry.swept.labels(kind).inc(count)
        log.info("swept", **found)
        self.swept.set()

    # --- Start ---

    def quota_left(self, user_id: str) -> int:
        used = sum(each.unfinished for each in self.active.values() if each.run.user_id == user_id)
        return self.settings.max_variations_per_user - used - self.reserved.get(user_id, 0)

    async def start(self, run: Run, count: int, strategies: list[str]) -> None:
        """Store a run and start it. Raises `QuotaExceeded`, or `Conflict` if its Idempotency-Key is taken."""
        if count > self.quota_left(run.user_id):
            raise QuotaExceeded
        self.reserved[run.user_id] = self.reserved.get(run.user_id, 0) + count
        try:
            variations = [
                Variation(
                    run_id=run.id, n=n, strategy=strategies[(n - 1) % len(strategies)], seed=run.seed + n
                )
                for n in range(1, count + 1)
            ]
            await self.store.add(run, *variations)
            active = ActiveRun(run, variations, self.events.start(run.id), Budget(self.settings.token_budget))
            self.active[run.id] = active
        finally:
            self.reserved[run.user_id] -= count
            if not self.reserved[run.user_id]:
                del self.reserved[run.user_id]
        active.task = asyncio.create_task(self.carry_out(active))

    async def carry_out(self, active: ActiveRun) -> None:
        structlog.contextvars.bind_contextvars(run_id=active.run.id)
        state = "failed"
        try:
            state = await self.run_variations(active)
        except Exception:
            log.exception("the run failed")
        finally:
            state = active.stop_state or state
            await asyncio.shield(self.finish(active, state))
            telemetry.runs.labels(state).inc()

    async def run_variations(self, active: ActiveRun) -> str:
        run = active.run
        await active.log.append(None, "state", name="queued")
        try:
            await self.swept.wait()
            await active.log.append(None, "state", name="running")
            await self.store.update_run(run.id, state="running")
            address = await self.repositories.check(run.repository)
            mirror, run.commit = await self.repositories.fetch(address, run.ref)
            await self.store.update_run(run.id, commit=run.commit)
        except asyncio.CancelledError:
            self.uncancel()
            for variation in active.variations:
                await self.finish_variation(active, variation, Outcome(active.stop_state or "interrupted"))
            return active.stop_state or "interrupted"
        except BadRepository as bad:
            await active.log.append(None, "log", stream="server", text=bad.reason)
            for variation in active.variations:
                await self.finish_variation(active, variation, Outcome("crashed", {"summary": bad.reason}))
            return "failed"
        tasks = [asyncio.create_task(self.run_variation(active, mirror, each)) for each in active.variations]
        while True:
            try:
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                for error in filter(None, ended):
                    log.error("a variation's outcome was not stored", error=type(error).__name__)
                return "failed" if any(ended) else "done"
            except asyncio.CancelledError:  # gather has cancelled the tasks; each of them still finishes
                self.uncancel()
                await asyncio.wait(tasks)

    @staticmethod
    def uncancel() -> None:
        """This task has handled its cancellation: what it awaits from now on is not cancelled any more."""
        if task := asyncio.current_task():
            task.uncancel()

    # --- One variation ---

    async def run_variation(self, active: ActiveRun, mirror: Any, variation: Variation) -> None:
        """Run a variation and store its outcome. Its failure never touches the others."""
        patch: bytes | None = None
        try:
            with telemetry.queued.track_inprogress():
                await self.slots.acquire()
            try:
                with telemetry.running.track_inprogress():
                    outcome, patch = await self.attempt(active, mirror, variation)
            finally:
                self.slots.release()
        except asyncio.CancelledError:
            self.uncancel()
            outcome = Outcome(active.stop_state or "interrupted")
        except EngineDown:
            outcome = Outcome("crashed", {"summary": "The engine did not start the container, or lost it."})
        except Exception:
            log.exception("the variation failed", variation=variation.n)
            outcome = Outcome(
                "crashed", {"summary": "Something went wrong; the server's log has the details."}
            )
        await self.finish_variation(active, variation, outcome, patch)

    async def attempt(
        self, active: ActiveRun, mirror: Any, variation: Variation
    ) -> tuple[Outcome, bytes | None]:
        run, n = active.run, variation.n

        async def sink(kind: str, **data: Any) -> None:
            await active.log.append(n, kind, **data)

        async def on_usage(usage: Usage) -> None:
            variation.prompt_tokens, variation.completion_tokens = (
                usage["prompt_tokens"],
                usage["completion_tokens"],
            )
            await active.log.append(n, "usage", **usage)

        variation.state = "running"
        await self.store.update_variation(variation)
        await active.log.append(n, "state", name="running")
        copy = await self.repositories.copy(mirror, str(run.commit), f"{run.id}-{n}")
        token, _ = self.gateway.grant(active.budget, on_usage)
        try:
            environment = {
                "AGENT_PROMPT": run.prompt,
                "AGENT_STRATEGY": variation.strategy,
                "AGENT_SEED": str(variation.seed),
                "AGENT_COMMAND_SECONDS": f"{self.settings.command_timeout:g}",
                "OPENAI_MODEL": self.settings.model_name,
                "HOME": "/tmp",  # noqa: S108  # the container's
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",
            }
            job = Job(run.id, n, copy.files, environment, token)
            outcome = await supervise(self.engine, job, self.settings, self.work_mb, sink)
            self.gateway.revoke(token)
            try:
                patch, (files, added, removed) = await copy.patch()
            except (TimeoutError, GitFailed):  # there may be a million files
                return outcome, None
            outcome.values |= {"files_changed": files, "lines_added": added, "lines_removed": removed}
            return outcome, patch
        finally:
            self.gateway.revoke(token)
            await asyncio.shield(copy.remove())

    @property
    def work_mb(self) -> int | None:
        return None if self.engine.name == "dagger" else self.settings.work_mb or 64

    async def finish_variation(
        self, active: ActiveRun, variation: Variation, outcome: Outcome, patch: bytes | None = None
    ) -> None:
        """Store the outcome, then tell it: what a reader has seen survives the death of this process."""
        variation.state = outcome.state
        for name, value in outcome.values.items():
            setattr(variation, name, value)
        await self.store.update_variation(variation, patch)
        telemetry.variations.labels(outcome.state).inc()
        facts = variation.model_dump(exclude={"run_id", "n", "state"})
        await active.log.append(variation.n, "state", name=outcome.state, **facts)

    async def finish(self, active: ActiveRun, state: str) -> None:
        await self.store.update_run(active.run.id, state=state, finished_at=time.time())
        await active.log.append(None, "done", reason=state)
        await self.events.finish(active.log)
        del self.active[active.run.id]

    # --- Stop ---

    def stop(self, active: ActiveRun, state: Literal["cancelled", "interrupted"]) -> None:
        if active.stop_state is None and active.task:
            active.stop_state = state
            active.task.cancel()

    async def cancel(self, run_id: str) -> None:
        """Cancel a run and wait until its containers are gone. No-op for a run that has finished."""
        if active := self.active.get(run_id):
            self.stop(active, "cancelled")
            if active.task:
                await asyncio.wait([active.task])

    async def drain(self, seconds: float) -> None:
        """Let runs finish for a while, then stop those that are left."""
        self.draining = True
        tasks = [each.task for each in self.active.values() if each.task]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for active in list(self.active.values()):
            self.stop(active, "interrupted")
        if left := [task for task in tasks if not task.done()]:
            await asyncio.wait(left)

    async def close(self) -> None:
        if self.sweeping:
            self.sweeping.cancel()
            await asyncio.wait([self.sweeping])
        with suppress(EngineDown):
            await self.engine.sweep()


def lock_data_dir(settings: Settings) -> TextIO:
    """One server for each data folder: a second would sweep the containers of the first. Raises OSError."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    lock = (settings.data_dir / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock

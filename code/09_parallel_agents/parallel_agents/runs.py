"""Runs: start their variations, let a number of them run at once, store what they became, and stop them."""

import asyncio
import fcntl
import time
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any, Literal, TextIO

import structlog

from parallel_agents import telemetry
from parallel_agents.config import Settings
from parallel_agents.engines.base import Engine, EngineDown, Job
from parallel_agents.event_log import EventLog, RunLog
from parallel_agents.gateway import Budget, Gateway, Usage
from parallel_agents.models import UNFINISHED, Run, RunState, Variation
from parallel_agents.repositories import BadRepository, GitFailed, Repositories, WorkCopy
from parallel_agents.store import Store
from parallel_agents.supervisor import Outcome, supervise

log = structlog.stdlib.get_logger("parallel-agents")
Ended = tuple[Outcome, bytes | None]  # how a variation ended, and its patch


class QuotaExceeded(Exception):
    """The user has too many variations that run or wait."""


class ShuttingDown(Exception):
    """The server stops, and starts no run."""


class ActiveRun:
    """A run that this process carries out."""

    def __init__(self, run: Run, variations: list[Variation], log: RunLog, budget: Budget) -> None:
        self.run, self.variations, self.log, self.budget = run, variations, log, budget
        self.task: asyncio.Task[None]  # which ends when all is stored
        self.preparing: asyncio.Task[Path]
        self.attempts: list[asyncio.Task[Ended]] = []
        self.stop_state: Literal["cancelled", "interrupted"] | None = None  # once it was told to stop

    def stop(self, state: Literal["cancelled", "interrupted"]) -> None:
        if self.stop_state is None:
            self.stop_state = state
            for attempt in self.attempts:
                attempt.cancel()


class RunManager:
    def __init__(
        self, settings: Settings, store: Store, events: EventLog, engine: Engine, gateway: Gateway
    ) -> None:
        self.settings, self.store, self.events = settings, store, events
        self.engine, self.gateway = engine, gateway
        self.repositories = Repositories(settings)
        self.slots = asyncio.Semaphore(settings.max_concurrency)
        self.active: dict[str, ActiveRun] = {}
        self.starting = asyncio.Lock()
        self.draining = False

    async def open(self) -> None:
        """Remove what a dead server left, and mark its runs as interrupted. Raises `EngineDown`."""
        found = await self.engine.sweep()
        found["folders"] = await asyncio.to_thread(self.repositories.open)
        for kind, count in found.items():
            telemetry.swept.labels(kind).inc(count)
        log.info("swept", **found)
        for run_id, lost in await self.store.interrupt_unfinished():
            last = await self.store.last_event(run_id)
            run_log = self.events.start(run_id, last.id if last else 0)
            for n in lost:
                await run_log.append(n, "state", name="interrupted")
            await run_log.append(None, "done", reason="interrupted")
            await self.events.finish(run_log)
            log.warning("interrupted", run_id=run_id, variations=len(lost))

    # --- Start ---

    def quota_left(self, user_id: str) -> int:
        own = [each for each in self.active.values() if each.run.user_id == user_id]
        used = sum(variation.state in UNFINISHED for each in own for variation in each.variations)
        return self.settings.max_variations_per_user - used

    async def start(self, run: Run, count: int, strategies: list[str]) -> None:
        """Store a run and start it.

        Raises `ShuttingDown`, `QuotaExceeded`, or `Conflict` if its Idempotency-Key is taken.
        """
        variations = [
            Variation(run_id=run.id, n=n, strategy=strategies[(n - 1) % len(strategies)], seed=run.seed + n)
            for n in range(1, count + 1)
        ]
        async with self.starting:  # one after the other, so that the quota counts them all
            if self.draining:
                raise ShuttingDown
            if count > self.quota_left(run.user_id):
                raise QuotaExceeded
            await self.store.add(run, *variations)
            active = ActiveRun(run, variations, self.events.start(run.id), Budget(self.settings.token_budget))
            active.preparing = asyncio.create_task(self.prepare(active))
            active.attempts = [asyncio.create_task(self.attempt(active, each)) for each in variations]
            active.task = asyncio.create_task(self.carry_out(active))
            self.active[run.id] = active

    async def carry_out(self, active: ActiveRun) -> None:
        """Wait for all variations, and store how the run ended."""
        structlog.contextvars.bind_contextvars(run_id=active.run.id)
        pairs = zip(active.variations, active.attempts, strict=True)
        ends = await asyncio.gather(
            *(self.store_end(active, *pair) for pair in pairs), return_exceptions=True
        )
        for error in filter(None, ends):
            log.error("a variation's outcome was not stored", error=type(error).__name__)
        active.preparing.cancel()  # if no variation needs it any more
        prepared = await asyncio.gather(active.preparing, return_exceptions=True)
        failed = any(ends) or isinstance(prepared[0], BaseException)
        state: RunState = active.stop_state or ("failed" if failed else "done")
        try:
            await self.store.update_run(active.run.id, state=state, finished_at=time.time())
            await active.log.append(None, "done", reason=state)
            await self.events.finish(active.log)
        finally:  # also when the disk is full; the next server then marks the run as interrupted
            self.events.active.pop(active.run.id, None)
            del self.active[active.run.id]
            await self.repositories.release(active.run.id)
        telemetry.runs.labels(state).inc()

    async def prepare(self, active: ActiveRun) -> Path:
        """Bring the mirror of the repository up to date."""
        run = active.run
        await active.log.append(None, "state", name="running")
        await self.store.update_run(run.id, state="running")
        mirror, run.commit = await self.repositories.fetch(run.id, run.repository, run.ref)
        await self.store.update_run(run.id, commit=run.commit)
        return mirror

    # --- One variation ---

    async def attempt(self, active: ActiveRun, variation: Variation) -> Ended:
        """Run a variation as soon as the mirror is there and a slot is free."""
        with telemetry.queued.track_inprogress():
            mirror = await asyncio.shield(active.preparing)
            await self.slots.acquire()
        try:
            with telemetry.running.track_inprogress():
                return await self.run_in_container(active, mirror, variation)
        finally:
            self.slots.release()

    async def run_in_container(self, active: ActiveRun, mirror: Path, variation: Variation) -> Ended:
        run, n = active.run, variation.n

        async def sink(kind: str, /, **data: Any) -> None:
            await active.log.append(n, kind, **data)

        async def on_usage(usage: Usage) -> None:
            variation.prompt_tokens, variation.completion_tokens = usage.values()
            await active.log.append(n, "usage", **usage)

        variation.state = "running"
        await self.store.update_variation(variation)
        await sink("state", name="running")
        copy = WorkCopy(self.repositories, mirror, str(run.commit), f"{run.id}-{n}")
        token = self.gateway.grant(active.budget, on_usage)
        try:
            await copy.check_out()
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
            outcome = await supervise(self.engine, job, self.settings, sink)
            collecting = asyncio.create_task(self.collect(outcome, token, copy))
            try:
                return await asyncio.shield(collecting)
            except asyncio.CancelledError:  # a result that is there is kept
                return await collecting
        finally:
            await asyncio.shield(self.clean_up(token, copy))

    async def collect(self, outcome: Outcome, token: str, copy: WorkCopy) -> Ended:
        """Add the patch to an outcome, and its counts."""
        await self.gateway.revoke(token)
        try:
            patch, counts = await copy.patch()
        except (TimeoutError, GitFailed, CalledProcessError):  # there may be a million files
            return outcome, None
        outcome.values |= counts
        return outcome, patch

    async def clean_up(self, token: str, copy: WorkCopy) -> None:
        await self.gateway.revoke(token)
        await copy.remove()

    async def store_end(self, active: ActiveRun, variation: Variation, attempt: asyncio.Task[Ended]) -> None:
        """Store how a variation ended, then tell it: a result that a reader has seen is never lost."""
        patch: bytes | None = None
        try:
            outcome, patch = await attempt
        except asyncio.CancelledError:  # the attempt is cancelled, and never this task
            outcome = Outcome(active.stop_state or "interrupted")
        except BadRepository as bad:
            outcome = Outcome("crashed", {"summary": bad.reason})
        except EngineDown:
            outcome = Outcome("crashed", {"summary": "The engine did not start the container, or lost it."})
        except Exception:
            log.exception("the variation failed", variation=variation.n)
            outcome = Outcome("crashed", {"summary": "Something went wrong; the log has the details."})
        variation.state = outcome.state
        for name, value in outcome.values.items():
            setattr(variation, name, value)
        await self.store.update_variation(variation, patch)
        telemetry.variations.labels(outcome.state).inc()
        facts = variation.model_dump(exclude={"run_id", "n", "state"})
        await active.log.append(variation.n, "state", name=outcome.state, **facts)

    # --- Stop ---

    async def cancel(self, run_id: str) -> None:
        """Cancel a run and wait until its containers are gone. No-op for a run that has finished."""
        if active := self.active.get(run_id):
            active.stop("cancelled")
            await asyncio.wait([active.task])

    async def drain(self) -> None:
        """Let runs finish for a while, then stop those that are left."""
        async with self.starting:
            self.draining = True
        if tasks := [each.task for each in self.active.values()]:
            await asyncio.wait(tasks, timeout=self.settings.drain_seconds)
        for active in list(self.active.values()):
            active.stop("interrupted")
        if left := [each.task for each in self.active.values()]:
            await asyncio.wait(left)

    async def close(self) -> None:
        with suppress(EngineDown):
            await self.engine.sweep()


def lock_data_dir(settings: Settings) -> TextIO:
    """One server for each data folder: a second would sweep the containers of the first. Raises OSError."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    lock = (settings.data_dir / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock

"""Execute runs: ask the agent, turn what it yields into events, and end every run exactly once."""

import asyncio
import json
import time

import httpx2
import openai
import structlog
from langgraph.errors import GraphRecursionError

from app import telemetry
from app.agent import Agent, IncompleteAnswer
from app.config import Settings
from app.models import Result
from app.research.circuit_breaker import run_deadline
from app.runs.active_runs import ActiveRun, ActiveRuns
from app.runs.event_writer import EventWriter

log = structlog.stdlib.get_logger("research-agent")
MODEL_ERRORS = (
    openai.OpenAIError,
    httpx2.HTTPError,
    json.JSONDecodeError,
    GraphRecursionError,
    IncompleteAnswer,
)


class RunExecutor:
    """Executes runs, each in a task of its own and MAX_CONCURRENCY of them at a time."""

    def __init__(self, settings: Settings, agent: Agent, active: ActiveRuns, writer: EventWriter) -> None:
        self.settings, self.agent, self.active, self.writer = settings, agent, active, writer
        self.slots = asyncio.Semaphore(settings.max_concurrency)

    def execute(self, run: ActiveRun) -> None:
        """Start the task of a run."""
        self.active[run.record.run.id] = run
        run.task = asyncio.create_task(self.run_to_end(run))

    async def run_to_end(self, run: ActiveRun) -> None:
        record = run.record
        structlog.contextvars.bind_contextvars(run_id=record.run.id, request_id=record.request_id)
        try:
            left = record.run.created_at + self.settings.timeout_seconds - time.time()
            async with asyncio.timeout(left) as deadline:
                run_deadline.set(deadline)
                await self.wait_for_slot(run)
                try:
                    self.start(run)
                    with telemetry.span("run", run_id=record.run.id):
                        await self.research(run)
                finally:
                    self.slots.release()
        except TimeoutError:
            run.fail(504, f"The run took longer than {self.settings.timeout_seconds:g} s.")
        except asyncio.CancelledError:
            if not run.cancel_requested:
                raise  # relinquished or handed over: another replica continues the run
            run.finish("cancelled")
        except MODEL_ERRORS as error:
            log.error("the model failed", error=repr(error))
            run.fail(502, "The model failed, or could not be reached.")
        except Exception:
            log.exception("the run failed")
            run.fail(500, "Something went wrong; the log has the details.")
            raise
        finally:
            self.record_end(run)

    async def wait_for_slot(self, run: ActiveRun) -> None:
        if self.slots.locked():
            run.emit("state", {"name": "queued"})
        with telemetry.queued.track_inprogress():
            await self.slots.acquire()

    def start(self, run: ActiveRun) -> None:
        run.set_state("running")
        run.emit("state", {"name": "running"})
        self.writer.wake()

    async def research(self, run: ActiveRun) -> None:
        checkpoint, text, began = run.record.checkpoint, "", time.monotonic()
        steps = len(checkpoint.steps)
        async for kind, data in self.agent.research(run.record.run.query, checkpoint):
            if kind == "token":
                if not text:
                    telemetry.first_token.observe(time.monotonic() - began)
                text += data["text"]
            elif kind == "step":
                text = ""
                telemetry.tool_calls.labels(data["tool"], data["outcome"]).inc()
            elif kind == "done":
                run.record.run.result = self.make_result(run, text, data["reason"])
                run.finish("done")
                self.writer.wake()
                continue  # to the end of the generator, which closes the graph
            run.emit(kind, data)
            if len(checkpoint.steps) > steps:
                steps = len(checkpoint.steps)
                run.record_changed = True
            self.writer.wake()

    def make_result(self, run: ActiveRun, text: str, finish_reason: str) -> Result:
        checkpoint = run.record.checkpoint
        return Result(
            id=run.record.run.id,
            query=run.record.run.query,
            response=text,
            steps=checkpoint.steps,
            sources=checkpoint.sources,
            model=self.settings.model_name,
            tokens_used=checkpoint.prompt_tokens + checkpoint.completion_tokens,
            finish_reason=finish_reason,
        )

    def record_end(self, run: ActiveRun) -> None:
        """Count and log a run if it has finished, and have its remaining events written."""
        ended = run.record.run
        self.agent.circuit.release_trial(ended.id)
        if ended.finished:
            telemetry.runs.labels(ended.state).inc()
            telemetry.run_seconds.observe(time.time() - ended.created_at)
            log.info("run", outcome=ended.state, steps=len(run.record.checkpoint.steps))
        self.writer.wake()

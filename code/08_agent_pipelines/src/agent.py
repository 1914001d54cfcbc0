"""An agent: takes tasks from the queue, asks the model, writes results, and serves its metrics.

    AGENT_ID=agent-0 REDIS_URL=redis://127.0.0.1:6379 python agent.py

It needs OPENAI_BASE_URL and OPENAI_API_KEY. SIGTERM lets it finish the task in its hands.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Literal

from openai import AsyncOpenAI, OpenAIError
from prometheus_client import Counter, Histogram, start_http_server
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings
from redis.asyncio import Redis

from task_queue import MAX_DELIVERIES, Delivery, Result, Task, TaskQueue

INSTRUCTIONS = "Answer in three sentences and name your source ('Source: ...'), or say: I do not know."
TASKS = Counter("agent_tasks", "Tasks by outcome", ["agent", "outcome"])
TAKEOVERS = Counter("agent_takeovers", "Tasks taken over from another agent", ["agent"])
SECONDS = Histogram("agent_task_seconds", "Seconds from taking a task to its result", ["agent"])
log = logging.getLogger("agent")


class Settings(BaseSettings):
    agent_id: str = Field(min_length=1)
    redis_url: str = Field(min_length=1)
    model_name: str = "offline"
    model_seconds: float = Field(60, gt=0)  # the longest wait for the model
    lease_seconds: float = Field(3, gt=0)  # without a heartbeat for this long, the agent counts as dead
    metrics_port: int = Field(9100, ge=0)
    crash_on: str = ""  # fault injection: a prompt that contains this text kills the agent


class Agent:
    def __init__(self, settings: Settings, queue: TaskQueue, model: AsyncOpenAI) -> None:
        self.settings = settings
        self.id = settings.agent_id
        self.queue = queue
        self.model = model

    async def ask(self, task: Task) -> str:
        if self.settings.crash_on and self.settings.crash_on in task.prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        reply = await self.model.chat.completions.create(
            model=self.settings.model_name,
            messages=[
                {"role": "system", "content": INSTRUCTIONS},
                {"role": "user", "content": task.prompt},
            ],
        )
        return reply.choices[0].message.content or ""

    async def heartbeat(self, delivery: Delivery) -> None:
        """Renew the lease on a task. Returns when another agent has taken the task over."""
        while await self.queue.renew(self.id, delivery):  # noqa: ASYNC110  # others change it
            await asyncio.sleep(self.settings.lease_seconds / 3)

    async def work(self, delivery: Delivery) -> None:
        """Do one task. A task that fails is not acknowledged, so it is delivered again after the lease."""
        started = time.time()
        if delivery.number > MAX_DELIVERIES:
            error = f"This task was taken {MAX_DELIVERIES} times and never finished."
            await self.queue.finish(delivery, self.result(delivery, started, error=error))
            return self.count("dead-letter")
        if delivery.number > 1:
            TAKEOVERS.labels(self.id).inc()
        asking = asyncio.create_task(self.ask(delivery.task))
        renewing = asyncio.create_task(self.heartbeat(delivery))
        await asyncio.wait({asking, renewing}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if not asking.done():
                await renewing
                return self.count("lost")
            result = self.result(delivery, started, answer=asking.result())
            first = await self.queue.finish(delivery, result)
            SECONDS.labels(self.id).observe(result.ended - started)
            self.count("done" if first else "duplicate")
        except OpenAIError as error:
            log.warning("Task %s failed: %s. It is tried again.", delivery.task.id, type(error).__name__)
            self.count("failed")
        finally:
            for each in (asking, renewing):
                each.cancel()
            await asyncio.gather(asking, renewing, return_exceptions=True)

    def result(self, delivery: Delivery, started: float, answer: str = "", error: str = "") -> Result:
        task, submitted = delivery.task, int(delivery.entry.partition("-")[0]) / 1000
        times = (submitted, started, time.time())
        return Result(task.id, task.prompt, task.after, self.id, delivery.number, *times, answer, error)

    def count(self, outcome: Literal["done", "duplicate", "failed", "lost", "dead-letter"]) -> None:
        TASKS.labels(self.id, outcome).inc()


def read_settings() -> Settings:
    """The settings of the environment. A bad one ends the program with a line that names it."""
    try:
        return Settings()  # type: ignore[call-arg]  # the values come from the environment
    except ValidationError as invalid:
        sys.exit("\n".join(f"Bad setting {str(e['loc'][0]).upper()}: {e['msg']}" for e in invalid.errors()))


async def main() -> None:
    settings = read_settings()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    redis = Redis.from_url(settings.redis_url, decode_responses=True)
    async with redis, AsyncOpenAI(timeout=settings.model_seconds, max_retries=0) as model:
        queue = TaskQueue(redis, settings.lease_seconds)
        await queue.create()
        start_http_server(settings.metrics_port)  # an open port tells the pipeline that the agent is ready
        agent = Agent(settings, queue, model)
        while not stopping.is_set():
            if delivery := await queue.take(agent.id):
                await agent.work(delivery)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    with suppress(KeyboardInterrupt):
        asyncio.run(main())

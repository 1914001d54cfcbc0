"""How long do runs wait for a place? `python bench/lesson_11_scale.py`, five minutes; needs Redis.

Runs come at random to one agent. The mean wait is compared with what a queueing model says.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import psutil

from bench.queueing import mean_wait
from bench.records import measured, save
from bench.research import Replica, replica
from course.clients.load import numbered_question
from course.clients.readers import ReceivedEvents, new_client, read
from course.engines.redis import REDIS, RedisServer
from course.models import start_model
from course.processes import Processes

PLACES, ALONE, SECONDS = 8, 12, 60  # places for runs at the agent; runs on their own; seconds of each load
LOADS = (0.5, 0.7, 0.9)  # share of the places that are in use on average
MODEL = "offline?tps=40"


async def timed(client: httpx2.AsyncClient, url: str, number: int) -> tuple[float, int]:
    """Read a new run to its end; the seconds that took, and its events."""
    began = time.monotonic()
    seen = await read(client, url, numbered_question(number), ReceivedEvents())
    if seen.failed or seen.types[-1] != "done":
        sys.exit(f"A run failed: {seen.failed or seen.types[-1]}")
    return time.monotonic() - began, len(seen.ids)


async def at_random(client: httpx2.AsyncClient, url: str, rate: float, first: int) -> list[float]:
    """The seconds of runs that come at random, `rate` a second on average."""
    async with asyncio.TaskGroup() as group:
        tasks, began = list[asyncio.Task[tuple[float, int]]](), time.monotonic()
        due = began
        while (due := due + random.expovariate(rate)) < began + SECONDS:
            await asyncio.sleep(max(0, due - time.monotonic()))
            tasks.append(group.create_task(timed(client, url, first + len(tasks))))
    return [task.result()[0] for task in tasks]


def processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def main() -> None:
    if REDIS.version() is None:
        sys.exit("This measurement needs redis-server: `make engine redis`.")
    random.seed(11)
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        redis = RedisServer(processes, str(REDIS.program()), Path(folder))
        limits = {"MAX_CONCURRENCY": str(PLACES), "MAX_QUEUE": "10000", "MAX_READERS_PER_CALLER": "100000"}
        settings = {"REDIS_URL": redis.url, "MODEL_NAME": MODEL, "TIMEOUT_SECONDS": "600"} | limits
        agent: Replica = replica(processes, start_model(processes), **settings)
        store = psutil.Process(redis.process.pid)
        async with new_client() as client:
            await timed(client, agent.url, 0)  # the first run loads what later ones have
            before, stored = processor_seconds(agent.process), processor_seconds(store)
            alone = [await timed(client, agent.url, number) for number in range(1, ALONE + 1)]
            cost = (processor_seconds(agent.process) - before) / ALONE
            redis_cost = (processor_seconds(store) - stored) / ALONE
            took = [seconds for seconds, _ in alone]
            mean, variation = statistics.mean(took), statistics.stdev(took) / statistics.mean(took)
            waits, model = [], []
            for number, load in enumerate(LOADS, 1):
                rate = load * PLACES / mean
                seconds = await at_random(client, agent.url, rate, number * 10_000)
                waits.append(statistics.mean(seconds) - mean)
                model.append(mean_wait(PLACES, rate, mean, variation))
                print(f"{load:.0%}: {len(seconds)} runs waited {waits[-1]:.2f} s, model {model[-1]:.2f} s")
    values = {
        "places": PLACES,
        "run_seconds": round(mean, 2),
        "variation": round(variation, 3),
        "events": round(statistics.mean(events for _, events in alone), 1),
        "agent_ms": round(cost * 1000, 1),
        "redis_ms": round(redis_cost * 1000, 2),
        "difference_at_most": round(max(abs(a - b) for a, b in zip(waits, model, strict=True)), 3),
    }
    how = (
        f"one agent with {PLACES} places and Redis; {ALONE} runs one after the other, then runs that come at "
        f"random for {SECONDS} s at each load; the model sends {MODEL.partition('=')[2]} tokens a second; "
        "load generator on the same machine"
    )
    save(
        "lesson_11_scale",
        {
            "title": "Mean wait for a free place, measured and by the model",
            "kind": "bars",
            "alt": "Seconds of waiting at 50, 70 and 90 percent load: measured, and computed by the model.",
            "measured": measured(how, "fastapi", "uvicorn", "redis", Redis=str(REDIS.version())),
            "values": values,
            "unit": "seconds",
            "groups": [f"{load:.0%} of the places" for load in LOADS],
            "series": [
                {"name": "measured", "values": [round(wait, 3) for wait in waits]},
                {"name": "model", "values": [round(wait, 3) for wait in model]},
            ],
        },
    )


if __name__ == "__main__":
    asyncio.run(main())

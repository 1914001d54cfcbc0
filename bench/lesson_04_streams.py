"""Do 500 streams survive a change of replica? `python bench/lesson_04_streams.py`, about a minute.

It opens 500 streams on one worker, leaves each in the middle, and resumes it at a second worker on one Redis.
"""

import asyncio
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx2

from bench.records import measured, save
from bench.research import follow, question, replica
from course.clients.readers import ReceivedEvents
from course.engines.redis import REDIS, RedisServer
from course.models import start_model
from course.processes import Processes

STREAMS, TOKENS_A_SECOND, OPENED_A_SECOND = 500, 1.5, 10


def redis_server(processes: Processes, folder: str) -> RedisServer:
    if REDIS.version() is None:
        sys.exit("This measurement needs redis-server: `make engine redis`.")
    return RedisServer(processes, str(REDIS.program()), Path(folder))


async def run(
    client: httpx2.AsyncClient, here: str, there: str, number: int
) -> tuple[ReceivedEvents, float, float]:
    """Follow a run at one worker, leave after some events, and go on at the other.

    Returns what was seen, the seconds until a stored event came again from the other worker, and the seconds
    until the next new one.
    """
    await asyncio.sleep(number / OPENED_A_SECOND)
    seen, leave_after = ReceivedEvents(), random.randint(3, 25)  # noqa: S311
    async with client.stream("POST", f"{here}/v1/research/stream", json=question(number)) as response:
        response.raise_for_status()
        seen.run_id = response.headers["x-run-id"]
        async for _ in follow(response, seen):
            if len(seen.ids) >= leave_after:
                break
    left, gap = time.monotonic(), 0.0
    url = f"{there}/v1/research/{seen.run_id}/events"
    async with client.stream("GET", url, headers={"Last-Event-ID": seen.ids[-2]}) as response:
        async for _ in follow(response, ReceivedEvents()):
            break
    resumed = time.monotonic() - left
    async with client.stream("GET", url, headers={"Last-Event-ID": seen.ids[-1]}) as response:
        async for _ in follow(response, seen):
            gap = gap or time.monotonic() - left
    return seen, resumed, gap


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        store = redis_server(processes, folder)
        model = start_model(processes)
        settings = {
            "REDIS_URL": store.url,
            "MODEL_NAME": f"offline?tps={TOKENS_A_SECOND}",
            "MAX_CONCURRENCY": str(STREAMS),
            "TIMEOUT_SECONDS": "300",
            "LEASE_SECONDS": "15",  # long, so that no run moves because the machine is busy
        }
        here, there = replica(processes, model, **settings), replica(processes, model, **settings)
        limits, most = httpx2.Limits(max_connections=None), [0.0, 0.0]
        async with httpx2.AsyncClient(timeout=200, limits=limits) as client:
            idle = here.megabytes()
            tasks = [
                asyncio.create_task(run(client, here.url, there.url, number)) for number in range(STREAMS)
            ]
            while not all(task.done() for task in tasks):
                most = [max(a, b.megabytes()) for a, b in zip(most, (here, there), strict=True)]
                await asyncio.wait(tasks, timeout=0.5)
            seen = [task.result() for task in tasks]
            wholes = []
            for followed, _, _ in seen:
                whole = ReceivedEvents()
                url = f"{here.url}/v1/research/{followed.run_id}/events"
                async with client.stream("GET", url) as response:
                    async for _kind in follow(response, whole):
                        pass
                wholes.append(whole.ids)
    once = sum(each.finished and each.ids == whole for (each, _, _), whole in zip(seen, wholes, strict=True))
    gaps = sorted(gap for _, _, gap in seen)
    resumed = sorted(seconds for _, seconds, _ in seen)
    p99 = round(STREAMS * 0.99) - 1
    how = (
        f"{STREAMS} streams on one worker, {OPENED_A_SECOND} opened a second and all open in the end, the "
        f"model paced at {TOKENS_A_SECOND} tokens a second so that no worker is saturated; each left after "
        "3 to 25 events and resumed by Last-Event-ID at a second worker, "
        "which first sends the last stored event again"
    )
    save(
        "lesson_04_streams",
        {
            "title": "Seconds from leaving one worker to the next event, the model's pauses included",
            "kind": "bars",
            "alt": "Seconds from leaving one worker to the next event at another, the pauses of the model "
            "included: median and 99th percentile.",
            "measured": measured(how, "fastapi", "uvicorn", "redis"),
            "values": {
                "streams": STREAMS,
                "every_event_once": once,
                "resumed_ms": round(resumed[STREAMS // 2] * 1000, 1),
                "resumed_p99_ms": round(resumed[p99] * 1000, 1),
                "kilobytes_a_stream": round((most[0] - idle) * 1000 / STREAMS, 1),
            },
            "unit": "seconds",
            "groups": ["median", "99th percentile"],
            "series": [
                {
                    "name": "gap",
                    "values": [round(gaps[STREAMS // 2], 3), round(gaps[p99], 3)],
                }
            ],
        },
    )
    print({"once": once, "of": STREAMS, "memory": most})


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())

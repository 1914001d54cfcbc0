"""Does lesson 02 stay within bounds? `python bench/lesson_02_bounds.py`, about a minute.

It opens a thousand streams at once, requests 10,000 unknown paths, and measures the start and the memory.
"""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass

import httpx2
import psutil

from bench.load import model_settings
from bench.records import measured, save
from course.models import base_environment
from course.paths import ROOT
from course.processes import Processes, wait_listening, wait_ready

LESSON = "code/02_production_api.py"
BARE_APP = ["-m", "uvicorn", "--app-dir=bench", "bare_app:app", "--port=0", "--http=h11", "--no-access-log"]
STREAMS, PATHS = 1_000, 10_000
QUESTION = {"query": "What is graceful shutdown?", "max_tokens": 20}
TOKENS_A_SECOND = 2  # slow enough for one worker to keep up with all streams


@dataclass
class Served:
    """A started server: its URL, the seconds until it was ready, and its process."""

    url: str
    seconds: float
    process: psutil.Process

    def megabytes(self) -> float:
        return round(self.process.memory_info().rss / 1e6, 1)


def serve(processes: Processes, *command: str, **env: str) -> Served:
    """Start a Python program on a free port."""
    env = base_environment() | {"PORT": "0"} | env
    began = time.monotonic()
    process = processes.start([sys.executable, *command], env=env, cwd=ROOT, output=subprocess.DEVNULL)
    url = wait_listening(process)
    wait_ready(process, f"{url}/health")
    return Served(url, time.monotonic() - began, psutil.Process(process.pid))


async def stream(client: httpx2.AsyncClient, url: str, expected: str) -> str:
    """Read one stream to its end: "complete", "out of order" or "cut"."""
    text, last = "", ""
    async with client.stream("POST", f"{url}/v1/stream", json=QUESTION) as response:
        async for event in httpx2.EventSource(response):
            last = event.event
            if last == "token":
                text += json.loads(event.data)["text"]
    if last != "done":
        return "cut"
    return "complete" if text == expected else "out of order"


async def streams(url: str, served: Served) -> tuple[list[str], float]:
    """The outcomes of a thousand streams, and the most memory that the server took, in MB."""
    limits, most = httpx2.Limits(max_connections=STREAMS), 0.0
    async with httpx2.AsyncClient(limits=limits, timeout=120) as client:
        whole = (await client.post(f"{url}/v1/invoke", json=QUESTION)).json()["response"]
        tasks = [asyncio.create_task(stream(client, url, whole)) for _ in range(STREAMS)]
        while not all(task.done() for task in tasks):
            most = max(most, served.megabytes())
            await asyncio.wait(tasks, timeout=0.2)
        return [task.result() for task in tasks], most


async def unknown_paths(url: str) -> int:
    async with httpx2.AsyncClient(timeout=30) as client:
        for first in range(0, PATHS, 100):
            await asyncio.gather(*(client.get(f"{url}/path/{n}") for n in range(first, first + 100)))
        return len((await client.get(f"{url}/metrics")).content)


def main() -> None:
    with Processes() as processes:
        env = model_settings(processes) | {"MODEL_NAME": f"offline?tps={TOKENS_A_SECOND}"}
        env |= {"RATE_LIMIT_RPM": "1000000", "MAX_CONCURRENCY": "1000", "LOG_LEVEL": "WARNING"}
        bare = serve(processes, *BARE_APP)
        served = serve(processes, LESSON, **env)
        idle = {"bare app": bare.megabytes(), "lesson 02": served.megabytes()}
        outcomes, most = asyncio.run(streams(served.url, served))
        size = asyncio.run(unknown_paths(served.url))
    how = (
        f"one worker, started as its page does; {STREAMS:,} streams of 20 tokens opened at once, the model "
        f"paced at {TOKENS_A_SECOND} tokens a second; {PATHS:,} different paths; start and memory from one "
        "start each; the bare app under uvicorn's command line"
    )
    save(
        "lesson_02_bounds",
        {
            "title": "Seconds from start to ready",
            "kind": "bars",
            "alt": "Seconds until a bare app and lesson 02 are ready.",
            "measured": measured(how, "fastapi", "uvicorn", "langchain-openai", "prometheus-client"),
            "values": {
                "streams": STREAMS,
                "complete": outcomes.count("complete"),
                "cut": outcomes.count("cut"),
                "out_of_order": outcomes.count("out of order"),
                "kilobytes_a_stream": round((most - idle["lesson 02"]) * 1000 / STREAMS, 1),
                "metrics_kilobytes": round(size / 1000, 1),
                "megabytes": idle["lesson 02"],
                "megabytes_bare": idle["bare app"],
            },
            "unit": "seconds",
            "groups": ["ready after start"],
            "series": [
                {"name": "bare app", "values": [round(bare.seconds, 2)]},
                {
                    "name": "lesson 02",
                    "values": [round(served.seconds, 2)],
                    "ratio": [round(round(served.seconds, 2) / round(bare.seconds, 2), 3)],
                },
            ],
        },
    )


if __name__ == "__main__":
    main()

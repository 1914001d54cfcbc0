"""Start research agents to measure, and read their streams."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import psutil

from course.clients.readers import ReceivedEvents
from course.models import base_environment
from course.paths import ROOT
from course.processes import Processes, wait_listening, wait_ready

UNLIMITED_SETTINGS = {
    "RATE_LIMIT_RPM": "1000000000",
    "MAX_RUNS_PER_CALLER": "1000000",
    "MAX_READERS_PER_CALLER": "1000000",
    "LOG_LEVEL": "ERROR",
}


@dataclass
class Replica:
    url: str
    process: psutil.Process
    seconds: float  # from start to ready

    def megabytes(self) -> float:
        return round(self.process.memory_info().rss / 1e6, 1)


def environment(model: str, **settings: str) -> dict[str, str]:
    env = {"OPENAI_BASE_URL": f"{model}/v1", "OPENAI_API_KEY": "offline", "MODEL_NAME": "offline"}
    return base_environment() | env | {"SEARCH_URL": model} | UNLIMITED_SETTINGS | settings


def replica(processes: Processes, model: str, **settings: str) -> Replica:
    began = time.monotonic()
    process = processes.start(
        [sys.executable, "main.py"],
        env=environment(model, PORT="0", **settings),
        cwd=ROOT / "research-agent",
        output=subprocess.DEVNULL,
    )
    url = wait_listening(process)
    wait_ready(process, f"{url}/ready")
    return Replica(url, psutil.Process(process.pid), time.monotonic() - began)


async def follow(response: httpx2.Response, seen: ReceivedEvents) -> AsyncIterator[str]:
    """Read events into `seen`; yields the type of each."""
    async for event in httpx2.EventSource(response):
        seen.record(event)
        yield event.event


def question(number: int) -> dict[str, Any]:
    """A question that was not asked before, and takes a search and a page."""
    return {"query": f"What is graceful shutdown, asked for the {number}th time?"}

"""Research agents to measure, and clients that read their streams."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import psutil

from course.models import base_environment
from course.paths import ROOT
from course.ports import free_port
from course.processes import Processes, wait_ready

FREE = {
    "RATE_LIMIT_RPM": "1000000000",
    "MAX_RUNS_PER_CALLER": "1000000",
    "MAX_READERS_PER_CALLER": "1000000",
    "LOG_LEVEL": "ERROR",
}


@dataclass
class Replica:
    url: str
    process: psutil.Process
    seconds: float
    """From start to ready."""

    def megabytes(self) -> float:
        return round(self.process.memory_info().rss / 1e6, 1)


def environment(model: str, **settings: str) -> dict[str, str]:
    env = {"OPENAI_BASE_URL": f"{model}/v1", "OPENAI_API_KEY": "offline", "MODEL_NAME": "offline"}
    return base_environment() | env | {"SEARCH_URL": model} | FREE | settings


def replica(processes: Processes, model: str, **settings: str) -> Replica:
    port = free_port()
    began = time.monotonic()
    process = processes.start(
        [sys.executable, "main.py"],
        env=environment(model, PORT=str(port), **settings),
        cwd=ROOT / "research-agent",
        output=subprocess.DEVNULL,
    )
    wait_ready(process, f"http://127.0.0.1:{port}/ready")
    return Replica(f"http://127.0.0.1:{port}", psutil.Process(process.pid), time.monotonic() - began)


@dataclass
class Followed:
    """What one client has seen of one run."""

    run_id: str = ""
    ids: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    first_event: float | None = None
    """Seconds from the request to the first event."""

    @property
    def over(self) -> bool:
        return bool(self.types) and self.types[-1] in ("done", "error")

    def in_order(self) -> bool:
        numbers = [tuple(map(int, each.split("-"))) for each in self.ids]
        return numbers == sorted(set(numbers))


async def follow(response: httpx2.Response, seen: Followed, began: float) -> AsyncIterator[str]:
    """Read events into `seen`; yields the type of each."""
    kind = ""
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            seen.ids.append(value)
        elif not line and kind:
            seen.first_event = seen.first_event or time.monotonic() - began
            seen.types.append(kind)
            yield kind
            kind = ""


def question(number: int) -> dict[str, Any]:
    """One of many different questions that take a search and a page."""
    return {"query": f"What is graceful shutdown, asked for the {number}th time?"}

"""Versus: three ways to stop a server, side by side, under the same streams and the same SIGTERM.

All three serve lesson 03's program: with a signal handler of its own that ignores the signal (an exercise),
by plain uvicorn, and as the lesson runs it. A server that still runs after `GRACE_SECONDS` is killed, as
`docker stop -t` does.
"""

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from course.exercises.format import exercises
from course.models import base_environment, start_model
from course.paths import ROOT
from course.processes import Processes, wait_listening, wait_ready

STREAMS_PER_LENGTH = 10
DRAIN_SECONDS, DELAY_SECONDS, GRACE_SECONDS = 3, 1, 6
SHORT, LONG = "Hello", "What is a container?"  # 3 s and 8 s at the model's pace
OUTCOME_BY_LAST_EVENT = {"done": "finished", "error": "error event"}
STATES = ("open", "finished", "error event", "cut off")


@dataclass
class Candidate:
    """A server, and what became of its streams. Times in seconds from its SIGTERM."""

    name: str
    process: subprocess.Popen[str]
    url: str = ""  # known when it listens
    streams: list[str] = field(default_factory=list)
    late_caller: str = ""
    exit_code: int | None = None
    seconds: float | None = None

    def wait(self) -> None:
        """Wait until it is ready."""
        self.url = wait_listening(self.process)
        wait_ready(self.process, f"{self.url}/health")

    def count(self, state: str) -> int:
        return self.streams.count(state)

    def row(self) -> list[str]:
        ended = "" if self.exit_code is None else str(self.exit_code)
        seconds = "" if self.seconds is None else f"{self.seconds:.1f}"
        return [self.name, *(str(self.count(state)) for state in STATES), self.late_caller, ended, seconds]


def start_candidates(processes: Processes, broken: Path) -> list[Candidate]:
    """The three servers, started and ready; the first one's program is put into the folder `broken`."""
    next(e for e in exercises("03") if e.slug == "03-signal-swallowed").put_into(broken)
    script, bound = "code/03_graceful_shutdown.py", ["--timeout-graceful-shutdown", str(DRAIN_SECONDS)]
    plain = ["-m", "uvicorn", "--app-dir", "code", "03_graceful_shutdown:app", *bound]
    settings = {"OPENAI_BASE_URL": f"{start_model(processes)}/v1", "OPENAI_API_KEY": "offline"}
    settings |= {"MODEL_NAME": "offline?tps=15"}
    settings |= {"DRAIN_SECONDS": str(DRAIN_SECONDS), "DRAIN_DELAY_SECONDS": str(DELAY_SECONDS)}
    candidates = [
        start_candidate(processes, "own handler", [str(broken / script)], settings),
        start_candidate(processes, "plain uvicorn", plain, settings),
        start_candidate(processes, "lesson 03", [script], settings),
    ]
    for candidate in candidates:
        candidate.wait()
    return candidates


def start_candidate(
    processes: Processes, name: str, command: list[str], settings: dict[str, str]
) -> Candidate:
    """Start a server on a port that the system chooses; `wait` for it before its first request."""
    command = [sys.executable, *command, *(["--port", "0"] if "uvicorn" in command else [])]
    env = base_environment() | settings | {"PORT": "0"}
    return Candidate(name, processes.start(command, env=env, cwd=ROOT, output=subprocess.DEVNULL))


async def follow(client: httpx2.AsyncClient, to: Candidate, query: str) -> None:
    """Read a stream to its end, and note how it ended."""
    number, last = len(to.streams), ""
    to.streams.append("open")
    with contextlib.suppress(httpx2.HTTPError):
        async with client.stream("POST", f"{to.url}/v1/stream", json={"query": query}) as reply:
            async for event in httpx2.EventSource(reply):
                last = event.event
    to.streams[number] = OUTCOME_BY_LAST_EVENT.get(last, "cut off")


async def stop(client: httpx2.AsyncClient, candidate: Candidate, grace: float) -> None:
    """Send SIGTERM, half a second later a new request, and SIGKILL when the grace is over."""
    began = time.monotonic()
    candidate.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    try:
        await client.get(f"{candidate.url}/health", headers={"Connection": "close"})
        candidate.late_caller = "let in"
    except httpx2.TransportError:
        candidate.late_caller = "refused"
    while (code := candidate.process.poll()) is None:
        if time.monotonic() - began > grace:
            candidate.process.kill()
        await asyncio.sleep(0.02)
    candidate.exit_code = code if code >= 0 else 128 - code  # as shells and Docker report a signal
    candidate.seconds = time.monotonic() - began


async def shut_down(
    candidates: list[Candidate],
    short: int = STREAMS_PER_LENGTH,
    long: int = STREAMS_PER_LENGTH,
    grace: float = GRACE_SECONDS,
) -> None:
    """Open the streams, stop the servers a second later, and wait until everything has ended."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(limits=limits, timeout=None) as client, asyncio.TaskGroup() as group:
        for candidate in candidates:
            for query in [SHORT] * short + [LONG] * long:
                group.create_task(follow(client, candidate, query))
        await asyncio.sleep(1)
        for candidate in candidates:
            group.create_task(stop(client, candidate, grace))


def table(candidates: list[Candidate]) -> Table:
    shown = Table("server", *STATES, "caller", "exit", "seconds", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for candidate in candidates:
        shown.add_row(*candidate.row())
    return shown


async def show(candidates: list[Candidate], console: Console) -> None:
    """Run the shutdown and show the counts live: as a table on a terminal, else as one line a second."""
    running = asyncio.ensure_future(shut_down(candidates))
    if console.is_terminal:
        with Live(table(candidates), console=console) as live:
            while not running.done():
                await asyncio.sleep(0.1)
                live.update(table(candidates))
    else:
        while not running.done():
            await asyncio.wait({running}, timeout=1)
            counts = [
                f"{one.name}: " + ", ".join(f"{one.count(s)} {s}" for s in STATES) for one in candidates
            ]
            console.print("; ".join(counts), soft_wrap=True)
        console.print(table(candidates))
    await running


def versus(console: Console) -> list[Candidate]:
    """Start the three servers, stop them, and show what became of their streams."""
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        with console.status("starting three servers ..."):
            candidates = start_candidates(processes, Path(folder))
        console.print(
            f"Each server has {2 * STREAMS_PER_LENGTH} streams, half of them longer than {DRAIN_SECONDS} s, "
            f"and gets SIGTERM. A server that still runs after {GRACE_SECONDS} s is killed, "
            "as docker stop would.",
            soft_wrap=True,
        )
        asyncio.run(show(candidates, console))
    return candidates

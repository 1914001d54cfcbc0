"""Versus: three ways to stop a server, side by side, under the same streams and the same SIGTERM.

All three serve lesson 03's program. The first is the exercise in which a handler swallows the signal, the
second is run by plain uvicorn, the third as the lesson runs it. Whoever still runs after `GRACE` seconds is
killed, as `docker stop -t` does.
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

from course.exercises import exercises
from course.models import base_environment, start_offline_model
from course.paths import ROOT
from course.ports import free_port
from course.processes import Processes, wait_ready

STREAMS, DRAIN, DELAY, GRACE = 10, 3, 1, 6  # streams of each length; seconds
SHORT, LONG = "Hello", "What is a container?"  # 3 s and 8 s at the model's pace
ENDS = {"done": "finished", "error": "error event"}  # a stream's last event, and what it means
STATES = ("open", "finished", "error event", "cut off")


@dataclass
class Contender:
    """A server, and what became of its callers. Times in seconds from its SIGTERM."""

    name: str
    process: subprocess.Popen[str]
    url: str
    streams: list[str] = field(default_factory=list)
    newcomer: str = ""
    exit_code: int | None = None
    seconds: float | None = None

    def count(self, state: str) -> int:
        return self.streams.count(state)

    def row(self) -> list[str]:
        ended = "" if self.exit_code is None else str(self.exit_code)
        seconds = "" if self.seconds is None else f"{self.seconds:.1f}"
        return [self.name, *(str(self.count(state)) for state in STATES), self.newcomer, ended, seconds]


def contenders(processes: Processes, broken: Path) -> list[Contender]:
    """The three servers, started and ready; `broken` is a folder for the first one's program."""
    next(e for e in exercises("03") if e.slug == "03-signal-swallowed").put_into(broken)
    model = free_port()
    with (broken / "model.log").open("w") as log:
        wait_for_model = start_offline_model(processes, log, model)
    script, bound = "code/03_graceful_shutdown.py", ["--timeout-graceful-shutdown", str(DRAIN)]
    plain = ["-m", "uvicorn", "--app-dir", "code", "03_graceful_shutdown:app", *bound]
    settings = {"OPENAI_BASE_URL": f"http://127.0.0.1:{model}/v1", "OPENAI_API_KEY": "offline"}
    settings |= {"MODEL_NAME": "offline?tps=15"}
    settings |= {"DRAIN_SECONDS": str(DRAIN), "DRAIN_DELAY_SECONDS": str(DELAY)}
    found = [
        contender(processes, "own handler", [str(broken / script)], settings),
        contender(processes, "plain uvicorn", plain, settings),
        contender(processes, "lesson 03", [script], settings),
    ]
    wait_for_model()
    for one in found:
        wait_ready(one.process, f"{one.url}/health")
    return found


def contender(processes: Processes, name: str, command: list[str], settings: dict[str, str]) -> Contender:
    port = str(free_port())
    command = [sys.executable, *command, *(["--port", port] if "uvicorn" in command else [])]
    env = base_environment() | settings | {"PORT": port}
    process = processes.start(command, env=env, cwd=ROOT, output=subprocess.DEVNULL)
    return Contender(name, process, f"http://127.0.0.1:{port}")


async def follow(client: httpx2.AsyncClient, to: Contender, query: str) -> None:
    """Read a stream to its end, and note how it ended."""
    number, last = len(to.streams), ""
    to.streams.append("open")
    with contextlib.suppress(httpx2.HTTPError):
        async with client.stream("POST", f"{to.url}/v1/stream", json={"query": query}) as reply:
            async for event in httpx2.EventSource(reply):
                last = event.event
    to.streams[number] = ENDS.get(last, "cut off")


async def stop(client: httpx2.AsyncClient, one: Contender, grace: float) -> None:
    """SIGTERM; half a second later a new caller; SIGKILL when the grace is over."""
    began = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    try:
        await client.get(f"{one.url}/health", headers={"Connection": "close"})
        one.newcomer = "let in"
    except httpx2.TransportError:
        one.newcomer = "refused"
    while (code := one.process.poll()) is None:
        if time.monotonic() - began > grace:
            one.process.kill()
        await asyncio.sleep(0.02)
    one.exit_code = code if code >= 0 else 128 - code  # as a shell and docker tell it
    one.seconds = time.monotonic() - began


async def shut_down(
    all_: list[Contender], short: int = STREAMS, long: int = STREAMS, grace: float = GRACE
) -> None:
    """Open the streams, a second later stop the servers, and wait until everything has ended."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(limits=limits, timeout=None) as client, asyncio.TaskGroup() as group:
        for one in all_:
            for query in [SHORT] * short + [LONG] * long:
                group.create_task(follow(client, one, query))
        await asyncio.sleep(1)
        for one in all_:
            group.create_task(stop(client, one, grace))


def table(all_: list[Contender]) -> Table:
    shown = Table("server", *STATES, "caller", "exit", "seconds", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for one in all_:
        shown.add_row(*one.row())
    return shown


async def shown(all_: list[Contender], console: Console) -> None:
    """Run, and count live: in a table on a terminal, in a line a second without one."""
    running = asyncio.ensure_future(shut_down(all_))
    if console.is_terminal:
        with Live(table(all_), console=console) as live:
            while not running.done():
                await asyncio.sleep(0.1)
                live.update(table(all_))
    else:
        while not running.done():
            await asyncio.wait({running}, timeout=1)
            told = [f"{one.name}: " + ", ".join(f"{one.count(s)} {s}" for s in STATES) for one in all_]
            console.print("; ".join(told), soft_wrap=True)
        console.print(table(all_))
    await running


def versus(console: Console) -> list[Contender]:
    """Start the three, stop them, show what became of their streams; what became of them."""
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        with console.status("starting three servers ..."):
            all_ = contenders(processes, Path(folder))
        console.print(
            f"Each server has {2 * STREAMS} streams, half of them longer than {DRAIN} s, and gets SIGTERM. "
            f"Whoever still runs after {GRACE} s is killed, as docker stop would.",
            soft_wrap=True,
        )
        asyncio.run(shown(all_, console))
    return all_

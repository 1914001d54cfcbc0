"""What happens when, in one shutdown? `python bench/shutdown_timeline.py`, ten seconds."""

import asyncio
import signal
import time
from typing import Any

import httpx2

from bench.load import model_settings
from bench.records import measured, save
from course.processes import Processes
from course.versus import LONG, SHORT, Candidate, start_candidate

DELAY_SECONDS, DRAIN_SECONDS = 1.5, 3


class Clock:
    def __init__(self) -> None:
        self.began = time.monotonic()

    def now(self) -> float:
        return round(time.monotonic() - self.began, 3)


def span(start: float, end: float | None, label: str, tone: str) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label, "tone": tone}


async def stream(client: httpx2.AsyncClient, clock: Clock, query: str) -> list[dict[str, Any]]:
    start, last = clock.now(), ""
    async with client.stream("POST", "/v1/stream", json={"query": query}) as reply:
        async for event in httpx2.EventSource(reply):
            last = event.event
    return [span(start, clock.now(), f"last event: {last}", "green" if last == "done" else "orange")]


async def invoke(client: httpx2.AsyncClient, clock: Clock, after: float) -> list[dict[str, Any]]:
    await asyncio.sleep(after)
    start = clock.now()
    try:
        reply = await client.post("/v1/invoke", json={"query": SHORT})
    except httpx2.ConnectError:
        return [span(start, None, "refused", "red")]
    return [span(start, clock.now(), str(reply.status_code), "green")]


async def readiness(client: httpx2.AsyncClient, clock: Clock) -> list[dict[str, Any]]:
    """Spans of equal answers of /ready, asked every hundredth of a second."""
    spans: list[dict[str, Any]] = []
    while True:
        try:
            status = str((await client.get("/ready", headers={"Connection": "close"})).status_code)
        except httpx2.TransportError:
            return spans
        now = (
            clock.now()
        )  # the answer's time: a request that was sent before the signal may be answered after it
        if not spans or spans[-1]["label"] != status:
            spans.append(span(now, now, status, "green" if status == "200" else "red"))
        spans[-1]["end"] = now
        await asyncio.sleep(0.01)


async def shutdown(server: Candidate) -> tuple[float, dict[str, list[dict[str, Any]]]]:
    """The time of the signal, and the lanes of the timeline."""
    clock = Clock()
    limits = httpx2.Limits(max_connections=None)
    client = httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=60)
    async with client, asyncio.TaskGroup() as group:
        lanes = {
            "/ready": group.create_task(readiness(client, clock)),
            "a short stream": group.create_task(stream(client, clock, SHORT)),
            "a long stream": group.create_task(stream(client, clock, LONG)),
        }
        await asyncio.sleep(1)
        signalled = clock.now()
        server.process.send_signal(signal.SIGTERM)
        lanes["a new request"] = group.create_task(invoke(client, clock, 0.5))
        lanes["a later request"] = group.create_task(invoke(client, clock, DELAY_SECONDS + 0.5))
        code = await asyncio.to_thread(server.process.wait)
        ended = clock.now()
    process = [span(0, ended, f"the process, exit code {code}", "blue")]
    return signalled, {"server": process} | {name: task.result() for name, task in lanes.items()}


def main() -> None:
    with Processes() as processes:
        settings = model_settings(processes) | {
            "MODEL_NAME": "offline?tps=15",
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
        }
        settings |= {"DRAIN_DELAY_SECONDS": str(DELAY_SECONDS)}
        server = start_candidate(processes, "lesson 03", ["code/03_graceful_shutdown.py"], settings)
        server.wait()
        signalled, lanes = asyncio.run(shutdown(server))
    ended, red = lanes["server"][0]["end"], lanes["/ready"][-1]["start"]
    marks = (
        (signalled, "SIGTERM"),
        (signalled + DELAY_SECONDS, "delay over"),
        (signalled + DELAY_SECONDS + DRAIN_SECONDS, "drain over"),
    )
    delay, drain = f"a delay of {DELAY_SECONDS} s", f"a drain of {DRAIN_SECONDS} s"
    how = f"one run with {delay} and {drain}; /ready asked every 10 ms"
    save(
        "shutdown_timeline",
        {
            "title": "A shutdown, second by second",
            "kind": "timeline",
            "alt": "After SIGTERM /ready says 503, a short stream and a new request finish, a later "
            "request is refused, a long stream ends with an error event at the end of the drain, and the "
            "process exits.",
            "measured": measured(how, "uvicorn", "fastapi"),
            "values": {
                "not_ready_after_ms": round((red - signalled) * 1000, 1),
                "exit_after_drain": round(ended - signalled - DELAY_SECONDS - DRAIN_SECONDS, 3),
            },
            "lanes": [{"name": name, "spans": spans} for name, spans in lanes.items()],
            "marks": [{"start": round(start, 3), "label": label} for start, label in marks],
        },
    )


if __name__ == "__main__":
    main()

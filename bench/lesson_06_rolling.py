"""Does a rolling update fail any request? `python bench/lesson_06_rolling.py`, three minutes; needs Docker.

It replaces four replicas one after the other under a load of questions and streams.
"""

import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.records import measured, save
from course.clients.load import LONG, SHORT, numbered_question, send_at_constant_rate
from course.clients.readers import ReceivedEvents, count_missing_or_duplicate, new_client, read, stored
from course.containers.stack import Stack
from course.errors import CourseError

REPLICAS, STREAMS, CACHED_PER_SECOND, NEW_PER_SECOND = 4, 100, 40, 2
MODEL = "offline?tps=5"  # a run takes longer than a drain: some are handed over
LOAD_SECONDS_AROUND_UPDATE = 5  # before the update, and again after it


def rolling_update(stack: Stack) -> None:
    done = stack.run("compose/rolling-update.sh", seconds=600, VERSION="1.1.0")
    if done.returncode:
        raise CourseError(f"The update failed: {done.stderr}")


@contextmanager
def recorded(stack: Stack, path: Path) -> Iterator[None]:
    """Write Docker's events into a file during the block, because Docker keeps only the last few."""
    events = [f"--filter=event={name}" for name in ("kill", "die", "start", "health_status")]
    filters = [f"--filter=label=com.docker.compose.project={stack.name}", *events]
    with path.open("w") as file:
        command = ["docker", "events", *filters, "--format=json"]
        watcher = subprocess.Popen(command, env=stack.env, stdout=file)
        try:
            yield
        finally:
            watcher.terminate()
            watcher.wait()


def replica_lanes(
    old: list[str], new: list[str], path: Path, began: float, ended: float
) -> list[dict[str, Any]]:
    """A lane for each replica: when it started, served and drained."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    lanes = []
    for number, replica in enumerate(old + new, 1):
        spans, state, since = [], "serves" if replica in old else "", 0.0
        for event in events:
            after = {"kill": "drains", "die": "", "start": "starts", "health_status: healthy": "serves"}
            if event["Actor"]["ID"].startswith(replica) and (action := event["Action"]) in after:
                now = round(event["timeNano"] / 1e9 - began, 3)
                if state and state != after[action]:
                    spans.append(span(since, now, state))
                if state != after[action]:
                    state, since = after[action], now
        if state:
            spans.append(span(since, ended - began, state))
        seen = [
            each for each in spans if each["end"] - each["start"] >= 0.5
        ]  # shorter ones would not be visible in the chart
        lanes.append({"name": f"replica {number}", "spans": seen})
    return lanes


def span(start: float, end: float, state: str) -> dict[str, Any]:
    tones = {"serves": "green", "drains": "orange", "starts": "blue"}
    return {"start": round(start, 2), "end": round(end, 2), "label": state, "tone": tones[state]}


async def main() -> None:
    settings = {"OFFLINE_MODEL_NAME": MODEL, "MAX_CONCURRENCY": "256", "LOG_LEVEL": "WARNING"}
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), settings) as stack:
        stack.compose("build", "--quiet", "agent", seconds=600, VERSION="1.1.0")
        stack.up(REPLICAS)
        old = stack.replicas()
        stop, readings = asyncio.Event(), list[ReceivedEvents]()
        async with new_client() as client:
            (await client.post(f"{stack.url}/v1/research", json={"query": SHORT})).raise_for_status()

            async def reader(number: int) -> None:
                times = 0
                while not stop.is_set():
                    times += 1
                    readings.append(ReceivedEvents())
                    await read(client, stack.url, f"{LONG} {number}, {times}", readings[-1])

            async with asyncio.TaskGroup() as group:
                for number in range(STREAMS):
                    group.create_task(reader(number))
                known = group.create_task(
                    send_at_constant_rate(client, stack.url, CACHED_PER_SECOND, lambda _: SHORT, stop)
                )
                new = group.create_task(
                    send_at_constant_rate(
                        client, stack.url, NEW_PER_SECOND, numbered_question, stop, keys=True
                    )
                )
                await asyncio.sleep(LOAD_SECONDS_AROUND_UPDATE)
                began, clock = time.time(), time.monotonic()
                with recorded(stack, Path(folder) / "events"):
                    await asyncio.to_thread(rolling_update, stack)
                ended, seconds = time.time(), time.monotonic() - clock
                print(f"updated in {seconds:.0f} s, {len(readings)} streams so far", flush=True)
                await asyncio.sleep(LOAD_SECONDS_AROUND_UPDATE)
                stop.set()
            wrong = [
                count_missing_or_duplicate(seen, await stored(client, stack.url, seen)) for seen in readings
            ]
            versions = stack.docker("version", "--format", "{{.Server.Version}}")
            new_replicas = stack.replicas()
        lanes = replica_lanes(old, new_replicas, Path(folder) / "events", began, ended)
    failed = known.result().failed + new.result().failed + [why for seen in readings for why in seen.failed]
    print(*failed[:10], sep="\n")
    pace = MODEL.partition("=")[2]
    how = (
        f"{REPLICAS} replicas with a drain of 20 s and a delay of 2 s behind HAProxy, "
        f"{CACHED_PER_SECOND} cached and {NEW_PER_SECOND} new questions a second, {STREAMS} streams of "
        f"{pace} tokens a second at a time; load generator on the same machine; stand-in images"
    )
    save(
        "lesson_06_rolling",
        {
            "title": "A rolling update, second by second",
            "kind": "timeline",
            "alt": "Four new replicas start in turn; when one serves, an old one drains and ends.",
            "measured": measured(how, Docker=versions),
            "values": {
                "seconds": round(seconds, 1),
                "known": known.result().sent,
                "new": new.result().sent,
                "streams": len(readings),
                "failed": len(failed),
                "ended_with_done": sum(seen.types[-1] == "done" for seen in readings),
                "resumed": sum(seen.cuts > 0 for seen in readings),
                "lost_or_doubled": sum(wrong),
                "events": sum(len(seen.ids) for seen in readings),
                "longest_gap": round(max(seen.gap for seen in readings), 2),
                "lag_ms": round(1000 * max(known.result().max_delay, new.result().max_delay), 1),
                "known_p50_ms": round(statistics.median(known.result().milliseconds), 1),
                "known_p99_ms": round(statistics.quantiles(known.result().milliseconds, n=100)[98], 1),
                "new_p50_ms": round(statistics.median(new.result().milliseconds), 1),
            },
            "lanes": lanes,
        },
    )


if __name__ == "__main__":
    asyncio.run(main())

"""Does an update on Kubernetes fail any request? `python bench/lesson_11_rolling.py`, five minutes.

It updates four replicas and goes back, under a load of questions and streams. It needs Docker and Kubernetes.
"""

import asyncio
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.cluster import installed
from bench.records import measured, save
from course.clients.load import LONG, SHORT, numbered_question, send_at_constant_rate
from course.clients.readers import ReceivedEvents, count_missing_or_duplicate, new_client, read, stored
from course.containers.installations import Installation

REPLICAS, STREAMS, CACHED_PER_SECOND, NEW_PER_SECOND = 4, 100, 40, 2
MODEL = "offline?tps=5"  # a run takes longer than a drain: some are handed over
SETTINGS = {"MODEL_NAME": MODEL, "MAX_CONCURRENCY": "256", "LOG_LEVEL": "WARNING"}
DRAIN = {"DRAIN_DELAY_SECONDS": "5", "DRAIN_SECONDS": "20"}  # as the lesson has them
LOAD_SECONDS_AROUND_UPDATE = 5
TONES = {"starts": "blue", "serves": "green", "drains": "orange"}


def state(pod: dict[str, Any]) -> str:
    """What a pod does: it starts, serves, or drains."""
    if "deletionTimestamp" in pod["metadata"]:
        return "drains"
    conditions = pod["status"].get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return "serves" if ready else "starts"


def watch(made: Installation, stop: threading.Event, seen: list[tuple[float, dict[str, str]]]) -> None:
    """Note what each agent does, about twice a second."""
    while not stop.is_set():
        pods = made.json("pods", "--selector=app=agent")["items"]
        seen.append((time.monotonic(), {pod["metadata"]["name"]: state(pod) for pod in pods}))
        stop.wait(0.3)


def lanes(seen: list[tuple[float, dict[str, str]]]) -> list[dict[str, Any]]:
    """A lane for each pod, with what it did and when."""
    began, names = seen[0][0], list(dict.fromkeys(name for _, pods in seen for name in pods))
    found = []
    for number, name in enumerate(names, 1):
        spans: list[dict[str, Any]] = []
        for at, pods in seen:
            now, doing = round(at - began, 2), pods.get(name)
            if spans and doing and spans[-1]["label"] == doing:
                spans[-1]["end"] = now
            elif doing:
                spans.append({"start": now, "end": now, "label": doing, "tone": TONES[doing]})
        found.append({"name": f"pod {number}", "spans": [s for s in spans if s["end"] - s["start"] > 0.5]})
    return found


async def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        installed(Path(folder), REPLICAS, REPLICAS, **SETTINGS, **DRAIN) as made,
    ):
        stop, readings = asyncio.Event(), list[ReceivedEvents]()
        stop_watching, seen = threading.Event(), list[tuple[float, dict[str, str]]]()

        async def reader(number: int) -> None:
            times = 0
            while not stop.is_set():
                times += 1
                readings.append(ReceivedEvents())
                await read(client, made.url, f"{LONG} {number}, {times}", readings[-1])

        async with new_client() as client:
            (await client.post(f"{made.url}/v1/research", json={"query": SHORT})).raise_for_status()
            async with asyncio.TaskGroup() as group:
                for number in range(STREAMS):
                    group.create_task(reader(number))
                cached = send_at_constant_rate(client, made.url, CACHED_PER_SECOND, lambda _: SHORT, stop)
                known = group.create_task(cached)
                fresh = send_at_constant_rate(
                    client, made.url, NEW_PER_SECOND, numbered_question, stop, keys=True
                )
                new = group.create_task(fresh)
                await asyncio.sleep(LOAD_SECONDS_AROUND_UPDATE)
                watching = group.create_task(asyncio.to_thread(watch, made, stop_watching, seen))
                began = time.monotonic()
                try:
                    await asyncio.to_thread(made.apply, "2.1.0", made.images[2], **SETTINGS, **DRAIN)
                    await asyncio.to_thread(made.wait_ready, "deployment/agent")
                    updated = time.monotonic() - began
                    await asyncio.to_thread(made.kubectl, "rollout", "undo", "deployment/agent")
                    await asyncio.to_thread(made.wait_ready, "deployment/agent")
                    seconds = time.monotonic() - began
                    print(f"there in {updated:.0f} s, and back in {seconds - updated:.0f}", flush=True)
                    await asyncio.sleep(LOAD_SECONDS_AROUND_UPDATE)
                finally:
                    stop_watching.set()
                    stop.set()
            assert watching.done()
            wrong = [
                count_missing_or_duplicate(each, await stored(client, made.url, each)) for each in readings
            ]
        versions = made.cluster.kubectl("version").splitlines()[-1].rpartition("v")[2]
    failed = known.result().failed + new.result().failed + [why for each in readings for why in each.failed]
    print(*failed[:10], sep="\n")
    how = (
        f"{REPLICAS} replicas with half a processor, a drain of 20 s and a delay of 5 s behind two HAProxies "
        f"on one node, to a new version and back; {CACHED_PER_SECOND} cached and {NEW_PER_SECOND} new "
        f"questions a second, {STREAMS} streams of {MODEL.partition('=')[2]} tokens a second at a time; load "
        "generator on the same machine; stand-in images"
    )
    save(
        "lesson_11_rolling",
        {
            "title": "An update and its rollback on Kubernetes, second by second",
            "kind": "timeline",
            "alt": "Four new pods start in turn, and for each an old one drains; then the same back again.",
            "measured": measured(how, Kubernetes=versions),
            "values": {
                "seconds": round(seconds, 1),
                "there": round(updated, 1),
                "known": known.result().sent,
                "new": new.result().sent,
                "streams": len(readings),
                "failed": len(failed),
                "ended_with_done": sum(each.types[-1] == "done" for each in readings),
                "resumed": sum(each.cuts > 0 for each in readings),
                "lost_or_doubled": sum(wrong),
                "events": sum(len(each.ids) for each in readings),
                "longest_gap": round(max(each.gap for each in readings), 2),
                "known_p50_ms": round(statistics.median(known.result().milliseconds), 1),
                "known_p99_ms": round(statistics.quantiles(known.result().milliseconds, n=100)[98], 1),
            },
            "lanes": lanes(seen),
        },
    )


if __name__ == "__main__":
    asyncio.run(main())

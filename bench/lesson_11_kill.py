"""What do readers notice when a pod is killed? `python bench/lesson_11_kill.py`, two minutes.

A hundred streams are read from two pods, one of which is killed, beside cached and new questions. It needs
Docker and Kubernetes.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from bench.cluster import installed
from bench.records import measured, save
from course.clients.load import LONG, SHORT, numbered_question, send_at_constant_rate
from course.clients.readers import ReceivedEvents, count_missing_or_duplicate, new_client, read, stored
from course.polling import until

STREAMS, CACHED_PER_SECOND, NEW_PER_SECOND = 100, 40, 2
MODEL = "offline?tps=5"
SETTINGS = {"MODEL_NAME": MODEL, "MAX_CONCURRENCY": "256", "LOG_LEVEL": "WARNING"}
SECONDS_AFTER_KILL = 20  # for which questions are still asked


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, installed(Path(folder), 2, 2, **SETTINGS) as made:
        stop = asyncio.Event()
        readings = [ReceivedEvents() for _ in range(STREAMS)]
        async with new_client() as client:
            (await client.post(f"{made.url}/v1/research", json={"query": SHORT})).raise_for_status()
            async with asyncio.TaskGroup() as group:
                for number, seen in enumerate(readings):
                    group.create_task(read(client, made.url, f"{LONG} {number}", seen))
                cached = send_at_constant_rate(client, made.url, CACHED_PER_SECOND, lambda _: SHORT, stop)
                known = group.create_task(cached)
                fresh = send_at_constant_rate(
                    client, made.url, NEW_PER_SECOND, numbered_question, stop, keys=True
                )
                new = group.create_task(fresh)
                await asyncio.to_thread(until, lambda: all(len(seen.ids) >= 10 for seen in readings), 120)
                victim = made.ready_agents()[0]
                killed = time.monotonic()
                kill = ("delete", "pod", victim, "--force", "--grace-period=0")
                await asyncio.to_thread(made.kubectl, *kill)
                await asyncio.to_thread(made.wait_ready, "deployment/agent")
                replaced = time.monotonic() - killed
                await asyncio.sleep(max(0, SECONDS_AFTER_KILL - replaced))
                stop.set()
            wrong = [
                count_missing_or_duplicate(seen, await stored(client, made.url, seen)) for seen in readings
            ]
        versions = made.cluster.kubectl("version").splitlines()[-1].rpartition("v")[2]
    cut = [seen for seen in readings if seen.cuts]
    silences = sorted(
        next(at for at in seen.times if at > killed) - max(at for at in seen.times if at <= killed)
        for seen in cut
    )
    failed = known.result().failed + new.result().failed
    refused = [why for seen in readings for why in seen.failed]
    print(*[*failed, *refused][:10], sep="\n")
    how = (
        f"two replicas with half a processor behind two HAProxies on one node, one of them killed; "
        f"{CACHED_PER_SECOND} cached and {NEW_PER_SECOND} new questions a second, {STREAMS} streams of "
        f"{MODEL.partition('=')[2]} tokens a second; a lease of 3 s; load generator on the same machine; "
        "stand-in images"
    )
    save(
        "lesson_11_kill",
        {
            "title": "Silence for the readers of the killed pod",
            "kind": "bars",
            "alt": "Seconds until the first, the median and the last reader hear from the other pod.",
            "measured": measured(how, Kubernetes=versions),
            "unit": "seconds",
            "groups": ["first reader", "median", "last reader"],
            "series": [
                {
                    "name": "silence",
                    "values": [round(s, 2) for s in (silences[0], statistics.median(silences), silences[-1])],
                }
            ],
            "values": {
                "streams": STREAMS,
                "cut": len(cut),
                "ended_with_done": sum(seen.types[-1] == "done" for seen in readings),
                "lost_or_doubled": sum(wrong),
                "events": sum(len(seen.ids) for seen in readings),
                "asked": known.result().sent + new.result().sent,
                "failed": len(failed),
                "refused": len(refused),
                "replaced_seconds": round(replaced, 1),
            },
        },
    )


if __name__ == "__main__":
    asyncio.run(main())

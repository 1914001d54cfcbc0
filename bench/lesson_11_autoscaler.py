"""How long does the autoscaler take? `python bench/lesson_11_autoscaler.py`, three minutes.

It asks for more than 70 % of the processor time that two pods request, then stops, and notes the replicas.
It needs Docker and Kubernetes.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.cluster import installed
from bench.records import measured, save
from course.clients.load import numbered_question, send_at_constant_rate
from course.clients.readers import new_client
from course.errors import CourseError

NEW_PER_SECOND, LOAD_SECONDS, LIMIT = 8, 90, 240
SETTINGS = {"MODEL_NAME": "offline", "LOG_LEVEL": "WARNING"}


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, installed(Path(folder), 2, 10, **SETTINGS) as made:

        def replicas() -> tuple[int, int]:
            """The replicas that the autoscaler wants, and those that are ready."""
            found = made.json("deployment", "agent")
            return int(found["spec"]["replicas"]), int(found["status"].get("readyReplicas", 0))

        seen: list[tuple[float, int, int]] = []
        stop = asyncio.Event()
        began = time.monotonic()
        async with new_client() as client, asyncio.TaskGroup() as group:
            load = send_at_constant_rate(client, made.url, NEW_PER_SECOND, numbered_question, stop, keys=True)
            asking = group.create_task(load)
            while not (stop.is_set() and seen[-1][1] == 2):
                now = time.monotonic() - began
                seen.append((now, *await asyncio.to_thread(replicas)))
                if now > LOAD_SECONDS:
                    stop.set()
                if now > LOAD_SECONDS + LIMIT:
                    raise CourseError(f"The replicas are not taken away: {seen[-1]}")
                await asyncio.sleep(0.5)
        versions = made.cluster.kubectl("version").splitlines()[-1].rpartition("v")[2]
    lanes: list[dict[str, Any]] = []
    for name, column, tone in (("wanted", 1, "blue"), ("ready", 2, "green")):
        spans: list[dict[str, Any]] = []
        for each in seen:
            label = f"{each[column]}"
            if spans and spans[-1]["label"] == label:
                spans[-1]["end"] = round(each[0], 2)
            else:
                if spans:
                    spans[-1]["end"] = round(each[0], 2)
                spans.append(
                    {"start": round(each[0], 2), "end": round(each[0], 2), "label": label, "tone": tone}
                )
        lanes.append({"name": f"pods {name}", "spans": [s for s in spans if s["end"] - s["start"] > 0.3]})
    most = max(wanted for _, wanted, _ in seen)
    if most == 2:
        raise CourseError("Under this load the autoscaler wants no more pods.")
    values = {
        "most": most,
        "first_up": round(next(at for at, wanted, _ in seen if wanted > 2), 1),
        "at_most_wanted": round(next(at for at, wanted, _ in seen if wanted == most), 1),
        "down_after": round(seen[-1][0] - LOAD_SECONDS, 1),
        "asked": asking.result().sent,
        "failed": len(asking.result().failed),
    }
    print(*asking.result().failed[:5], sep="\n")
    how = (
        f"{NEW_PER_SECOND} new questions a second for {LOAD_SECONDS} s, answered by pods with half a "
        "processor on one node, whose autoscaler decides every 5 s and forgets a peak after 5 s; load "
        "generator on the same machine; stand-in images"
    )
    save(
        "lesson_11_autoscaler",
        {
            "title": "The autoscaler under load, and after it",
            "kind": "timeline",
            "alt": "How many pods are wanted and ready, from the start of the load to its end and back.",
            "measured": measured(how, Kubernetes=versions),
            "values": values,
            "lanes": lanes,
            "marks": [{"start": 0, "label": "load"}, {"start": LOAD_SECONDS, "label": "no load"}],
        },
    )


if __name__ == "__main__":
    asyncio.run(main())

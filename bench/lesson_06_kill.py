"""What do readers see of a `kill -9`? `python bench/lesson_06_kill.py`, about a minute; needs Docker.

It kills a replica that streams to 100 readers; a second replica takes over.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from bench.records import measured, save
from course.clients.load import LONG
from course.clients.readers import ReceivedEvents, count_missing_or_duplicate, new_client, read, stored
from course.containers.stack import Stack

STREAMS, MODEL, LEASE_SECONDS = 100, "offline?tps=10", 3


def takeover_index(seen: ReceivedEvents) -> int:
    """The position of the other replica's first event; 0 when there is none."""
    return seen.types.index("reset") if "reset" in seen.types else 0


async def main() -> None:
    settings = {"OFFLINE_MODEL_NAME": MODEL, "MAX_CONCURRENCY": "256", "LEASE_SECONDS": str(LEASE_SECONDS)}
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), settings) as stack:
        stack.up(1)
        readings = [ReceivedEvents() for _ in range(STREAMS)]
        async with new_client() as client:
            async with asyncio.TaskGroup() as group:
                for number, seen in enumerate(readings):
                    group.create_task(read(client, stack.url, f"{LONG} {number}", seen))
                while not all(seen.ids for seen in readings):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                # Start the second replica when the first one has all streams.
                await asyncio.to_thread(stack.up, 2)
                going = [seen for seen in readings if not seen.finished]
                before = [len(seen.ids) for seen in going]
                killed = time.monotonic()
                await asyncio.to_thread(stack.docker, "kill", stack.replicas()[0])
                print(f"killed with {len(going)} streams", flush=True)
            wrong = [
                count_missing_or_duplicate(seen, await stored(client, stack.url, seen)) for seen in going
            ]
            versions = stack.docker("version", "--format", "{{.Server.Version}}")
    silences, otherwise = [], []
    for seen in going:
        if at := takeover_index(seen):
            # From the kill, or the last event after it, to the first event of the other replica.
            silences.append(seen.times[at] - max(killed, seen.times[at - 1]))
            otherwise += seen.pauses[: at - 1] + seen.pauses[at:]
    how = (
        f"{STREAMS} streams of {MODEL.partition('=')[2]} tokens a second at one replica, killed, another "
        f"behind the same HAProxy; a lease of {LEASE_SECONDS} s; readers come back after 0.5 s; "
        "stand-in images"
    )
    save(
        "lesson_06_kill",
        {
            "title": "Seconds from the kill of a replica to the other replica's first event, for 100 readers",
            "kind": "bars",
            "alt": "Seconds until the first, the median and the last reader hear from the other replica.",
            "measured": measured(how, Docker=versions),
            "values": {
                "streams": len(going),
                "completed_elsewhere": sum(
                    seen.types[-1] == "done" and "reset" in seen.types for seen in going
                ),
                "resets": len(silences),
                "lost_or_doubled": sum(wrong),
                "events": sum(len(seen.ids) for seen in going),
                "events_before": sum(before),
                "longest_gap": round(max(seen.gap for seen in going), 2),
                "longest_gap_otherwise": round(max(otherwise), 2),
            },
            "unit": "seconds",
            "groups": ["first reader", "median", "last reader"],
            "series": [
                {
                    "name": "silence",
                    "values": [round(each(silences), 2) for each in (min, statistics.median, max)],
                }
            ],
            "target": {"label": "aim", "values": [6, 6, 6]},
        },
    )


if __name__ == "__main__":
    asyncio.run(main())

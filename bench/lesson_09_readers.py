"""How long until readers see an event? `python bench/lesson_09_readers.py`, one minute; needs Docker."""

import asyncio
import re
import time

import httpx2

from bench.parallel_agents import RESULT, Bench, lesson_09
from bench.records import measured, save

READERS, LINES = 200, 300
# Both clocks are this machine's: a container has the kernel's time.
CODE = f"""
import time
time.sleep(5)
for n in range({LINES}):
    print(f"at {{time.time()}} line {{n}}", flush=True)
    time.sleep(0.05)
{RESULT}
"""


async def read(client: httpx2.AsyncClient, url: str, waits: list[float]) -> list[int]:
    """The ids that a reader gets. Adds the seconds since each line was printed to `waits`."""
    ids = []
    async with client.stream("GET", url) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("id: "):
                ids.append(int(line[4:]))
            waits += [time.time() - float(at) for at in re.findall(r"at ([0-9.]+) line", line)[:1]]
    return ids


async def follow(bench: Bench, headers: dict[str, str]) -> tuple[list[float], list[list[int]]]:
    waits: list[float] = []
    limits = httpx2.Limits(max_connections=READERS)
    async with httpx2.AsyncClient(headers=headers, timeout=120, limits=limits) as client:
        run = await asyncio.to_thread(bench.post, headers, CODE, 1)
        url = f"{bench.url}/runs/{run}/stream"
        return waits, await asyncio.gather(*(read(client, url, waits) for _ in range(READERS)))


def main() -> None:
    with lesson_09() as bench:
        waits, got = asyncio.run(follow(bench, bench.user()))
    complete = sum(ids == list(range(1, len(got[0]) + 1)) for ids in got)
    waits.sort()
    values = {
        "readers": READERS,
        "complete": complete,
        "p50_ms": round(waits[len(waits) // 2] * 1000),
        "p99_ms": round(waits[len(waits) * 99 // 100] * 1000),
    }
    how = (
        f"{READERS} readers in one process follow a run that prints {LINES} lines, 20 a second; from the "
        "time that the agent printed to the time that a reader has the event; the readers' own processor "
        "time is in it"
    )
    save(
        "lesson_09_readers",
        {
            "title": f"From an agent's line to {READERS} readers",
            "kind": "bars",
            "alt": "Bars: the median and the 99th percentile of the time until a reader has an event.",
            "measured": measured(how, "fastapi", "uvicorn", "httpx2"),
            "values": values,
            "unit": "ms",
            "groups": ["p50", "p99"],
            "series": [{"name": "milliseconds", "values": [values["p50_ms"], values["p99_ms"]]}],
        },
    )


if __name__ == "__main__":
    main()

"""Does every run end while Redis and the model fail? `python bench/lesson_04_chaos.py`, about a minute.

It starts 200 runs on two replicas, kills and restarts Redis three times, and the model fails one call in ten.
"""

import asyncio
import itertools
import tempfile
from collections import Counter

import httpx2

from bench.lesson_04_streams import redis_server
from bench.records import measured, save
from bench.research import follow, question, replica
from course.clients.readers import ReceivedEvents
from course.models import start_model
from course.processes import Processes

RUNS, CALLERS, KILLS = 200, 20, 3


async def run(client: httpx2.AsyncClient, urls: "itertools.cycle[str]", number: int) -> ReceivedEvents:
    """Start a run and follow it to its end, with each request at the next replica."""
    seen = ReceivedEvents()
    key = {"Idempotency-Key": f"chaos-{number}"}
    body = question(number) | {"background": True}
    async with asyncio.timeout(120):
        while not seen.finished:
            url = next(urls)
            try:
                if not seen.run_id:
                    reply = await client.post(f"{url}/v1/research", json=body, headers=key)
                    if reply.status_code == 202:
                        seen.run_id = reply.json()["id"]
                    else:
                        assert reply.status_code == 503, reply.text
                        await asyncio.sleep(0.2)
                    continue
                headers = {"Last-Event-ID": seen.ids[-1]} if seen.ids else {}
                events = f"{url}/v1/research/{seen.run_id}/events"
                async with client.stream("GET", events, headers=headers) as response:
                    async for _ in follow(response, seen):
                        pass
            except httpx2.TransportError:
                pass
            await asyncio.sleep(0.2)
    return seen


async def ended(client: httpx2.AsyncClient, url: str, run_id: str) -> str:
    """Wait until the store has a run as ended; returns its state."""
    async with asyncio.timeout(30):
        while True:
            state: str = (await client.get(f"{url}/v1/research/{run_id}")).json().get("state", "")
            if state in ("done", "failed", "cancelled"):
                return state
            await asyncio.sleep(0.1)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        store = redis_server(processes, folder)
        model = start_model(processes)
        settings = {"REDIS_URL": store.url, "MODEL_NAME": "offline?tps=60&fault=500&every=10"}
        replicas = [replica(processes, model, **settings) for _ in range(2)]
        urls = itertools.cycle([each.url for each in replicas])
        numbers, found = iter(range(RUNS)), []
        async with httpx2.AsyncClient(timeout=100) as client:

            async def caller() -> None:
                for number in numbers:
                    found.append(await run(client, urls, number))

            callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
            kills = 0
            while not all(task.done() for task in callers):
                await asyncio.wait(callers, timeout=1)
                if kills < KILLS and len(found) >= (kills + 1) * RUNS // (KILLS + 1):
                    kills += 1
                    print(f"Redis is killed after {len(found)} runs have ended", flush=True)
                    store.kill()
                    await asyncio.wait(callers, timeout=2)  # Redis is away for two seconds
                    await asyncio.to_thread(store.start)
            for task in callers:
                task.result()
            stored = [await ended(client, next(urls), seen.run_id) for seen in found]
    ends = Counter(seen.types[-1] for seen in found)
    agree = sum(
        (seen.types[-1] == "done") == (kept == "done") for seen, kept in zip(found, stored, strict=True)
    )
    ordered = sum(seen.in_order() for seen in found)
    how = (
        f"{RUNS} runs by {CALLERS} callers on two replicas, the model failing one call in ten (the agent "
        f"tries twice more), Redis killed and started again {KILLS} times, away for two seconds each time"
    )
    save(
        "lesson_04_chaos",
        {
            "title": "How runs ended while Redis died three times",
            "kind": "bars",
            "alt": "How many runs ended in done, in error, and not at all.",
            "measured": measured(how, "redis", "langchain-openai"),
            "values": {"runs": len(found), "stored_as_told": agree, "in_order": ordered, "kills": kills},
            "unit": "runs",
            "groups": ["done", "error", "no end"],
            "series": [{"name": "runs", "values": [ends["done"], ends["error"], RUNS - len(found)]}],
        },
    )


if __name__ == "__main__":
    asyncio.run(main())

"""What does the research agent cost beside its agent alone? `python bench/lesson_04_speed.py`, two minutes.

It compares start and memory with a bare app, and runs a second with the agent in a loop; then it measures the
time to the first event under load.
"""

import asyncio
import itertools
import statistics
import subprocess
import sys
import time

import httpx2

from bench.agent_baseline import CALLERS
from bench.lesson_02_bounds import BARE_APP, serve
from bench.records import measured, save, series
from bench.research import environment, follow, question, replica
from course.clients.readers import ReceivedEvents
from course.models import start_model
from course.paths import ROOT
from course.processes import Processes

SECONDS, ROUNDS, STARTS = 8, 3, 5
CONCURRENT_RUNS, MEASURED_RUNS, TOKENS_A_SECOND = 50, 200, 50


def runs_per_second_of_agent(model: str, first: int) -> float:
    command = [sys.executable, "-m", "bench.agent_baseline", str(SECONDS), str(first)]
    env = environment(model)
    run = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(run.stdout)


async def runs_per_second_via_api(url: str, first: int) -> float:
    """Measure runs a second through POST /v1/research."""
    numbers, runs = itertools.count(first), 0
    async with httpx2.AsyncClient(timeout=60) as client:
        began = time.perf_counter()

        async def caller() -> None:
            nonlocal runs
            while time.perf_counter() - began < SECONDS:
                response = await client.post(f"{url}/v1/research", json=question(next(numbers)))
                response.raise_for_status()
                runs += 1

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return runs / (time.perf_counter() - began)


async def first_events(url: str) -> list[float]:
    """Milliseconds from POST to the first event, of runs that start while 50 others go on."""
    numbers = itertools.count(1_000_000)
    found: list[float] = []

    async def measure_run(client: httpx2.AsyncClient) -> None:
        seen, began = ReceivedEvents(), time.monotonic()
        body = question(next(numbers))
        async with client.stream("POST", f"{url}/v1/research/stream", json=body) as response:
            async for _ in follow(response, seen):
                pass
        assert seen.finished
        found.append((seen.times[0] - began) * 1000)

    async with httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=None)) as client:

        async def measure_repeatedly(delay: float) -> None:
            await asyncio.sleep(delay)  # spread, because people do not ask at the same moment
            while len(found) < MEASURED_RUNS:
                await measure_run(client)

        await asyncio.gather(*(measure_repeatedly(n * 3 / CONCURRENT_RUNS) for n in range(CONCURRENT_RUNS)))
    return sorted(found)


def main() -> None:
    bare_starts, starts, alone, through = [], [], [], []
    with Processes() as processes:
        model = start_model(processes)
        for _ in range(STARTS):
            bare = serve(processes, *BARE_APP)
            bare_starts.append(bare.seconds)
            agent = replica(processes, model)
            starts.append(agent.seconds)
            memory = bare.megabytes(), agent.megabytes()
            for each in (bare, agent):
                each.process.terminate()
                each.process.wait()
        agent = replica(processes, model, MAX_CONCURRENCY="64")
        for number in range(ROUNDS):
            alone.append(runs_per_second_of_agent(model, number * 100_000))
            through.append(asyncio.run(runs_per_second_via_api(agent.url, number * 100_000 + 50_000)))
            print(f"round {number + 1}: alone {alone[-1]:.1f}/s, served {through[-1]:.1f}/s", flush=True)
        paced = replica(processes, model, MODEL_NAME=f"offline?tps={TOKENS_A_SECOND}", MAX_CONCURRENCY="64")
        times = asyncio.run(first_events(paced.url))
    libraries = ("fastapi", "uvicorn", "langchain", "langchain-openai")
    how = (
        f"start: median and spread of {STARTS} starts in turn, to ready; runs: {CALLERS} callers in a loop, "
        f"{ROUNDS} rounds of {SECONDS} s in turn, the offline model unpaced, every question new, each run a "
        f"search and a page; first event: {MEASURED_RUNS} runs, {CONCURRENT_RUNS} of them at a time, "
        f"{TOKENS_A_SECOND} tokens a second"
    )
    save(
        "lesson_04_start",
        {
            "title": "Seconds from start to ready",
            "kind": "bars",
            "alt": "Seconds until a bare app and the research agent are ready.",
            "measured": measured(how, *libraries),
            "values": {"megabytes_bare": memory[0], "megabytes": memory[1]},
            "unit": "seconds",
            "groups": ["ready after start"],
            "series": [
                series("bare app", [bare_starts]),
                series("research agent", [starts], to=[bare_starts]),
            ],
        },
    )
    save(
        "lesson_04_speed",
        {
            "title": "Research runs a second",
            "kind": "bars",
            "alt": "Research runs a second of the agent in a loop and through its API.",
            "measured": measured(how, *libraries),
            "values": {
                "first_event_ms": round(statistics.median(times), 1),
                "first_event_p99_ms": round(times[round(len(times) * 0.99) - 1], 1),
            },
            "unit": "runs a second",
            "groups": ["runs"],
            "series": [series("agent alone", [alone]), series("through the API", [through], to=[alone])],
        },
    )


if __name__ == "__main__":
    main()

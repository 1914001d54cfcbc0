"""Does the agent's memory stay bounded? `python bench/lesson_04_memory.py`, about eight minutes.

It starts 10,000 runs on one worker that keeps up to 1,000 of them in memory.
"""

import asyncio

import httpx2

from bench.records import measured, save
from bench.research import question, replica
from course.models import start_model
from course.processes import Processes

RUNS, CALLERS, MARKS = 10_000, 16, 10


async def research(url: str, first: int, count: int) -> None:
    numbers = iter(range(first, first + count))
    async with httpx2.AsyncClient(timeout=60) as client:

        async def caller() -> None:
            for number in numbers:
                response = await client.post(f"{url}/v1/research", json=question(number))
                response.raise_for_status()

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


def main() -> None:
    memory = []
    with Processes() as processes:
        agent = replica(processes, start_model(processes), MAX_TOKENS="40")
        memory.append(agent.megabytes())
        for mark in range(MARKS):
            asyncio.run(research(agent.url, mark * RUNS // MARKS, RUNS // MARKS))
            memory.append(agent.megabytes())
            print(f"{(mark + 1) * RUNS // MARKS:,} runs: {memory[-1]} MB", flush=True)
    save(
        "lesson_04_memory",
        {
            "title": "Memory of one worker by the number of runs",
            "kind": "bars",
            "alt": "The worker's memory at the start and after each thousand runs.",
            "measured": measured(
                f"{RUNS:,} runs by {CALLERS} callers, each a search, a page and an answer of 40 tokens, "
                "1,000 finished runs kept at most",
                "fastapi",
                "langchain",
            ),
            "values": {"runs": RUNS, "growth_of_the_second_half": round(memory[-1] - memory[MARKS // 2], 1)},
            "unit": "MB",
            "groups": [f"{n * RUNS // MARKS:,}" for n in range(MARKS + 1)],
            "series": [{"name": "memory", "values": memory}],
        },
    )


if __name__ == "__main__":
    main()

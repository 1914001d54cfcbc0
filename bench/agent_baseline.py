"""The baseline for research runs: the agent called in a loop, without a server.

`python bench/agent_baseline.py SECONDS FIRST` prints runs a second; questions count from FIRST.
"""

import asyncio
import gc
import itertools
import sys
import time

from bench.research import question
from course.paths import ROOT

sys.path.insert(0, str(ROOT / "research-agent"))

from app.agent import Agent
from app.config import read_settings
from app.models import Checkpoint
from app.research.search import make_search

CALLERS = 16


async def main(seconds: float, first: int) -> float:
    settings = read_settings()
    agent = Agent(settings, make_search(settings))
    numbers, runs = itertools.count(first), 0
    gc.freeze()
    began = time.perf_counter()

    async def caller() -> None:
        nonlocal runs
        while time.perf_counter() - began < seconds:
            async for _ in agent.research(question(next(numbers))["query"], Checkpoint()):
                pass
            runs += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return runs / (time.perf_counter() - began)


if __name__ == "__main__":
    import uvloop

    print(uvloop.run(main(float(sys.argv[1]), int(sys.argv[2]))))

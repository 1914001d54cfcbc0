"""How many tasks a second do 1, 2, 4 and 8 agents do? Each task waits for the model, which the agents share.

MODEL_NAME='offline?ttft=1' PYTHONPATH=src python examples/load_testing.py [--agents 1 2 4 8]
"""

import argparse
import asyncio
import json

from main import AgentPipelines, connected

TASKS_EACH = 8


async def tasks_per_second(pipelines: AgentPipelines, agent_count: int) -> float:
    """From the start of the first task to the end of the last, so without the start of the agents."""
    times = ("--name", "load", "--times", str(TASKS_EACH * agent_count))
    async with pipelines.deployed(agent_count) as deployment:
        await deployment.run("submit", "What is a container?", *times)
        results = (await deployment.run("collect", *times))["results"]
    seconds: float = max(r["ended"] for r in results) - min(r["started"] for r in results)
    return len(results) / seconds


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", nargs="+", type=int, default=[1, 2, 4, 8])
    async with connected() as pipelines:
        for count in parser.parse_args().agents:
            rate = await tasks_per_second(pipelines, count)
            print(json.dumps({"agents": count, "tasks_per_second": round(rate, 3)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())

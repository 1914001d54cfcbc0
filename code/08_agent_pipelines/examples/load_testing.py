"""How many tasks a second do 1, 2, 4 and 8 agents do? Each task waits for the model, which the agents share.

MODEL_NAME='offline?ttft=1' PYTHONPATH=src python examples/load_testing.py [--agents 1 2 4 8] [--as-json]
"""

import argparse
import asyncio
import json

from agent_ops import deployed
from main import AgentPipelines, connected

TASKS_EACH = 8


async def tasks_per_second(pipelines: AgentPipelines, agent_count: int) -> float:
    """From the start of the first task to the end of the last, so without the start of the agents."""
    times = ("--name", "load", "--times", str(TASKS_EACH * agent_count))
    async with deployed(pipelines.source, pipelines.access(), agent_count) as deployment:
        await deployment.run("coordination.py", "submit", "What is a container?", *times)
        results = (await deployment.run("coordination.py", "collect", *times))["results"]
    began = min(result["started"] for result in results)
    seconds: float = max(result["ended"] for result in results) - began
    return len(results) / seconds


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--as-json", action="store_true")
    options = parser.parse_args()
    rates = {}
    async with connected() as pipelines:
        for count in options.agents:
            rates[count] = await tasks_per_second(pipelines, count)
            if not options.as_json:
                print(f"agents: {count}  tasks a second: {rates[count]:.2f}", flush=True)
    if options.as_json:
        print(json.dumps(rates))


if __name__ == "__main__":
    asyncio.run(main())

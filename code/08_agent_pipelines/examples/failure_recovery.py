"""Kill one of four agents every two seconds while they work, then give them a task that kills its agent.

MODEL_NAME='offline?ttft=1' PYTHONPATH=src python examples/failure_recovery.py [--tasks 20] [--as-json]
"""

import argparse
import asyncio
import itertools
import json
from typing import Any

from agent_ops import Deployment, deployed
from main import connected

AGENTS, KILL_EVERY, POISON = 4, 2, "a prompt that crashes its agent"


async def survive_kills(deployment: Deployment, tasks: int) -> dict[str, float]:
    """Kill the agents in turn, and start each again, until every task has a result."""
    times = ("--name", "recovery", "--times", str(tasks))
    await deployment.run("coordination.py", "submit", "What is a container?", *times)
    collecting = asyncio.create_task(deployment.run("coordination.py", "collect", *times))
    kills, starts = 0, dict[str, asyncio.Task[Any]]()
    for name, agent in itertools.cycle(deployment.agents.items()):
        if (await asyncio.wait({collecting}, timeout=KILL_EVERY))[0]:
            break
        if name not in starts or starts[name].done():
            await agent.stop(kill=True)
            kills += 1
            starts[name] = asyncio.create_task(agent.start())
    await asyncio.gather(*starts.values())
    results = (await collecting)["results"]
    effects = (await deployment.run("coordination.py", "effects"))["effects"]
    return {
        "tasks": tasks,
        "kills": kills,
        "taken_over": sum(result["deliveries"] > 1 for result in results),
        "dead_letters": sum(bool(result["error"]) for result in results),
        "lost": tasks - len(effects),
        "done_twice": sum(count > 1 for count in effects.values()),
        "seconds": max(r["ended"] for r in results) - min(r["submitted"] for r in results),
    }


async def poison(deployment: Deployment) -> dict[str, Any]:
    """The result of a task that kills every agent that takes it; the dead agents are started again."""
    result = (await deployment.run("coordination.py", "fan-out", POISON))["results"][0]
    for agent in deployment.agents.values():
        await agent.start()
    return {"poison": result["error"], "deliveries": result["deliveries"]}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--as-json", action="store_true")
    options = parser.parse_args()
    async with (
        connected() as pipelines,
        deployed(pipelines.source, pipelines.access(), AGENTS, CRASH_ON=POISON) as deployment,
    ):
        found = await survive_kills(deployment, options.tasks) | await poison(deployment)
    if options.as_json:
        print(json.dumps(found))
    else:
        print(*(f"{name.replace('_', ' ')}: {value}" for name, value in found.items()), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())

"""Kill one of four agents every two seconds while they work, then give them a task that kills its agent.

MODEL_NAME='offline?ttft=1' PYTHONPATH=src python examples/failure_recovery.py [--tasks 20]
"""

import argparse
import asyncio
import itertools
import json
from typing import Any

import dagger

from agent_ops import Deployment
from main import connected

AGENTS, KILL_EVERY, POISON = 4, 2, "a prompt that crashes its agent"


async def restart(agent: dagger.Service) -> None:
    await agent.stop(kill=True)
    await agent.start()


async def survive_kills(deployment: Deployment, tasks: int) -> dict[str, Any]:
    """Kill the agents in turn until every task has a result, and redrive the tasks that were given up."""
    times = ("--name", "recovery", "--times", str(tasks))
    await deployment.run("submit", "What is a container?", *times)
    collecting = asyncio.create_task(deployment.run("collect", *times))
    restarts: list[asyncio.Task[None]] = []
    for agent in itertools.cycle(deployment.agents.values()):
        if (await asyncio.wait({collecting}, timeout=KILL_EVERY))[0]:
            break
        await asyncio.gather(*restarts[:-2])  # on a slow machine, leave one agent at work
        restarts.append(asyncio.create_task(restart(agent)))
    await asyncio.gather(collecting, *restarts)
    redriven = (await deployment.run("redrive"))["tasks"]
    results = (await deployment.run("collect", *times))["results"]
    effects = (await deployment.run("effects"))["effects"]
    return {
        "tasks": tasks,
        "kills": len(restarts),
        "taken_over": sum(result["deliveries"] > 1 for result in results),
        "redriven": len(redriven),
        "lost": sum(not result["answer"] for result in results),
        "done_twice": sum(count > 1 for count in effects.values()),
        "seconds": round(max(r["ended"] for r in results) - min(r["started"] for r in results), 1),
    }


async def poison(deployment: Deployment) -> dict[str, Any]:
    """The result of a task that kills every agent that takes it; the dead agents are started again."""
    result = (await deployment.run("fan-out", POISON))["results"][0]
    for agent in deployment.agents.values():
        await agent.start()
    return {"poison": result["error"], "deliveries": result["deliveries"]}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20)
    tasks = parser.parse_args().tasks
    async with connected() as pipelines, pipelines.deployed(AGENTS, CRASH_ON=POISON) as deployment:
        print(json.dumps(await survive_kills(deployment, tasks) | await poison(deployment), indent=2))


if __name__ == "__main__":
    asyncio.run(main())

"""Compositions of tasks, each a function over the queue: fan-out, sequential, conditional, event-driven.

    REDIS_URL=redis://127.0.0.1:6379 python coordination.py fan-out "What is a container?" "What is an image?"

prints one JSON object with the time of the start and the result of each task. Agents do the work.
"""

import argparse
import asyncio
import json
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from typing import Any

from redis.asyncio import Redis

from task_queue import BLOCK_MS, Result, Task, TaskQueue, create_group

EVENTS, WORKFLOWS = "events", "workflows"  # a stream, and the consumer group that reads it
QUESTIONS = ["What is a container?", "What is an image?", "What is a layer?", "What is a volume?"]
STEPS = ["Say this in one sentence: {answer}", "Name one thing that is missing here: {answer}"]
PROMPTS = {
    "fan-out": QUESTIONS,
    "sequential": [QUESTIONS[0], *STEPS],
    "conditional": QUESTIONS[:1],
    "event-driven": ["Why? {event}", *STEPS],
}


async def fan_out(queue: TaskQueue, prompts: Iterable[str], name: str, after: list[str]) -> list[Result]:
    """All tasks at once. A dead letter among the results does not stop its neighbours."""
    tasks = [Task(f"{name}-{number}", prompt, after) for number, prompt in enumerate(prompts)]
    return await asyncio.gather(*(queue.run(task) for task in tasks))


async def sequential(queue: TaskQueue, prompts: Iterable[str], name: str, after: list[str]) -> list[Result]:
    """One task after the other. `{answer}` in a prompt stands for the answer before it."""
    results: list[Result] = []
    for number, prompt in enumerate(prompts):
        if results:
            if results[-1].error:
                break
            prompt, after = prompt.replace("{answer}", results[-1].answer), [results[-1].task]
        results.append(await queue.run(Task(f"{name}-{number}", prompt, after)))
    return results


async def conditional(queue: TaskQueue, prompts: Iterable[str], name: str, after: list[str]) -> list[Result]:
    """The first answer decides: one that names its source is checked, for another experts are asked."""
    question, *_ = prompts
    first = await queue.run(Task(f"{name}-question", question, after))
    if "Source:" in first.answer:
        follow = {"check": f"Is this right? {first.answer}"}
    else:
        follow = {field: f"As an expert in {field}: {question}" for field in ("Docker", "Python")}
    tasks = [Task(f"{name}-{step}", prompt, [first.task]) for step, prompt in follow.items()]
    return [first, *await asyncio.gather(*(queue.run(task) for task in tasks))]


async def event_driven(queue: TaskQueue, prompts: Iterable[str], name: str, after: list[str]) -> list[Result]:
    """Wait for an event, and run the prompts one after the other, with the event's text for `{event}`.

    The event is acknowledged when its workflow has ended. A listener that died before is given the event
    again, and the ids of its tasks come from the event, so that no task is done twice.
    """
    await create_group(queue.redis, EVENTS, WORKFLOWS)
    event, fields = await next_event(queue)
    filled = [prompt.replace("{event}", fields["text"]) for prompt in prompts]
    results = await sequential(queue, filled, f"event-{event}", [event])
    await queue.redis.xack(EVENTS, WORKFLOWS, event)
    return results


async def next_event(queue: TaskQueue) -> tuple[str, dict[str, str]]:
    """The event that this listener had when it died, else the next new one."""
    start, listener = "0", "listener"
    while True:
        found: Any = await queue.redis.xreadgroup(WORKFLOWS, listener, {EVENTS: start}, 1, BLOCK_MS)
        if found and found[0][1]:
            event, fields = found[0][1][0]
            return event, fields
        start = ">"


COMPOSITIONS: dict[str, Callable[[TaskQueue, list[str], str, list[str]], Awaitable[list[Result]]]] = {
    "fan-out": fan_out,
    "sequential": sequential,
    "conditional": conditional,
    "event-driven": event_driven,
}


async def execute(options: argparse.Namespace, queue: TaskQueue) -> dict[str, Any]:
    began, name, arguments = time.time(), options.name, options.arguments
    match options.command:
        case "publish":
            return {"event": await queue.redis.xadd(EVENTS, {"text": " ".join(arguments)})}
        case "submit":
            ids = [f"{name}-{number}" for number in range(options.times * len(arguments))]
            for task_id, prompt in zip(ids, arguments * options.times, strict=True):
                await queue.submit(Task(task_id, prompt))
            return {"tasks": ids}
        case "collect":
            ids = [f"{name}-{number}" for number in range(options.times)]
            results = [await queue.wait(task_id, options.seconds) for task_id in ids]
        case "held":
            return {"entry": await queue.wait_until_held(arguments[0])}
        case "effects":
            return {"effects": await queue.effects()}
        case "dead-letters":
            results = list((await queue.dead_letters()).values())
        case "redrive":
            return {"tasks": await queue.redrive()}
        case composition:
            results = await COMPOSITIONS[composition](queue, arguments or PROMPTS[composition], name, [])
    return {"began": began, "results": [asdict(result) for result in results]}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = [*COMPOSITIONS, "publish", "submit", "collect", "held", "effects", "dead-letters", "redrive"]
    parser.add_argument("command", choices=commands)
    parser.add_argument("arguments", nargs="*", help="prompts; the text of an event; the id of an agent")
    parser.add_argument("--name", default=uuid.uuid4().hex[:8], help="begins the id of each task")
    parser.add_argument("--times", type=int, default=1, help="submit the prompts, or collect, so many times")
    parser.add_argument("--seconds", type=float, default=300, help="the longest wait for a collected result")
    options = parser.parse_args()
    async with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
        queue = TaskQueue(redis)
        await queue.create()
        print(json.dumps(await execute(options, queue)))


if __name__ == "__main__":
    asyncio.run(main())

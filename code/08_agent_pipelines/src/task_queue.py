"""A task queue in a Redis stream: each task is held by one agent at a time, and its result is written once.

An agent renews its lease on a task by heartbeats. When they stop, another agent takes the task over.
"""

import asyncio
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

TASKS, RESULTS, DEAD_LETTERS, GROUP = "tasks", "results", "dead-letters", "agents"
BLOCK_MS = 3000  # how long a read waits in Redis; a longer wait looks to the client like a dead connection
MAX_DELIVERIES = 3  # a task that this many agents took and did not finish goes to the dead letters

# A client that saw its connection break does not know whether its task arrived, and submits it again.
SUBMIT = """
if redis.call('SET', KEYS[2], '1', 'NX') then redis.call('XADD', KEYS[1], '*', 'task', ARGV[1]) end
"""
# XCLAIM restarts the idle time that XAUTOCLAIM looks at; JUSTID does not count as a delivery.
RENEW = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
return 1
"""
# The acknowledgement and the result are written together, or not at all; only the first result counts.
FINISH = """
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('XADD', KEYS[2], '*', 'result', ARGV[3])
redis.call('XADD', KEYS[3], '*', 'result', ARGV[3])
return 1
"""
# The entry is new, so its deliveries are counted from one; the result that said "given up" is gone.
REDRIVE = """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[3], '*', 'task', ARGV[2])
return 1
"""


@dataclass(frozen=True)
class Task:
    """A prompt for any agent. The id is the idempotency key: equal ids are one task."""

    id: str
    prompt: str
    after: list[str] = field(default_factory=list)  # the tasks, or the event, whose results led to this one


@dataclass(frozen=True)
class Delivery:
    """A task in the hands of an agent; `number` counts the agents that it was given to."""

    entry: str
    task: Task
    number: int


@dataclass(frozen=True)
class Result:
    """The outcome of a task. Times are seconds since 1970; `error` is set for a dead letter."""

    task: str
    prompt: str
    after: list[str]
    agent: str
    deliveries: int
    submitted: float
    started: float
    ended: float
    answer: str = ""
    error: str = ""


class TaskQueue:
    def __init__(self, redis: "Redis", lease_seconds: float = 3) -> None:
        self.redis = redis
        self.lease_seconds = lease_seconds

    async def create(self) -> None:
        """Create the stream and its consumer group, unless another agent has."""
        await create_group(self.redis, TASKS, GROUP)

    # --- For clients ---

    async def submit(self, task: Task) -> None:
        """Add a task, unless a task of this id was added before."""
        await self.script(SUBMIT, [TASKS, f"submitted:{task.id}"], json.dumps(asdict(task)))

    async def wait(self, task_id: str, seconds: float = 300) -> Result:
        """The result of a task. Raises `TimeoutError` when there is none within `seconds`."""
        deadline = time.monotonic() + seconds
        found: Any = None
        while not found:
            found = await self.redis.xread({result_key(task_id): "0"}, count=1, block=BLOCK_MS)
            if not found and time.monotonic() > deadline:
                raise TimeoutError(f"Task {task_id} has no result after {seconds:g} s.")
        return read_result(found[0][1][0])

    async def run(self, task: Task) -> Result:
        await self.submit(task)
        return await self.wait(task.id)

    async def dead_letters(self) -> dict[str, Result]:
        """The tasks that were given up, by the entry in the stream of dead letters."""
        entries: Any = await self.redis.xrange(DEAD_LETTERS)
        return {entry[0]: read_result(entry) for entry in entries}

    async def redrive(self) -> list[str]:
        """Put the tasks of all dead letters back into the queue; returns their ids."""
        letters = await self.dead_letters()
        for entry, dead in letters.items():
            task = json.dumps(asdict(Task(dead.task, dead.prompt, dead.after)))
            await self.script(REDRIVE, [DEAD_LETTERS, result_key(dead.task), TASKS], entry, task)
        return [dead.task for dead in letters.values()]

    async def effects(self) -> dict[str, int]:
        """How often each task took effect, as counted from the logs of results and of dead letters."""
        logs: list[Any] = [await self.redis.xrange(stream) for stream in (RESULTS, DEAD_LETTERS)]
        return Counter(read_result(entry).task for log in logs for entry in log)

    async def wait_until_held(self, agent: str, seconds: float = 30) -> str:
        """The stream entry of a task that the agent is doing. Raises `TimeoutError` when it takes none."""
        async with asyncio.timeout(seconds):
            while True:
                if held := await self.redis.xpending_range(TASKS, GROUP, "-", "+", 1, agent):
                    return str(held[0]["message_id"])
                await asyncio.sleep(0.02)

    # --- For agents ---

    async def take(self, agent: str) -> Delivery | None:
        """A task whose agent has stopped its heartbeats, else a new one; None when there is none now."""
        lease = int(self.lease_seconds * 1000)
        _, claimed, *_ = await self.redis.xautoclaim(TASKS, GROUP, agent, lease, count=1)
        if claimed:
            entry, fields = claimed[0]
            pending: Any = await self.redis.xpending_range(TASKS, GROUP, entry, entry, 1)
            return Delivery(entry, read_task(fields), pending[0]["times_delivered"]) if pending else None
        new: Any = await self.redis.xreadgroup(GROUP, agent, {TASKS: ">"}, count=1, block=lease // 3)
        if not new:
            return None
        entry, fields = new[0][1][0]
        return Delivery(entry, read_task(fields), 1)

    async def renew(self, agent: str, delivery: Delivery) -> bool:
        """A heartbeat. False when another agent has taken the task over."""
        return bool(await self.script(RENEW, [TASKS], GROUP, agent, delivery.entry))

    async def finish(self, delivery: Delivery, result: Result) -> bool:
        """Acknowledge a task and write its result, in one step. False when it had a result already."""
        keys = [TASKS, result_key(result.task), DEAD_LETTERS if result.error else RESULTS]
        return bool(await self.script(FINISH, keys, GROUP, delivery.entry, json.dumps(asdict(result))))

    async def script(self, source: str, keys: list[str], *arguments: str) -> Any:
        return await cast(Any, self.redis.eval(source, len(keys), *keys, *arguments))


async def create_group(redis: "Redis", stream: str, group: str) -> None:
    """Create a consumer group that reads a stream from its start, unless there is one."""
    try:
        await redis.xgroup_create(stream, group, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def result_key(task_id: str) -> str:
    return f"result:{task_id}"


def read_task(fields: dict[str, str]) -> Task:
    return Task(**json.loads(fields["task"]))


def read_result(entry: tuple[str, dict[str, str]]) -> Result:
    return Result(**json.loads(entry[1]["result"]))

"""The run manager isolates runs from each other: on a real store that fails on demand."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from pydantic import SecretStr
from support.store import record

from app.agent import Agent
from app.config import Settings
from app.models import Event, StoredRun
from app.research.search import make_search
from app.runs.active_runs import ActiveRun
from app.runs.manager import RunManager
from app.runs.stores.base import AppendResult
from app.runs.stores.memory import MemoryStore


class FailingStore(MemoryStore):
    """Fails at once for the poisoned runs, and takes a while to write all others."""

    def __init__(self) -> None:
        super().__init__(60, 100)
        self.poisoned: set[str] = set()

    async def append(self, record: StoredRun, events: list[Event], **fields: Any) -> AppendResult:
        if record.run.id in self.poisoned:
            raise RuntimeError("this run cannot be written")
        await asyncio.sleep(0.05)
        return await super().append(record, events, **fields)


def run_manager(store: MemoryStore, kind: type[Agent] = Agent, **fields: Any) -> RunManager:
    settings = Settings(openai_api_key=SecretStr("offline"), **fields)
    return RunManager(settings, store, kind(settings, make_search(settings)))


async def test_a_run_that_cannot_be_written_does_not_keep_others_from_being_written() -> None:
    store = FailingStore()
    runs = run_manager(store)
    for n in range(5):
        run = ActiveRun(record())
        await store.create(run.record, None, 10)
        run.emit("token", {"text": str(n)})
        runs.active[run.record.run.id] = run
    poisoned, *neighbours = runs.active.values()
    store.poisoned = {poisoned.record.run.id}
    runs.writer.wake()
    await runs.writer.write_pending()
    assert all(run.written for run in neighbours), "One run's failed write cancels the writes of all others."
    assert not poisoned.written, "A run whose write has failed counts as written."


async def test_a_deadline_in_the_closing_of_the_graph_adds_no_second_end() -> None:
    store = MemoryStore(60, 100)

    class SlowToClose(Agent):
        """An agent whose graph takes longer to close than the run may take."""

        async def research(self, *_: Any) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
            yield "token", {"text": "An answer."}
            yield "done", {"reason": "stop"}
            await asyncio.sleep(60)

    runs = run_manager(store, SlowToClose, timeout_seconds=0.3)
    mine = record()
    await runs.start(mine)
    run = runs.active[mine.run.id]
    assert run.task, "A run was started, and has no task."
    await run.task
    ends = [event.type for event in run.events if event.is_last]
    assert ends == ["done"], "After its last event a run has emitted another one."
    assert mine.run.state == "done" and mine.run.problem is None, (
        f"After its answer a run has the state {mine.run.state!r} and the problem {mine.run.problem}."
    )

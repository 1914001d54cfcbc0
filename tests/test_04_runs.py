"""What the run manager owes each run, however its neighbours fare: on a real store that fails on demand."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from pydantic import SecretStr
from support.store import record

from app.agent import Agent
from app.config import Settings
from app.models import Event, Record
from app.research.search import make_search
from app.runs.event_log import Live
from app.runs.manager import Runs
from app.runs.stores.base import MemoryStore, Written


class FailingStore(MemoryStore):
    """Fails at once for some runs, and takes its time for all others."""

    def __init__(self) -> None:
        super().__init__(60, 100)
        self.poisoned: set[str] = set()

    async def append(self, record: Record, events: list[Event], **fields: Any) -> Written:
        if record.run.id in self.poisoned:
            raise RuntimeError("this run cannot be written")
        await asyncio.sleep(0.05)
        return await super().append(record, events, **fields)


def run_manager(store: MemoryStore, **fields: Any) -> Runs:
    settings = Settings(openai_api_key=SecretStr("offline"), **fields)
    return Runs(settings, store, Agent(settings, make_search(settings)))


async def test_a_run_that_cannot_be_written_does_not_keep_others_from_being_written() -> None:
    store = FailingStore()
    runs = run_manager(store)
    for n in range(5):
        live = Live(record())
        await store.create(live.record, None, 10)
        live.emit("token", {"text": str(n)})
        runs.live[live.record.run.id] = live
    poisoned, *neighbours = runs.live.values()
    store.poisoned = {poisoned.record.run.id}
    runs.dirty.set()
    await runs.flush_all()
    assert all(live.written for live in neighbours), (
        "One run's failed write cancels the writes of all others."
    )
    assert not poisoned.written


async def test_a_deadline_in_the_closing_of_the_graph_adds_no_second_end() -> None:
    store = MemoryStore(60, 100)
    runs = run_manager(store, timeout_seconds=0.3)

    class SlowToClose(Agent):
        """An agent whose graph takes longer to close than the run may take."""

        async def research(self, *_: Any) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
            yield "token", {"text": "An answer."}
            yield "done", {"reason": "stop"}
            await asyncio.sleep(60)

    runs.agent = SlowToClose(runs.settings, make_search(runs.settings))
    mine = record()
    await runs.start(mine)
    live = runs.live[mine.run.id]
    assert live.task
    await live.task
    ends = [event.type for event in live.events if event.last]
    assert ends == ["done"], "After its last event a run has told its readers of another end."
    assert mine.run.state == "done" and mine.run.problem is None

"""A variation ends in time, whatever its engine does."""

import asyncio
from typing import Any, cast

import pytest

from parallel_agents import supervisor
from parallel_agents.config import Settings
from parallel_agents.engines.base import EngineDown


class HangingEngine:
    """An engine whose start hangs for a while, and then goes on. It is its own container."""

    def __init__(self) -> None:
        self.goes_on, self.removed = asyncio.Event(), asyncio.Event()

    async def start(self, job: Any) -> "HangingEngine":
        await self.goes_on.wait()
        return self

    async def remove(self) -> None:
        self.removed.set()


def test_an_engine_that_hangs_during_the_start_holds_up_no_variation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "REMOVE_SECONDS", 0.1)
    values: Any = {"_env_file": None, "secret_key": "x" * 32, "openai_api_key": "x", "agent_timeout": 0.1}

    async def check() -> None:
        engine, unused = HangingEngine(), cast(Any, None)
        supervising = supervisor.supervise(cast(Any, engine), unused, Settings(**values), unused)
        variation = asyncio.create_task(supervising)
        await asyncio.wait([variation], timeout=20)
        assert variation.done(), "The variation waits for its engine for ever."
        assert isinstance(variation.exception(), EngineDown)
        engine.goes_on.set()
        async with asyncio.timeout(20):
            await engine.removed.wait()

    asyncio.run(check())

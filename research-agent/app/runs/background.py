"""The background tasks that keep runs going, and what they know of the store."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from app.runs.stores.base import StoreDown, StoreRefused

log = structlog.stdlib.get_logger("research-agent")
STORE_DOWN_PAUSE_SECONDS = 0.2  # added to the pause between two calls while the store is down


class StoreStatus:
    """Knows if the store can be reached, and when it was last unreachable."""

    def __init__(self) -> None:
        self.up = True
        # A replica that starts does not know which owners are alive, just as after an outage of the store.
        self.down_at = time.monotonic()

    def set_up(self) -> None:
        if not self.up:
            log.warning("the store is back")
        self.up = True

    def set_down(self, error: Exception) -> None:
        if self.up:
            log.warning("the store is down", error=str(error))
        self.up = False
        self.down_at = time.monotonic()


class BackgroundTasks:
    """Runs functions again and again until the app stops, whatever they raise."""

    def __init__(self, status: StoreStatus) -> None:
        self.status = status
        self.tasks: list[asyncio.Task[None]] = []

    def run_periodically(self, work: Callable[[], Awaitable[None]], pause: float) -> None:
        """Start a task that calls `work`, with `pause` seconds after each call."""
        self.tasks.append(asyncio.create_task(self.repeat(work, pause)))

    async def repeat(self, work: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            try:
                await work()
            except StoreDown as error:
                self.status.set_down(error)
                await asyncio.sleep(STORE_DOWN_PAUSE_SECONDS)
            except StoreRefused as error:
                log.error("the store refuses a command", error=str(error))
            except Exception:  # a bug: log it and go on, because all runs depend on these tasks
                log.exception("a background task failed")
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

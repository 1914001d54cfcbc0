"""A circuit breaker: while the model fails again and again, new runs are told so at once.

They would wait for nothing, and a model that is coming back needs no crowd. See
https://martinfowler.com/bliki/CircuitBreaker.html
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx2
import openai
import structlog

from app import telemetry

log = structlog.stdlib.get_logger("research-agent")
run_deadline: ContextVar[asyncio.Timeout | None] = ContextVar("run_deadline", default=None)
"""Of the run that the current task works for; the tasks it starts inherit it."""


class Circuit:
    def __init__(self, failures: int, seconds: float) -> None:
        """Opens after so many `failures` in a row; `seconds` between two trials while it is open."""
        self.most, self.seconds = failures, seconds
        self.failures = 0
        self.next_trial = 0.0
        self.trial: str | None = None

    def wait(self, run_id: str) -> float:
        """Seconds until this run may start, 0: now. While the circuit is open, that makes it the trial."""
        now = time.monotonic()
        if self.failures < self.most:
            return 0
        if now >= self.next_trial:
            self.next_trial = now + self.seconds
            self.trial = run_id
            return 0
        return self.next_trial - now

    def give_back(self, run_id: str) -> None:
        """Let another run try: this one has ended. No-op unless it is the trial, and without a verdict."""
        if run_id == self.trial:
            self.trial = None
            self.next_trial = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Record the outcome of one model call: one that is cut off by its run's deadline has failed."""
        try:
            yield
        except asyncio.CancelledError:
            deadline = run_deadline.get()
            if deadline and deadline.expired():
                self.failed()
            raise
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            raise  # the fault of this one question
        except (openai.OpenAIError, httpx2.HTTPError):
            self.failed()
            raise
        if self.failures >= self.most:
            log.warning("the model is back: the circuit is closed")
            telemetry.circuit_open.set(0)
        self.failures, self.trial = 0, None

    def failed(self) -> None:
        self.failures += 1
        self.trial = None
        if self.failures >= self.most:
            self.next_trial = time.monotonic() + self.seconds
        if self.failures == self.most:
            log.error("the model fails: the circuit is open", failures=self.failures)
            telemetry.circuit_open.set(1)

"""A circuit breaker: after several failures of the model in a row, new runs are refused at once.

While it is open, callers get their error without waiting, and a recovering model gets one trial run at a time
instead of every request. See https://martinfowler.com/bliki/CircuitBreaker.html
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
# The deadline of the current task's run; tasks inherit it from the task that starts them.
run_deadline: ContextVar[asyncio.Timeout | None] = ContextVar("run_deadline", default=None)


class CircuitBreaker:
    def __init__(self, failures: int, seconds: float) -> None:
        """Open after this many `failures` in a row; then allow one trial run every `seconds`."""
        self.max_failures, self.trial_interval = failures, seconds
        self.failures = 0
        self.next_trial = 0.0  # on the monotonic clock
        self.trial_run_id: str | None = None

    def retry_after(self, run_id: str) -> float:
        """Return the seconds until this run may start; 0 means now.

        While the circuit is open, a run that may start is the trial run.
        """
        now = time.monotonic()
        if self.failures < self.max_failures:
            return 0
        if now >= self.next_trial:
            self.next_trial = now + self.trial_interval
            self.trial_run_id = run_id
            return 0
        return self.next_trial - now

    def release_trial(self, run_id: str) -> None:
        """Allow another trial run now, because this run has ended.

        No-op unless this run is the trial run and none of its model calls has succeeded or failed yet.
        """
        if run_id == self.trial_run_id:
            self.trial_run_id = None
            self.next_trial = 0

    @contextmanager
    def record_outcome(self) -> Iterator[None]:
        """Record the outcome of one model call. A call that its run's deadline cancels has failed."""
        try:
            yield
        except asyncio.CancelledError:
            deadline = run_deadline.get()
            if deadline and deadline.expired():
                self.record_failure()
            raise
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            raise  # caused by this question; the model itself works
        except (openai.OpenAIError, httpx2.HTTPError):
            self.record_failure()
            raise
        if self.failures >= self.max_failures:
            log.warning("the model answers again: the circuit is closed")
            telemetry.circuit_open.set(0)
        self.failures, self.trial_run_id = 0, None

    def record_failure(self) -> None:
        """Count a failed model call, and open the circuit after the last allowed one."""
        self.failures += 1
        self.trial_run_id = None
        if self.failures >= self.max_failures:
            self.next_trial = time.monotonic() + self.trial_interval
        if self.failures == self.max_failures:
            log.error("the model failed repeatedly: the circuit is open", failures=self.failures)
            telemetry.circuit_open.set(1)

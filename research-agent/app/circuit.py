"""A circuit breaker: while the model fails again and again, new runs are told so at once.

They would wait for nothing, and a model that is coming back needs no crowd. See
https://martinfowler.com/bliki/CircuitBreaker.html
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import openai
import structlog

from app import telemetry

log = structlog.stdlib.get_logger("research-agent")


class Circuit:
    def __init__(self, failures: int, seconds: float) -> None:
        """Opens after so many `failures` in a row; `seconds` between two trials while it is open."""
        self.most, self.seconds = failures, seconds
        self.failures = 0
        self.next_trial = 0.0

    def wait(self) -> float:
        """Seconds until a run may start, 0: now. While the circuit is open, whoever gets 0 is the trial."""
        now = time.monotonic()
        if self.failures < self.most or now >= self.next_trial:
            self.next_trial = now + self.seconds
            return 0
        return self.next_trial - now

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Round a call of the model."""
        try:
            yield
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            raise  # the fault of this one question
        except (openai.OpenAIError, httpx2.HTTPError):
            self.failed()
            raise
        if self.failures >= self.most:
            log.warning("the model is back: the circuit is closed")
            telemetry.circuit_open.set(0)
        self.failures = 0

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= self.most:
            self.next_trial = time.monotonic() + self.seconds
        if self.failures == self.most:
            log.error("the model fails: the circuit is open", failures=self.failures)
            telemetry.circuit_open.set(1)

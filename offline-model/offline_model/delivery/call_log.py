"""The ledger: the last calls received, how each ended, and how much of its answer was sent."""

import json
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

KEPT = 100
BODY_KEPT = 65_536
HEADER_KEPT = 4_096
COUNTERS_KEPT = 1_000
HEADERS = {
    b"authorization",
    b"content-type",
    b"traceparent",
    b"user-agent",
    b"x-client-request-id",
    b"x-offline",
    b"x-request-id",
    b"x-stainless-retry-count",
}

State = Literal["running", "finished", "cancelled", "failed"]


@dataclass(slots=True)
class Call:
    """One call as it was received, its body only as far as it is shown.

    `state` becomes `cancelled` when its client left before the end.
    """

    id: str
    received: datetime
    headers: list[tuple[bytes, bytes]]
    model: str | None = None
    body: bytes = b""
    whole: bool = True
    state: State = "running"
    status: int | None = None
    tokens_sent: int = 0

    def keep(self, body: bytes) -> None:
        self.body, self.whole = body[:BODY_KEPT], len(body) <= BODY_KEPT

    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def parsed(self) -> Any:
        """The body as JSON when it is that and not too long, else the text as it came."""
        if not self.whole:
            return self.text()
        try:
            value = json.loads(self.body)
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return self.text()
        return value

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "received": self.received.isoformat(),
            "model": self.model,
            "state": self.state,
            "status": self.status,
            "tokens_sent": self.tokens_sent,
            "headers": dict(masked(self.headers)),
            "body": self.parsed(),
        }

    def contains(self, text: str) -> bool:
        return text in self.text() or text in json.dumps(self.parsed(), ensure_ascii=False)


@dataclass
class Ledger:
    """The last calls, newest last, and how often each model name was called."""

    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=KEPT))
    counts: Counter[str] = field(default_factory=Counter)

    def open(self, identity: str, headers: list[tuple[bytes, bytes]]) -> Call:
        kept = [(name, value[:HEADER_KEPT]) for name, value in headers if name in HEADERS]
        call = Call(identity, datetime.now(UTC), kept)
        self.calls.append(call)
        return call

    def strikes(self, name: str, every: int) -> bool:
        """Whether this call is the one in `every` to this exact name: the 10th, the 20th, ... for 10."""
        if name not in self.counts and len(self.counts) >= COUNTERS_KEPT:
            self.counts.clear()
        self.counts[name] += 1
        return self.counts[name] % every == 0

    def shown(self, contains: str) -> list[dict[str, Any]]:
        return [call.shown() for call in self.calls if not contains or call.contains(contains)]

    def clear(self) -> None:
        self.calls.clear()
        self.counts.clear()


def masked(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[str, str]]:
    """The headers, a key shortened to its last two characters."""
    for name, value in headers:
        text = value.decode("latin-1")
        if name == b"authorization":
            text = f"Bearer ...{text[-2:]}" if len(text) > 12 else "..."
        yield name.decode("latin-1"), text

"""The call log: the last calls received, how each ended, and how many tokens of its answer were sent."""

import json
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

MAX_CALLS = 100
MAX_BODY_BYTES = 65_536
MAX_HEADER_BYTES = 4_096
MAX_COUNTERS = 1_000
LOGGED_HEADERS = frozenset(
    b"authorization content-type traceparent user-agent x-client-request-id x-offline x-request-id "
    b"x-stainless-retry-count".split()
)

State = Literal["running", "finished", "cancelled", "failed"]


@dataclass(slots=True)
class LoggedCall:
    """One call: headers, the beginning of the body, and how the call ended.

    `state` becomes `cancelled` when the client left before the end.
    """

    id: str
    received: datetime
    headers: list[tuple[bytes, bytes]]
    model: str | None = None
    body: bytes = b""
    state: State = "running"
    status: int | None = None
    tokens_sent: int = 0

    def set_body(self, body: bytes) -> None:
        self.body = body[:MAX_BODY_BYTES]

    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def parsed_body(self) -> Any:
        """The value of a JSON body; the text of a body that was cut or is not JSON."""
        try:
            value = json.loads(self.body)
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return self.text()
        return value

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "received": self.received.isoformat(),
            "model": self.model,
            "state": self.state,
            "status": self.status,
            "tokens_sent": self.tokens_sent,
            "headers": dict(mask_key(self.headers)),
            "body": self.parsed_body(),
        }

    def contains(self, text: str) -> bool:
        return text in self.text() or text in json.dumps(self.parsed_body(), ensure_ascii=False)


@dataclass
class CallLog:
    """The last calls, newest last, and how often each model name with a fault was called."""

    calls: deque[LoggedCall] = field(default_factory=lambda: deque(maxlen=MAX_CALLS))
    counts: Counter[str] = field(default_factory=Counter)

    def open(self, identity: str, headers: list[tuple[bytes, bytes]]) -> LoggedCall:
        kept = [(name, value[:MAX_HEADER_BYTES]) for name, value in headers if name in LOGGED_HEADERS]
        call = LoggedCall(identity, datetime.now(UTC), kept)
        self.calls.append(call)
        return call

    def count_call(self, name: str, every: int) -> bool:
        """Count a call with this model name; return whether it has to fail. Every `every`-th call has to."""
        if name not in self.counts and len(self.counts) >= MAX_COUNTERS:
            self.counts.clear()
        self.counts[name] += 1
        return self.counts[name] % every == 0

    def as_dicts(self, contains: str) -> list[dict[str, Any]]:
        """The calls whose body contains a text; all for an empty text."""
        return [call.as_dict() for call in self.calls if not contains or call.contains(contains)]

    def clear(self) -> None:
        self.calls.clear()
        self.counts.clear()


def mask_key(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[str, str]]:
    """Yield the headers as text, with all but the last two characters of the API key masked."""
    for name, value in headers:
        text = value.decode("latin-1")
        if name == b"authorization":
            text = f"Bearer ...{text[-2:]}" if len(text) > 12 else "..."
        yield name.decode("latin-1"), text

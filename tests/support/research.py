"""Clients of the research agent: plain answers, streams, and runs that are resumed."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from course.polling import until
from support.servers import calls
from support.streams import Event, assert_streamed, read_events

DEEP = "Research as deeply as you can: what is a container image?"


def ask(url: str, query: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/research", json={"query": query, **fields}, headers=headers, timeout=30)


def result_of(reply: httpx2.Response) -> dict[str, Any]:
    """The result in the answer to a plain POST."""
    assert reply.status_code == 200, (
        f"There is no answer to the question, but an error {reply.status_code}: {reply.text}."
    )
    result: dict[str, Any] = reply.json()
    return result


@contextmanager
def streaming(
    url: str, query: str, headers: dict[str, str] | None = None, **fields: Any
) -> Iterator[tuple[str, Iterator[Event]]]:
    """Start a streamed run. Yields its id and its events."""
    body = {"query": query, **fields}
    with httpx2.stream(
        "POST", f"{url}/v1/research/stream", json=body, headers=headers, timeout=30
    ) as response:
        assert_streamed(response)
        yield response.headers["x-run-id"], read_events(response)


def stream(url: str, query: str, **fields: Any) -> list[Event]:
    with streaming(url, query, **fields) as (_, events):
        return list(events)


def resume(url: str, run_id: str, after: str | None = None) -> list[Event]:
    headers = {"Last-Event-ID": after} if after else {}
    with httpx2.stream("GET", f"{url}/v1/research/{run_id}/events", headers=headers, timeout=30) as response:
        assert_streamed(response)
        return list(read_events(response))


def state(url: str, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = httpx2.get(f"{url}/v1/research/{run_id}").json()
    return run


def wait_until_finished(url: str, run_id: str) -> dict[str, Any]:
    """The run after it has finished."""
    run = until(
        lambda: (run := state(url, run_id)).get("state") in ("done", "failed", "cancelled") and run, 30
    )
    assert run, "A run has not come to an end within half a minute."
    over: dict[str, Any] = run
    return over


def text_of(events: list[Event]) -> str:
    """The answer as a client shows it, without text before a step and without withdrawn text."""
    said: list[tuple[tuple[int, ...], str]] = []
    for event in events:
        if event.type == "step":
            said = []
        if event.type == "reset":
            said = [
                (number, text) for number, text in said if number <= parse_event_id(event.data["from_id"])
            ]
        if event.type == "token":
            said.append((parse_event_id(event.id), event.data["text"]))
    return "".join(text for _, text in said)


def parse_event_id(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))


def unique_question(question: str) -> str:
    """A question that no test has asked yet, not even this test on another copy."""
    return f"{question} ({uuid.uuid4().hex})"


def tool_results_of(model: str, query: str) -> list[str]:
    """The tool results in the last model call of this query."""
    return [each["content"] for each in calls(model, query)[-1]["body"]["messages"] if each["role"] == "tool"]

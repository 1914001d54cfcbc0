"""Server-sent events, as the client library reads them."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx2
import pytest
from httpx2 import EventSource


def events(response: httpx2.Response) -> list[tuple[str, Any]]:
    """The type and the data of each event of a stream that has been read to its end."""
    return [(each.event, parsed(each.data)) for each in EventSource(response)]


def parsed(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        pytest.fail(f"The stream cannot be read: the data of an event is not JSON: {data!r}.")


def assert_ends_with_error(stream: list[tuple[str, Any]], status: int) -> None:
    event, data = stream[-1]
    assert event == "error", f"The stream ends with {event!r}, as if all had gone well."
    assert data["problem"]["status"] == status, (
        f"The stream's error has status {data['problem']['status']}, not {status}."
    )


class Event(NamedTuple):
    id: str
    type: str
    data: dict[str, Any]


def read_events(response: httpx2.Response) -> Iterator[Event]:
    """The events of a stream as they come."""
    for each in EventSource(response):
        yield Event(each.id, each.event, json.loads(each.data))


def assert_streamed(response: httpx2.Response) -> None:
    if response.status_code != 200:
        told = response.read().decode()
        pytest.fail(f"A stream was asked for, and the answer has status {response.status_code}: {told}.")

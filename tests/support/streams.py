"""Server-sent events, as the client library reads them."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx2
import pytest


def events(response: httpx2.Response) -> list[tuple[str, Any]]:
    """The events of a server-sent stream, read by the rules of the HTML standard, section 9.2.6."""
    found = []
    for block in response.text.replace("\r\n", "\n").split("\n\n"):
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
        if "data" in fields:
            found.append((fields.get("event", ["message"])[0], parsed("\n".join(fields["data"]))))
    return found


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
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "event" in fields:
            yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def assert_streamed(response: httpx2.Response) -> None:
    if response.status_code != 200:
        told = response.read().decode()
        pytest.fail(f"A stream was asked for, and the answer has status {response.status_code}: {told}.")

"""Raw connections: large headers, callers who hang up, probes with HEAD."""

import json
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2

from course.polling import until


def connect(url: str, seconds: float) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=seconds)


def allow_open_files(count: int) -> None:
    """Let this process, and those it starts from now on, have `count` files and connections open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def assert_headers_are_bounded(url: str) -> None:
    """The server stops reading headers long before 17 MB."""
    line = b"X-Filler: " + b"x" * 8_000 + b"\r\n"
    with connect(url, seconds=20) as connection, suppress(ConnectionError):
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n")
        sent = 0
        while sent < 17_000_000:
            connection.sendall(line)
            sent += len(line)
    assert sent < 17_000_000, "Headers of 17 MB were taken in: one client can fill the memory."
    assert httpx2.get(f"{url}/health", headers={"X-Filler": "x" * 30_000}).status_code == 200, (
        "Headers of 30 KB were refused; some proxies and cookies need as much."
    )


def assert_probes_take_head(url: str, *paths: str) -> None:
    for path in paths:
        answer = httpx2.head(f"{url}{path}")
        assert answer.status_code == 200, (
            f"HEAD {path} is answered with {answer.status_code}; many monitors use HEAD."
        )
        assert not answer.content, f"HEAD {path} is answered with a body."
        allowed = httpx2.post(f"{url}{path}").headers["allow"]
        assert allowed == "GET, HEAD", (
            f"The Allow header of a 405 for {path} is {allowed!r}, not 'GET, HEAD'."
        )


def leave_after(url: str, path: str, query: str, when: Callable[[], Any]) -> None:
    """POST a query and hang up as soon as `when()` is true."""
    body = json.dumps({"query": query})
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert until(when, 20), "The call never reached the model."

"""Lesson 04 as an HTTP server: endless heads, silent connections, standards, and shutdown."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from support.problems import assert_problem
from support.research import ask, streaming
from support.servers import Server, StartServer, assert_ends_with_zero
from support.site import Site, silence

from course.polling import until

QUESTION = "What is graceful shutdown?"
POST = b"POST /v1/research HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def connect(server: str) -> socket.socket:
    return socket.create_connection((urlsplit(server).hostname, urlsplit(server).port), 20)


def told(connection: socket.socket) -> bytes:
    """Return the bytes that the server sends until it closes or resets the connection."""
    said = b""
    with suppress(ConnectionError):
        while data := connection.recv(65_536):
            said += data
    return said


# --- Heads ---


def test_a_head_of_a_browsers_size_is_taken(server: Server) -> None:
    with closing(connect(server)) as connection:
        head = (
            b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: " + b"c" * 32_000 + b"\r\n\r\n"
        )
        for start in range(0, len(head), 1000):
            connection.sendall(head[start : start + 1000])
        assert told(connection).startswith(b"HTTP/1.1 200 "), (
            "A head of 32 KB is large, but none of an attack."
        )


def test_a_head_that_is_too_large_is_a_431(server: Server) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nCookie: " + b"c" * 100_000)
        assert told(connection).startswith(b"HTTP/1.1 431 "), (
            "A head of 100 KB is read on: nothing bounds what a caller without a key makes the server keep."
        )


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "header lines": (b"GET /health HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n"),
    "one header line": (b"GET /health HTTP/1.1\r\nHost: x\r\na: ", b"b"),
    "a path": (b"GET /", b"a"),
    "trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"a: b\r\n"),
    "a chunk's extension": (POST + b"Transfer-Encoding: chunked\r\n\r\n2;", b"a"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_endless_input_takes_no_memory(start: StartServer, what: str) -> None:
    server = start(APP_NAME="endless")
    memory = psutil.Process(server.process.pid).memory_info
    before = memory().rss
    begin, more = ENDLESS[what]
    sent, piece = 0, more * (65_536 // len(more))
    with closing(connect(server)) as connection, suppress(ConnectionError):
        connection.sendall(begin)
        for _ in range(256):  # 16 MB
            connection.sendall(piece)
            sent += len(piece)
    assert sent < 16_000_000, f"The server read 16 MB of {what}: nothing bounds what comes outside of a body."
    grown = (memory().rss - before) / 1e6
    assert grown < 50, f"One connection that sends {what} took {grown:.0f} MB of memory."
    status = httpx2.get(f"{server}/health").status_code
    assert status == 200, f"After a connection that sends {what}, /health answers {status}, not 200."


def test_a_body_in_many_chunks_is_no_head(start: StartServer) -> None:
    server = start(MAX_BODY_BYTES="1000000")

    def body() -> Iterator[bytes]:
        yield b'{"query": "What is a container?"'
        for _ in range(300):
            yield b" " * 1000
        yield b"}"

    reply = httpx2.post(
        f"{server}/v1/research", content=body(), headers={"Content-Type": "application/json"}, timeout=60
    )
    assert reply.status_code == 200, "A body of 300 KB in chunks was taken for an endless head."


# --- Silent connections ---


SILENT = {  # what is sent at first, and after the answer to it
    "nothing": (b"", b""),
    "half a head": (b"GET /health HTTP/1.1\r\nHost: x\r\n", b""),
    "half a head after a request": (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /health HTTP/1.1\r\n"),
    "half a body": (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", b"{"),
}


@pytest.mark.parametrize("what", SILENT)
def test_a_silent_connection_is_closed(server: Server, what: str) -> None:
    with closing(connect(server)) as connection:
        first, then = SILENT[what]
        connection.sendall(first)
        if then:
            answer = connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 "), (
                f"The answer to the first request begins with {answer[:20]!r}, not with HTTP/1.1."
            )
            connection.sendall(then)
        try:
            told(connection)
        except TimeoutError:
            pytest.fail(f"A connection that sent {what} is kept for ever: a few thousand use up the server.")


def test_a_trickle_of_bytes_keeps_no_connection_open(server: Server) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\na: ")

        def closed() -> bool:
            try:
                connection.sendall(b"b")
                connection.settimeout(0.3)
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        assert until(closed, 20), (
            "A head that comes byte by byte holds its connection for as long as it likes."
        )


# --- The caller's address ---


def test_a_caller_cannot_choose_its_address(start: StartServer) -> None:
    def codes(server: str) -> list[int]:
        return [
            ask(server, QUESTION, headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code for n in range(3)
        ]

    limit = {"RATE_LIMIT_RPM": "2", "APP_NAME": "forwarded"}
    assert codes(start(**limit)) == [200, 200, 429], (
        "Another X-Forwarded-For makes another caller: any client can evade the rate limit."
    )
    assert codes(start(FORWARDED_ALLOW_IPS="127.0.0.1", **limit)) == [200] * 3, (
        "Behind a proxy that is trusted, all callers together have the quota of one."
    )


# --- Standards: HTTP, server-sent events, OpenAPI, metrics ---


def test_a_client_that_has_the_last_event_gets_a_204(server: Server) -> None:
    with streaming(server, "What is a layer?") as (run_id, events):
        told = list(events)
    path = f"{server}/v1/research/{run_id}/events"
    reply = httpx2.get(path, headers={"Last-Event-ID": told[-1].id})
    assert (reply.status_code, reply.content) == (204, b""), (
        "The run is over and its last event known: only 204 keeps an EventSource from asking for ever."
    )
    status = httpx2.get(path, headers={"Last-Event-ID": told[-2].id}).status_code
    assert status == 200, f"A client has all events but the last, and the server answers {status}, not 200."


def test_the_pause_before_a_retry_comes_with_the_first_event(server: Server) -> None:
    body = {"query": "What is a container registry?"}
    blocks = httpx2.post(f"{server}/v1/research/stream", json=body, timeout=30).text.split("\n\n")
    assert "\nretry: 500" in blocks[0] and "\ndata: " in blocks[0], (
        "`retry:` stands in a block of its own: some clients make an empty event of it."
    )
    count = sum("retry:" in block for block in blocks)
    assert count == 1, f"`retry:` stands in {count} blocks of the stream, and belongs in the first alone."


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/health", {"GET", "HEAD"}),
        ("/v1/research/some-run", {"GET", "DELETE"}),
        ("/v1/research", {"POST"}),
        ("/static/app.js", {"GET", "HEAD"}),
    ],
)
def test_a_405_names_every_method_that_is_allowed(server: Server, path: str, methods: set[str]) -> None:
    allowed = assert_problem(httpx2.put(f"{server}{path}"), 405) and httpx2.put(f"{server}{path}").headers
    assert set(allowed["allow"].split(", ")) == methods, "A 405 has to name all methods: RFC 9110, 15.5.6."


def test_monitors_may_ask_for_metrics_with_head(server: Server) -> None:
    status = httpx2.head(f"{server}/metrics").status_code
    assert status == 200, f"A monitor asks for /metrics with HEAD, and gets {status}."


def described(server: str) -> dict[str, Any]:
    document: dict[str, Any] = httpx2.get(f"{server}/openapi.json").json()
    return document


def test_openapi_is_valid_in_the_version_that_it_claims(server: Server) -> None:
    try:
        validate(described(server))
    except OpenAPIValidationError as error:
        pytest.fail(
            f"The API's description is not valid OpenAPI, so no tool can be trusted with it: {error}."
        )


def test_openapi_says_where_the_key_goes(start: StartServer) -> None:
    document = described(start(API_KEYS="a-key"))
    (scheme,) = document["components"]["securitySchemes"].values()
    place = (scheme.get("type"), scheme.get("in"), scheme.get("name"))
    assert place == ("apiKey", "header", "X-API-Key"), (
        f"A key is sent in the header X-API-Key, and the API's description says {place}."
    )
    for path, operations in document["paths"].items():
        for operation in operations.values():
            needed = operation.get("security", [])
            assert bool(needed) is path.startswith("/v1/") and {} not in needed, (
                f"{path}: its description says the wrong thing about keys, and clients believe it."
            )


def test_openapi_says_that_metrics_are_text(server: Server) -> None:
    reply = described(server)["paths"]["/metrics"]["get"]["responses"]["200"]
    assert list(reply["content"]) == ["text/plain"], (
        "Metrics are text, and not JSON as their description says."
    )


def test_a_generated_client_gets_problems_with_types(start: StartServer, tmp_path: Path) -> None:
    server = start(API_KEYS="the-right-key")
    (tmp_path / "openapi.json").write_text(json.dumps(described(server)))
    options = "generate --meta none --path openapi.json --output-path client --config settings.yml"
    (tmp_path / "settings.yml").write_text("post_hooks: []\n")
    made = subprocess.run(
        [Path(sys.executable).with_name("openapi-python-client"), *options.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0 and "Warning" not in made.stdout, (
        f"No client could be generated: {made.stdout}"
    )
    program = f"""
from client import AuthenticatedClient
from client.api.research import research_state_v1_research_run_id_get as state
for key in ("a-wrong-key", "the-right-key"):
    asking = AuthenticatedClient("{server}", token=key, prefix="", auth_header_name="X-API-Key")
    told = state.sync("unknown", client=asking)
    print(type(told).__name__, told.status)
"""
    said = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert said.stdout.splitlines() == ["Problem 401", "Problem 404"], (
        f"A generated client should get an object of type Problem, it got: {said.stdout}{said.stderr}."
    )


def test_latency_histograms_have_buckets_up_to_120_seconds(server: Server) -> None:
    ask(server, QUESTION)
    text = httpx2.get(f"{server}/metrics").text
    for name in ("agent_request_latency_seconds", "agent_run_seconds", "agent_time_to_first_token_seconds"):
        bounds = {float(b) for b in re.findall(rf'{name}_bucket{{.*?le="([\d.]+)"', text)}
        assert max(bounds) >= 120, f"{name} ends at {max(bounds):g} s: runs of 20 s and of 120 s look alike."


def test_the_process_is_measured(server: Server) -> None:
    text = httpx2.get(f"{server}/metrics").text
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert f"\n{name} " in text, f"{name} is missing: a leak is seen when the kernel ends the process."


# --- Shutdown ---


def test_an_idle_agent_stops_at_once_where_no_delay_is_set(start: StartServer) -> None:
    server = start(APP_NAME="idle")
    server.process.send_signal(signal.SIGTERM)
    assert_ends_with_zero(server, 10)


def test_an_idle_agent_answers_until_its_delay_is_over(start: StartServer) -> None:
    server = start(APP_NAME="delayed", DRAIN_DELAY_SECONDS="600")
    server.process.send_signal(signal.SIGTERM)
    try:
        assert until(lambda: httpx2.get(f"{server}/ready").status_code == 503, 20), (
            "The agent was told to stop, and /ready does not answer 503."
        )
        assert ask(server, QUESTION).status_code == 200, (
            "The agent was told to stop and was idle: the requests that a proxy still sends it are refused."
        )
    except httpx2.HTTPError:
        pytest.fail("The agent skipped its delay because it was idle, while a proxy still sends requests.")
    server.process.send_signal(signal.SIGTERM)
    ended = until(lambda: server.process.poll() is not None, 10)
    assert ended, "A second signal has come, and 10 seconds later the agent still waits for its delay."
    code = server.process.returncode
    assert code == 128 + signal.SIGTERM, f"The second signal ends the agent with exit code {code}, not 143."


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_search_that_hangs_does_not_hold_the_exit(start: StartServer, signals: int) -> None:
    async with Site() as proxy:
        proxy.pages = dict.fromkeys(("html.duckduckgo.com:443", "search.brave.com:443"), silence)
        server = start(SEARCH_BACKEND="ddgs", DDGS_PROXY=f"http://{proxy.host}", DRAIN_SECONDS="0.2")
        async with httpx2.AsyncClient() as client:
            body = {"query": "Which search hangs?", "background": True}
            status = (await client.post(f"{server}/v1/research", json=body)).status_code
            assert status == 202, f"A run in the background was answered with {status}, not 202."
            await wait_for(lambda: proxy.heads, "No request of the search reached its proxy.")
            began = time.monotonic()
            for _ in range(signals):
                server.process.send_signal(signal.SIGTERM)
                await wait_for(
                    lambda: "stopping" in server.log.read_text(),
                    "The server was told to stop, and its log does not say so.",
                )
            await wait_for(
                lambda: server.process.poll() is not None,
                "The server was told to stop, and has not ended 40 seconds later.",
            )
    assert time.monotonic() - began < 6, "A search that hangs held the exit of a server that had drained."
    code, expected = server.process.poll(), 0 if signals == 1 else 128 + signal.SIGTERM
    assert code == expected, f"The server was told to stop, and its exit code is {code}, not {expected}."


async def wait_for(claim: Callable[[], object], otherwise: str) -> None:
    """Poll in a thread, because the event loop runs the test's own servers."""
    assert await asyncio.to_thread(until, claim, 40), otherwise


def test_a_trace_collector_that_hangs_does_not_hold_the_exit(start: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        server = start(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, DRAIN_SECONDS="0.2")
        status = ask(server, QUESTION).status_code
        assert status == 200, (
            f"A collector of traces hangs, and a question is answered with {status}, not 200."
        )
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert_ends_with_zero(server, 60)
    assert time.monotonic() - began < 7, "A collector of traces that does not answer held the exit."

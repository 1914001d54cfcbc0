"""The claims of lesson 02, over real HTTP to real processes."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from schemathesis import GenerationMode
from support.connections import assert_headers_are_bounded, assert_probes_take_head, connect, leave_after
from support.openapi import OPERATIONS, assert_openapi_holds, assert_responses_match_openapi
from support.problems import assert_problem
from support.servers import (
    HUNG,
    Server,
    StartServer,
    assert_ends_with_zero,
    calls,
    log_lines,
    metrics,
)
from support.streams import assert_ends_with_error, events

from course.errors import CourseError
from course.models import base_environment
from course.polling import until
from course.processes import Processes

SCRIPT = "code/02_production_api.py"
QUESTION = "What is a container?"


@pytest.fixture(scope="session")
def start(start_script: Callable[[str], StartServer]) -> StartServer:
    script = start_script(SCRIPT)
    return lambda **settings: script(**({"RATE_LIMIT_RPM": "100000"} | settings))


@pytest.fixture
def server(start: StartServer) -> Server:
    return start()


@pytest.fixture
def api(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server, timeout=20) as client:
        yield client


def ask(
    url: str, query: str = QUESTION, headers: dict[str, str] | None = None, **fields: Any
) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/invoke", json={"query": query, **fields}, headers=headers, timeout=20)


async def ask_at_once(url: str, queries: list[str]) -> list[httpx2.Response]:
    async with httpx2.AsyncClient(timeout=20) as client:
        posts = [client.post(f"{url}/v1/invoke", json={"query": query}) for query in queries]
        return await asyncio.gather(*posts)


# --- Requests ---


def test_invoke_answers_with_id_tokens_latency_and_time(api: httpx2.Client) -> None:
    response = api.post("/v1/invoke", json={"query": QUESTION})
    reply = response.json()
    assert reply["id"] == response.headers["x-request-id"], "The answer's id is not that of the request."
    assert reply["tokens_used"] > 0, "The answer does not say how many tokens it took."
    assert reply["model"] == "offline", "The answer does not say which model gave it."
    assert reply["latency_ms"] > 0, "The answer does not say how long it took."
    assert re.match(r"\d{4}-\d\d-\d\dT.*Z$", reply["timestamp"]), "The answer's time is not in UTC."


def test_max_tokens_and_temperature_reach_the_model(server: Server, offline_model: str) -> None:
    query = "What is an image, in few tokens?"
    reply = ask(server, query, max_tokens=7, temperature=0.25).json()
    found = calls(offline_model, query)
    assert found, "The question did not reach the model: the request was refused, or the call has failed."
    sent = found[-1]["body"]
    told = (sent.get("max_tokens") or sent.get("max_completion_tokens"), sent.get("temperature"))
    assert told == (7, 0.25), (
        f"The caller asked for max_tokens 7 and temperature 0.25; the model was told {told[0]} and {told[1]}."
    )
    assert len(reply["response"]) < 60, "The caller allowed 7 tokens, and got a longer answer."


@pytest.mark.parametrize(("field", "value"), [("max_tokens", -5), ("max_tokens", 4097), ("temperature", 2.1)])
def test_values_out_of_range_are_a_422_that_names_them(api: httpx2.Client, field: str, value: float) -> None:
    told = assert_problem(api.post("/v1/invoke", json={"query": QUESTION, field: value}), 422)
    assert told["errors"][0]["field"] == field, f"The error does not name the field {field!r}."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATE_LIMIT_RPM", "0"),
        ("TEMPERATURE", "3"),
        ("MAX_TOKENS", "many"),
        ("LOG_LEVEL", "loud"),
        ("TIMEOUT_SECONDS", "0"),
        ("MAX_CONCURRENCY", "-1"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_line_that_names_it(
    start: StartServer, name: str, value: str
) -> None:
    with pytest.raises(CourseError) as failure:
        start(**{name: value})
    log = failure.value.__notes__[0].strip()
    assert log.startswith(f"Bad setting {name}: "), f"The start is refused without naming {name}."
    assert "\n" not in log, "A bad setting is told in more than one line."


def test_openapi_is_valid_and_asks_for_the_key(start: StartServer) -> None:
    server = start(API_KEYS="first-key, second-key")
    assert_openapi_holds(server)
    document = httpx2.get(f"{server}/openapi.json").json()
    ((name, scheme),) = document["components"]["securitySchemes"].items()
    assert (scheme["in"], scheme["name"]) == ("header", "X-API-Key"), "The key is not described."
    for path, operations in document["paths"].items():
        for operation in operations.values():
            asks = operation.get("security") == [{name: []}]
            assert asks == path.startswith("/v1/"), f"OpenAPI says the wrong thing of the key for {path}."


def test_probes_answer_head_and_a_405_names_it(server: Server) -> None:
    assert_probes_take_head(server, "/health", "/ready", "/metrics")


def test_headers_of_17_mb_are_refused_without_reading_them(server: Server) -> None:
    assert_headers_are_bounded(server)


def test_trailers_without_end_are_not_taken_in(server: Server) -> None:
    head = b"POST /v1/invoke HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    sent = 0
    with connect(server, seconds=20) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head)
        while sent < 17_000_000:
            connection.sendall(b"X-Filler: " + b"x" * 8_000 + b"\r\n")
            sent += 8_000
    assert sent < 17_000_000, "Trailers of 17 MB were taken in: one client can fill the memory."


@OPERATIONS
def test_every_response_matches_the_openapi_document(
    server: Server, path: str, method: str, mode: GenerationMode
) -> None:
    assert_responses_match_openapi(server, path, method, mode)


# --- Cache and single-flight ---


def test_an_equal_request_is_answered_from_the_cache(server: Server, offline_model: str) -> None:
    query = "What is graceful shutdown, twice?"
    first, second = ask(server, query).json(), ask(server, query).json()
    assert first["response"] == second["response"], "The same question got two answers."
    assert first["id"] != second["id"], "Two requests have one id: the first answer was sent as it was."
    assert len(calls(offline_model, query)) == 1, "An equal request went to the model again: nothing is kept."


@pytest.mark.parametrize("other", [{"temperature": 0}, {"max_tokens": 9}, {"context": {"who": "me"}}])
def test_another_parameter_is_another_cache_entry(
    server: Server, offline_model: str, other: dict[str, Any]
) -> None:
    query = f"What is a layer with {next(iter(other))}?"
    ask(server, query)
    ask(server, query, **other)
    assert len(calls(offline_model, query)) == 2, (
        "Two different requests got one cached answer: the cache key leaves something out."
    )


def test_cache_keys_of_different_requests_differ_even_if_their_fields_join_to_the_same_text(
    server: Server, offline_model: str
) -> None:
    ask(server, "Joined 1", max_tokens=23)
    ask(server, "Joined 12", max_tokens=3)
    assert len(calls(offline_model, "Joined 1")) == 2, (
        "Two different requests got one cached answer: their parts, joined without separators, look alike."
    )


def test_fifty_equal_calls_at_once_reach_the_model_once(start: StartServer, offline_model: str) -> None:
    query = "What do fifty callers ask at once?"
    replies = asyncio.run(ask_at_once(start(MODEL_NAME="offline?ttft=0.3"), [query] * 50))
    statuses = {reply.status_code for reply in replies}
    assert statuses == {200}, f"Fifty equal calls at once were answered with {statuses}."
    assert len(calls(offline_model, query)) == 1, (
        "Equal calls at the same time each went to the model: nothing joins them."
    )


def test_a_shared_call_ends_only_when_its_last_waiter_leaves(start: StartServer, offline_model: str) -> None:
    query = "Who still waits for this one?"
    url = start(MODEL_NAME=HUNG)

    async def leave_one_by_one() -> list[str]:
        states = []
        async with httpx2.AsyncClient(timeout=20) as client:
            waiters = [
                asyncio.create_task(client.post(f"{url}/v1/invoke", json={"query": query})) for _ in "ab"
            ]
            shared = ("agent_cache_total", "shared")
            met = await asyncio.to_thread(until, lambda: metrics(url).get(shared), 10)
            assert met, "Two equal calls at the same time were not joined, or not counted as shared."
            for waiter in waiters:
                waiter.cancel()
                await asyncio.gather(waiter, return_exceptions=True)
                await asyncio.sleep(0.5)  # long enough to notice; a cancelled call would show by now
                states.append(calls(offline_model, query)[0]["state"])
        return states

    first, _ = asyncio.run(leave_one_by_one())
    assert first == "running", "One of two who wait has left, and the call was cancelled for the other, too."
    ended = until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", 10)
    assert ended, "All who waited have left, and the model still works for them."
    assert len(calls(offline_model, query)) == 1, "Two equal calls at the same time each went to the model."


def test_errors_are_not_cached(start: StartServer, offline_model: str) -> None:
    query = "Is this failure kept?"
    url = start(MODEL_NAME="offline?fault=500")
    assert [ask(url, query).status_code for _ in range(2)] == [502, 502], "A failing model is not a 502."
    assert len(calls(offline_model, query)) == 2, "A failure was kept, and told to the next caller."


def test_the_cache_is_bounded_in_entries(start: StartServer, offline_model: str) -> None:
    url = start(CACHE_MAX_ENTRIES="2")
    for query in ("Bounded A?", "Bounded B?", "Bounded C?", "Bounded A?"):
        ask(url, query)
    assert len(calls(offline_model, "Bounded A?")) == 2, (
        "CACHE_MAX_ENTRIES is 2, and after two other answers the first is still kept."
    )


def test_a_cached_answer_expires(start: StartServer, offline_model: str) -> None:
    url = start(CACHE_TTL_SECONDS="0.2")
    again = until(lambda: (ask(url, "Fresh?"), len(calls(offline_model, "Fresh?")) > 1)[1], 10)
    assert again, "An answer is kept for longer than CACHE_TTL_SECONDS."


def test_a_time_to_live_of_zero_keeps_nothing(start: StartServer, offline_model: str) -> None:
    url = start(CACHE_TTL_SECONDS="0")
    for _ in range(3):
        ask(url, "Is this kept at all?")
    assert len(calls(offline_model, "Is this kept at all?")) == 3, "CACHE_TTL_SECONDS=0 keeps answers."


# --- Deadlines and clients that leave ---


def test_a_hung_model_is_a_504(start: StartServer) -> None:
    url = start(MODEL_NAME=HUNG, TIMEOUT_SECONDS="0.5")
    assert_problem(ask(url), 504)
    try:
        stream = events(httpx2.post(f"{url}/v1/stream", json={"query": QUESTION}, timeout=10))
    except httpx2.TimeoutException:
        pytest.fail(
            "The model hangs, and so does the stream: with a deadline of 0.5 s nothing came for 10 s."
        )
    assert_ends_with_error(stream, 504)


def test_a_stream_that_drips_is_ended_at_the_deadline(start: StartServer) -> None:
    url = start(MODEL_NAME="offline?tps=20", TIMEOUT_SECONDS="0.5")
    stream = events(httpx2.post(f"{url}/v1/stream", json={"query": QUESTION}, timeout=20))
    assert stream[-1][0] == "error", "The stream dripped on after its deadline, and nothing ended it."
    assert_ends_with_error(stream, 504)


@pytest.mark.parametrize("path", ["/v1/invoke", "/v1/stream"])
def test_a_client_that_leaves_cancels_the_model_call(
    start: StartServer, offline_model: str, path: str
) -> None:
    query = f"Does 02 notice that nobody listens on {path}?"
    leave_after(start(MODEL_NAME=HUNG), path, query, lambda: calls(offline_model, query))
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", 10), (
        "The client has left, and the model still works for it."
    )


def test_the_deadline_of_a_stream_covers_its_wait_for_a_place(start: StartServer) -> None:
    url = start(MODEL_NAME=HUNG, MAX_CONCURRENCY="1", TIMEOUT_SECONDS="4")

    async def two_streams() -> list[httpx2.Response]:
        # A deadline that began with the place would end after 8 s.
        async with httpx2.AsyncClient(timeout=7) as client:
            posts = [client.post(f"{url}/v1/stream", json={"query": QUESTION}) for _ in range(2)]
            return await asyncio.gather(*posts)

    try:
        streams = asyncio.run(two_streams())
    except httpx2.TimeoutException:
        pytest.fail("A stream waited for a place, and its deadline began only with that.")
    for response in streams:
        assert_ends_with_error(events(response), 504)


@pytest.mark.parametrize("path", ["/v1/invoke", "/v1/stream"])
def test_a_stream_whose_reader_leaves_gives_its_place_back(start: StartServer, path: str) -> None:
    url = start(MODEL_NAME="offline?tps=20", MAX_CONCURRENCY="1")
    for _ in range(4):  # one has the place, one may wait for it, a third would be shed
        body = {"query": QUESTION, "stream": True}
        with httpx2.stream("POST", f"{url}{path}", json=body, timeout=20) as response:
            first = next(response.iter_lines())
            assert first == "event: token", "A reader has left, and its place is still taken."


# --- Keys, limits, load ---


def test_a_key_is_needed_when_keys_are_set_and_never_logged(start: StartServer) -> None:
    server = start(API_KEYS="first-key, second-key")
    assert_problem(ask(server), 401)
    assert_problem(ask(server, headers={"X-API-Key": "wrong-key"}), 401)
    for key in ("first-key", "second-key"):
        assert ask(server, headers={"X-API-Key": key}).status_code == 200, f"The key {key!r} is refused."
    assert httpx2.get(f"{server}/ready").status_code == 200, "Probes have no key, and are refused."
    assert not re.search("first-key|second-key|wrong-key", server.log.read_text()), "A key is in the log."


@pytest.mark.parametrize("keys", [",", " ", " , "])
def test_a_list_of_keys_that_names_none_stops_the_start(start: StartServer, keys: str) -> None:
    try:
        start(API_KEYS=keys)
    except CourseError as failure:
        assert failure.__notes__[0].startswith("Bad setting API_KEYS: "), "The line does not name API_KEYS."
    else:
        pytest.fail(f"API_KEYS={keys!r} was meant to close the door, and leaves it open to everybody.")


def test_a_key_may_have_any_letters(start: StartServer) -> None:
    key = "schlüssel-🐳"
    answer = ask(start(API_KEYS=key), headers={"X-API-Key": key.encode()})  # type: ignore[dict-item]
    assert answer.status_code == 200, "A key that is not ASCII never matches."


def test_callers_do_not_share_cached_answers(start: StartServer, offline_model: str) -> None:
    url = start(API_KEYS="first-key, second-key")
    for key in ("first-key", "second-key"):
        ask(url, "Is this mine alone?", headers={"X-API-Key": key})
    assert len(calls(offline_model, "Is this mine alone?")) == 2, (
        "One caller got the answer made for another."
    )


def test_the_rate_limit_holds_per_key_and_says_when_to_come_back(start: StartServer) -> None:
    url = start(API_KEYS="first-key, second-key", RATE_LIMIT_RPM="3")
    replies = [ask(url, headers={"X-API-Key": "first-key"}) for _ in range(4)]
    statuses = [reply.status_code for reply in replies]
    assert statuses == [200, 200, 200, 429], (
        f"Three calls a minute are allowed, and four were answered with {statuses}."
    )
    assert_problem(replies[3], 429)
    wait = replies[3].headers.get("retry-after", "")
    assert wait.isdigit() and 1 <= int(wait) <= 120, f"A 429 must say when to come back, and says {wait!r}."
    policy = replies[0].headers.get("ratelimit-policy")
    assert policy == '"minute";q=3;w=60', (
        f"The limit is three calls a minute, and callers are told {policy!r}."
    )
    for reply, left in ((replies[0], 2), (replies[3], 0)):
        told = reply.headers.get("ratelimit", "")
        assert re.match(rf'"minute";r={left};t=\d+$', told), (
            f"A caller with {left} calls left is told {told!r}."
        )
    other = ask(url, headers={"X-API-Key": "second-key"}).status_code
    assert other == 200, "One caller has used up its quota, and another is refused."


def test_x_forwarded_for_of_a_caller_does_not_evade_the_rate_limit(start: StartServer) -> None:
    url = start(RATE_LIMIT_RPM="2")
    statuses = [ask(url, headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code for n in range(3)]
    assert statuses == [200, 200, 429], "X-Forwarded-For is believed, and evades the rate limit."


def test_x_forwarded_for_of_a_trusted_proxy_identifies_the_caller(start: StartServer) -> None:
    url = start(RATE_LIMIT_RPM="1", FORWARDED_ALLOW_IPS="127.0.0.1")
    statuses = [ask(url, headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code for n in (1, 2, 1)]
    assert statuses == [200, 200, 429], "Behind a proxy that is named, all callers share one quota."


def test_counting_requests_starts_no_threads(server: Server, api: httpx2.Client) -> None:
    process = psutil.Process(server.process.pid)
    seen: set[int] = set()
    for _ in range(100):
        api.post("/v1/invoke", json={})
        seen |= {thread.id for thread in process.threads()}
    assert len(seen) < 20, f"{len(seen)} threads were seen during 100 requests: the rate limit starts them."


def test_load_beyond_the_queue_is_shed_with_a_503(start: StartServer) -> None:
    url = start(MAX_CONCURRENCY="1", MODEL_NAME="offline?ttft=0.3")
    replies = asyncio.run(ask_at_once(url, [f"Load {n}?" for n in range(6)]))
    statuses = sorted(reply.status_code for reply in replies)
    assert statuses == [200, 200, 503, 503, 503, 503], (
        f"One is served, one may wait, four are too many; the six were answered with {statuses}."
    )
    shed = next(reply for reply in replies if reply.status_code == 503)
    assert_problem(shed, 503)
    assert shed.headers.get("retry-after") == "1", "A shed request is not told when to come back."
    assert metrics(url)[("agent_shed_total",)] == 4, "Four requests were shed, and the metrics do not say so."


def test_a_body_over_the_limit_is_a_413_whether_its_length_is_announced_or_not(start: StartServer) -> None:
    url = start(MAX_BODY_BYTES="200")
    assert_problem(ask(url, "x" * 300), 413)
    chunks = (b"x" * 100 for _ in range(3))
    assert_problem(httpx2.post(f"{url}/v1/invoke", content=chunks), 413)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_20_mb_is_refused_without_reading_it(server: Server, announced: bool) -> None:
    """The 413 arrives while most of the body is still unsent, with a Content-Length and with chunks."""
    length = "Content-Length: 20000000" if announced else "Transfer-Encoding: chunked"
    head = f"POST /v1/invoke HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    piece = b"x" * 10_000 if announced else b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    with connect(server, seconds=10) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(ConnectionError):  # the server may hang up on what it has refused
            for _ in range(300):  # 3 MB, far more than any sensible bound
                connection.sendall(piece)
        try:
            answer = connection.recv(100)
        except TimeoutError:
            answer = b""
    length = "its length was announced" if announced else "it came in chunks"
    assert b"413" in answer, f"A body of 3 MB was not refused with a 413 ({length})."


def test_half_a_body_and_then_silence_is_a_408(start: StartServer) -> None:
    url = start(BODY_SECONDS="1")
    began = time.monotonic()
    with connect(url, seconds=10) as connection:
        connection.sendall(b"POST /v1/invoke HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{")
        assert httpx2.get(f"{url}/health").status_code == 200, "One silent client keeps everybody waiting."
        try:
            answer = connection.recv(100)
        except TimeoutError:
            pytest.fail("Half a body came, then silence, and after 10 s the API still waits for the rest.")
    assert b" 408 " in answer, f"Half a body must be answered with 408, not with {answer[:40]!r}."
    assert time.monotonic() - began > 0.8, "A slow client must be given some time."


def test_a_body_that_drips_is_a_408(start: StartServer) -> None:
    url = start(BODY_SECONDS="1")
    with connect(url, seconds=0.3) as connection:
        connection.sendall(b"POST /v1/invoke HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{")
        answer = b""
        for _ in range(50):
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(100)
                break
            connection.sendall(b" ")
    assert b" 408 " in answer, (
        "A client sends a byte now and then, and the API waits on: each byte buys more time."
    )


def preflight(url: str, origin: str) -> httpx2.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    return httpx2.options(f"{url}/v1/invoke", headers={"Origin": origin} | asked)


def test_cors_allows_only_configured_origins_and_no_credentials(start: StartServer) -> None:
    assert "access-control-allow-origin" not in preflight(start(), "https://evil.example").headers, (
        "Nobody set CORS_ORIGINS, and a stranger's site is let in."
    )
    named = start(CORS_ORIGINS="https://shop.example")
    welcome = preflight(named, "https://shop.example")
    let_in = welcome.headers.get("access-control-allow-origin")
    assert let_in == "https://shop.example", "CORS_ORIGINS names a site, and its pages are kept out."
    assert welcome.status_code == 200, "The shop's pages are named, and may not call all the same."
    assert "access-control-allow-origin" not in preflight(named, "https://evil.example").headers, (
        "CORS_ORIGINS names one site, and another is let in."
    )
    wildcard = preflight(start(CORS_ORIGINS="*"), "https://evil.example").headers
    assert "access-control-allow-credentials" not in wildcard, (
        "Any site may call with the visitor's credentials."
    )


# --- Logs ---


def test_every_log_line_is_json_and_carries_the_request_id(start: StartServer) -> None:
    server = start(APP_NAME="logs")
    ask(server, "Is my question in the log?", headers={"X-Request-ID": "trace-me"})
    httpx2.get(f"{server}/health")
    lines = until(lambda: [line for line in log_lines(server) if line["event"] == "request"])
    assert [line.get("endpoint") for line in lines or []] == ["/v1/invoke"], (
        "The log should have one line with fields for the request, and none for the probe."
    )
    assert lines[0].get("request_id") == "trace-me", "The line of a request does not carry its id."
    missing = {"level", "timestamp", "status", "ms", "method"} - set(lines[0])
    assert not missing, f"The line of a request lacks {missing}."
    assert "Is my question" not in server.log.read_text(), "What callers ask is in the log."


def test_a_request_id_is_made_when_none_is_given(server: Server) -> None:
    made = {ask(server).headers.get("x-request-id", "") for _ in range(2)}
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in made), (
        f"A request that came without an id is to get one of 32 hexadecimal digits, and got one of {made}."
    )
    assert len(made) == 2, "Two requests got one id: the log cannot tell them apart."


def test_a_well_formed_request_id_is_kept_and_any_other_is_replaced(api: httpx2.Client) -> None:
    kept = api.get("/health", headers={"X-Request-ID": "abc-123"}).headers["x-request-id"]
    assert kept == "abc-123", "The caller's request id was not kept."
    for malformed in ("", "a b", "x" * 65, "<script>"):
        made = api.get("/health", headers={"X-Request-ID": malformed}).headers["x-request-id"]
        assert made != malformed, f"The request id {malformed!r} was taken as it came."
        assert len(made) == 32, f"A request id was made, and it is not 32 characters long: {made!r}."


def test_the_models_failure_is_in_the_log_and_not_in_the_reply(start: StartServer) -> None:
    server = start(MODEL_NAME="offline?fault=401", OPENAI_API_KEY="sk-quoted-by-the-model")
    answer = ask(server, headers={"X-Request-ID": "find-me"}).text
    assert "sk-quoted" not in answer, "The caller is shown what the model said, and with it the key."
    lines = [line for line in log_lines(server) if line.get("request_id") == "find-me"]
    assert [line for line in lines if line["level"] == "error"], "The cause of a 502 is not in the log."


# --- Metrics ---


def test_requests_tokens_and_cache_are_counted(start: StartServer) -> None:
    url = start(APP_NAME="counted")
    used = ask(url).json()["tokens_used"]
    ask(url)
    seen = metrics(url)
    requests = seen.get(("agent_requests_total", "POST", "/v1/invoke", "200"))
    assert requests == 2, f"Two requests were answered, and {requests} are counted."
    tokens = seen.get(("agent_tokens_total", "offline"))
    assert tokens == used, f"The model used {used} tokens, and {tokens} are counted."
    looked_up = [seen.get(("agent_cache_total", outcome)) for outcome in ("miss", "hit")]
    assert looked_up == [1, 1], f"One miss and one hit are counted as {looked_up}."


def test_unknown_paths_and_methods_share_one_series(start: StartServer) -> None:
    url = start(APP_NAME="bounded")
    with httpx2.Client(base_url=url) as client:
        for number in range(300):
            client.request(f"M{number}" if number % 2 else "GET", f"/{number}")
        size = len(client.get("/metrics").content)
    assert size < 50_000, (
        f"300 unknown paths made the metrics {size:,} bytes long: every path is a series of its own."
    )


def test_a_stream_is_timed_to_its_end(start: StartServer) -> None:
    url = start(MODEL_NAME="offline?tps=80")
    stream = events(httpx2.post(f"{url}/v1/stream", json={"query": QUESTION}, timeout=20))
    timed = ("agent_request_latency_seconds_sum", "POST", "/v1/stream")
    assert until(lambda: timed in metrics(url)), "The stream has ended, and no metric says how long it took."
    seconds = metrics(url)[timed]
    least = len(stream) / 80 * 0.8
    assert seconds > least, (
        f"A stream that took at least {least:.1f} s was measured as {seconds:.3f} s: it stopped too soon."
    )


def test_metrics_are_the_sum_of_all_workers(start: StartServer) -> None:
    server = start(WEB_CONCURRENCY="2")
    up = "Application startup complete."
    assert until(lambda: server.log.read_text().count(up) == 2, 60), (
        f"Two workers were asked for, and {server.log.read_text().count(up)} started."
    )

    async def many() -> set[float | None]:
        # A new connection for each request, so that every worker gets some.
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(limits=limits, timeout=20) as client:
            before = metrics(server).get(("agent_requests_total", "POST", "/v1/invoke", "422"), 0)
            await asyncio.gather(*(client.post(f"{server}/v1/invoke", json={}) for _ in range(40)))
        return {
            metrics(server).get(("agent_requests_total", "POST", "/v1/invoke", "422"), 0) - before
            for _ in range(8)
        }

    assert asyncio.run(many()) == {40}, "Every scrape says something else: each worker counts for itself."


# --- Stopping ---


def test_ready_is_503_and_requests_are_answered_during_the_drain_delay(start: StartServer) -> None:
    server = start(DRAIN_DELAY_SECONDS="60")
    assert httpx2.get(f"{server}/ready").status_code == 200, "A server that serves says that it is not ready."
    server.process.send_signal(signal.SIGTERM)
    red = until(lambda: httpx2.get(f"{server}/ready").status_code == 503, 10)
    assert red, "SIGTERM has come, and /ready goes on inviting requests."
    assert ask(server).status_code == 200, "A request during the delay was not answered."


def test_one_ctrl_c_lets_the_streams_of_all_workers_finish(start: StartServer) -> None:
    """A terminal signals the whole group, so that a worker gets SIGINT, and then SIGTERM from its parent."""
    server = start(WEB_CONCURRENCY="2", DRAIN_DELAY_SECONDS="1", MODEL_NAME="offline?tps=30")
    streams: list[list[str]] = [[] for _ in range(4)]

    def read(lines: list[str]) -> None:
        with contextlib.suppress(httpx2.HTTPError):
            body = {"query": QUESTION}
            with httpx2.stream("POST", f"{server}/v1/stream", json=body, timeout=60) as reply:
                lines.extend(line for line in reply.iter_lines() if line)

    readers = [threading.Thread(target=read, args=(lines,)) for lines in streams]
    for reader in readers:
        reader.start()
    assert until(lambda: all(streams), 20), "The streams do not begin."
    os.killpg(server.process.pid, signal.SIGINT)
    for reader, lines in zip(readers, streams, strict=True):
        reader.join(60)
        assert lines and "stop" in lines[-1], "One Ctrl-C was taken for two, and has cut off a stream."
    assert_ends_with_zero(server)


def test_ctrl_c_ends_a_server_whose_workers_still_import(
    processes: Processes, lesson_root: Path, tmp_path: Path
) -> None:
    """The parent waits for the answer to a healthcheck then, and the worker that would give it has ended."""
    command = [sys.executable, SCRIPT]
    env = base_environment() | {"OPENAI_API_KEY": "x", "WEB_CONCURRENCY": "2", "PORT": "0"}
    with (tmp_path / "log").open("w") as log:
        parent = processes.start(command, env=env, cwd=lesson_root, output=log)

    def importing() -> bool:
        """Whether a worker has loaded tiktoken, one of the last libraries."""
        workers = psutil.Process(parent.pid).children()
        return any("tiktoken" in file.path for worker in workers for file in worker.memory_maps())

    assert until(importing, 150), "The workers do not start."
    os.killpg(parent.pid, signal.SIGINT)
    try:
        parent.wait(30)
    except subprocess.TimeoutExpired:
        pytest.fail("Ctrl-C came while the workers started, and 30 seconds later their parent still runs.")

"""The claims of lesson 02, over real HTTP to real processes."""

import asyncio
import json
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from conftest import App, Server, calls, until
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode
from test_01_basic_api import HUNG, assert_problem, events, leave_after
from test_01_hostile_input import PROMISES, assert_promises_kept, connect

from course.processes import Failed

SCRIPT = "code/02_production_api.py"
QUESTION = "What is a container?"


@pytest.fixture(scope="session")
def start(start_script: Callable[[str], App]) -> App:
    script = start_script(SCRIPT)
    return lambda **settings: script(**({"RATE_LIMIT_RPM": "100000"} | settings))


@pytest.fixture
def server(start: App) -> Server:
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


def metrics(url: str) -> dict[tuple[str, ...], float]:
    """Every sample by name and label values, such as ("agent_requests_total", "GET", "/health", "200")."""
    text = httpx2.get(f"{url}/metrics").text
    order = ("method", "endpoint", "status", "outcome", "model", "le")
    return {
        (sample.name, *(sample.labels[label] for label in order if label in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def log_lines(server: Server) -> list[dict[str, Any]]:
    lines = []
    for line in server.log.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            pytest.fail(f"This line of the log is not JSON, and no machine will find it: {line!r}.")
    return lines


# --- Requests ---


def test_invoke_answers_with_id_tokens_latency_and_time(api: httpx2.Client) -> None:
    response = api.post("/v1/invoke", json={"query": QUESTION})
    reply = response.json()
    assert reply["id"] == response.headers["x-request-id"]
    assert reply["tokens_used"] > 0
    assert reply["model"] == "offline"
    assert reply["latency_ms"] > 0
    assert re.match(r"\d{4}-\d\d-\d\dT.*Z$", reply["timestamp"])


def test_max_tokens_and_temperature_reach_the_model(server: Server, offline_model: str) -> None:
    query = "What is an image, in few tokens?"
    reply = ask(server, query, max_tokens=7, temperature=0.25).json()
    sent = calls(offline_model, query)[-1]["body"]
    assert (sent.get("max_tokens") or sent.get("max_completion_tokens"), sent.get("temperature")) == (
        7,
        0.25,
    ), "The caller's max_tokens and temperature never reached the model."
    assert len(reply["response"]) < 60


@pytest.mark.parametrize(("field", "value"), [("max_tokens", -5), ("max_tokens", 4097), ("temperature", 2.1)])
def test_values_out_of_range_are_a_422_that_names_them(api: httpx2.Client, field: str, value: float) -> None:
    told = assert_problem(api.post("/v1/invoke", json={"query": QUESTION, field: value}), 422)
    assert told["errors"][0]["field"] == field


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
def test_a_bad_setting_stops_the_start_with_one_line_that_names_it(start: App, name: str, value: str) -> None:
    with pytest.raises(Failed) as failure:
        start(**{name: value})
    log = failure.value.__notes__[0].strip()
    assert log.startswith(f"Bad setting {name}: ")
    assert "\n" not in log


@PROMISES
def test_no_answer_is_one_that_openapi_does_not_promise(
    server: Server, path: str, method: str, mode: GenerationMode
) -> None:
    assert_promises_kept(server, path, method, mode)


# --- Cache and single-flight ---


def test_an_equal_request_is_answered_from_the_cache(server: Server, offline_model: str) -> None:
    query = "What is graceful shutdown, twice?"
    first, second = ask(server, query).json(), ask(server, query).json()
    assert first["response"] == second["response"]
    assert first["id"] != second["id"]
    assert len(calls(offline_model, query)) == 1


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


def test_fifty_equal_calls_at_once_reach_the_model_once(start: App, offline_model: str) -> None:
    query = "What do fifty callers ask at once?"
    replies = asyncio.run(ask_at_once(start(MODEL_NAME="offline?ttft=0.3"), [query] * 50))
    assert {reply.status_code for reply in replies} == {200}
    assert len(calls(offline_model, query)) == 1, (
        "Equal calls at the same time each went to the model: nothing joins them."
    )


def test_a_shared_call_ends_only_when_its_last_waiter_leaves(start: App, offline_model: str) -> None:
    query = "Who still waits for this one?"
    url = start(MODEL_NAME=HUNG)

    async def leave_one_by_one() -> list[str]:
        states = []
        async with httpx2.AsyncClient(timeout=20) as client:
            waiters = [
                asyncio.create_task(client.post(f"{url}/v1/invoke", json={"query": query})) for _ in "ab"
            ]
            shared = ("agent_cache_total", "shared")
            assert await asyncio.to_thread(until, lambda: metrics(url).get(shared)), "they never met"
            for waiter in waiters:
                waiter.cancel()
                await asyncio.gather(waiter, return_exceptions=True)
                await asyncio.sleep(0.2)  # long enough to notice; a cancelled call would show by now
                states.append(calls(offline_model, query)[0]["state"])
        return states

    assert asyncio.run(leave_one_by_one()) == ["running", "cancelled"]
    assert len(calls(offline_model, query)) == 1


def test_errors_are_not_cached(start: App, offline_model: str) -> None:
    query = "Is this failure kept?"
    url = start(MODEL_NAME="offline?fault=500")
    assert [ask(url, query).status_code for _ in range(2)] == [502, 502]
    assert len(calls(offline_model, query)) == 2


def test_the_cache_is_bounded_in_entries(start: App, offline_model: str) -> None:
    url = start(CACHE_MAX_ENTRIES="2")
    for query in ("Bounded A?", "Bounded B?", "Bounded C?", "Bounded A?"):
        ask(url, query)
    assert len(calls(offline_model, "Bounded A?")) == 2, (
        "The cache was told to keep two answers and has kept three: nothing bounds it."
    )


def test_a_cached_answer_expires(start: App, offline_model: str) -> None:
    url = start(CACHE_TTL_SECONDS="0.2")
    assert until(lambda: (ask(url, "Fresh?"), len(calls(offline_model, "Fresh?")) > 1)[1])


def test_a_time_to_live_of_zero_keeps_nothing(start: App, offline_model: str) -> None:
    url = start(CACHE_TTL_SECONDS="0")
    for _ in range(3):
        ask(url, "Is this kept at all?")
    assert len(calls(offline_model, "Is this kept at all?")) == 3


# --- Deadlines and clients that leave ---


def test_a_hung_model_is_a_504(start: App) -> None:
    url = start(MODEL_NAME=HUNG, TIMEOUT_SECONDS="0.5")
    assert_problem(ask(url), 504)
    response = httpx2.post(f"{url}/v1/stream", json={"query": QUESTION}, timeout=5)
    assert events(response)[-1][1]["problem"]["status"] == 504


def test_a_stream_that_drips_is_ended_at_the_deadline(start: App) -> None:
    url = start(MODEL_NAME="offline?tps=20", TIMEOUT_SECONDS="0.5")
    stream = events(httpx2.post(f"{url}/v1/stream", json={"query": QUESTION}, timeout=20))
    assert stream[-1][0] == "error", "The stream dripped on after its deadline, and nothing ended it."
    assert stream[-1][1]["problem"]["status"] == 504


@pytest.mark.parametrize("path", ["/v1/invoke", "/v1/stream"])
def test_a_client_that_leaves_cancels_the_model_call(start: App, offline_model: str, path: str) -> None:
    query = f"Does 02 notice that nobody listens on {path}?"
    leave_after(start(MODEL_NAME=HUNG), path, query, lambda: calls(offline_model, query))
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", 2)


def test_the_deadline_of_a_stream_covers_its_wait_for_a_place(start: App) -> None:
    url = start(MODEL_NAME=HUNG, MAX_CONCURRENCY="1", TIMEOUT_SECONDS="2")

    async def two_streams() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(
            timeout=3.5
        ) as client:  # a deadline that began with the place ends at 4
            posts = [client.post(f"{url}/v1/stream", json={"query": QUESTION}) for _ in range(2)]
            return await asyncio.gather(*posts)

    last = [events(response)[-1] for response in asyncio.run(two_streams())]
    assert [(name, data["problem"]["status"]) for name, data in last] == [("error", 504)] * 2


@pytest.mark.parametrize("path", ["/v1/invoke", "/v1/stream"])
def test_a_stream_whose_reader_leaves_gives_its_place_back(start: App, path: str) -> None:
    url = start(MODEL_NAME="offline?tps=20", MAX_CONCURRENCY="1")
    for _ in range(4):  # one has the place, one may wait for it, a third would be shed
        body = {"query": QUESTION, "stream": True}
        with httpx2.stream("POST", f"{url}{path}", json=body, timeout=5) as response:
            assert next(response.iter_lines()) == "event: token", "the place of one that left is still taken"


# --- Keys, limits, load ---


def test_a_key_is_needed_when_keys_are_set_and_never_logged(start: App) -> None:
    server = start(API_KEYS="first-key, second-key")
    assert_problem(ask(server), 401)
    assert_problem(ask(server, headers={"X-API-Key": "wrong-key"}), 401)
    for key in ("first-key", "second-key"):
        assert ask(server, headers={"X-API-Key": key}).status_code == 200
    assert httpx2.get(f"{server}/ready").status_code == 200
    assert not re.search("first-key|second-key|wrong-key", server.log.read_text())


def test_callers_do_not_share_cached_answers(start: App, offline_model: str) -> None:
    url = start(API_KEYS="first-key, second-key")
    for key in ("first-key", "second-key"):
        ask(url, "Is this mine alone?", headers={"X-API-Key": key})
    assert len(calls(offline_model, "Is this mine alone?")) == 2, (
        "One caller got the answer made for another."
    )


def test_the_rate_limit_holds_per_key_and_says_when_to_come_back(start: App) -> None:
    url = start(API_KEYS="first-key, second-key", RATE_LIMIT_RPM="3")
    replies = [ask(url, headers={"X-API-Key": "first-key"}) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429], (
        "Four calls in a minute where three are allowed: nobody enforces the rate limit."
    )
    assert_problem(replies[3], 429)
    assert 1 <= int(replies[3].headers["retry-after"]) <= 120
    assert replies[0].headers["ratelimit-policy"] == '"minute";q=3;w=60'
    assert re.match(r'"minute";r=2;t=\d+$', replies[0].headers["ratelimit"])
    assert ask(url, headers={"X-API-Key": "second-key"}).status_code == 200


def test_load_beyond_the_queue_is_shed_with_a_503(start: App) -> None:
    url = start(MAX_CONCURRENCY="1", MODEL_NAME="offline?ttft=0.3")
    replies = asyncio.run(ask_at_once(url, [f"Load {n}?" for n in range(6)]))
    statuses = sorted(reply.status_code for reply in replies)
    assert statuses == [200, 200, 503, 503, 503, 503]
    shed = next(reply for reply in replies if reply.status_code == 503)
    assert assert_problem(shed, 503) and shed.headers["retry-after"] == "1"
    assert metrics(url)[("agent_shed_total",)] == 4


def test_a_body_over_the_limit_is_a_413_whether_its_length_is_announced_or_not(start: App) -> None:
    url = start(MAX_BODY_BYTES="200")
    assert_problem(ask(url, "x" * 300), 413)
    chunks = (b"x" * 100 for _ in range(3))
    assert_problem(httpx2.post(f"{url}/v1/invoke", content=chunks), 413)


def test_half_a_body_and_then_silence_is_a_408(server: Server) -> None:
    with connect(server, seconds=8) as connection:
        connection.sendall(b"POST /v1/invoke HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in connection.recv(100)


def preflight(url: str, origin: str) -> httpx2.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    return httpx2.options(f"{url}/v1/invoke", headers={"Origin": origin} | asked)


def test_other_sites_are_let_in_only_by_name_and_never_with_credentials(start: App) -> None:
    assert "access-control-allow-origin" not in preflight(start(), "https://evil.example").headers, (
        "Nobody set CORS_ORIGINS, and a stranger's site is let in."
    )
    named = start(CORS_ORIGINS="https://shop.example")
    welcome = preflight(named, "https://shop.example")
    assert welcome.headers["access-control-allow-origin"] == "https://shop.example"
    assert welcome.status_code == 200, "The shop's pages are named, and may not call all the same."
    assert "access-control-allow-origin" not in preflight(named, "https://evil.example").headers
    wildcard = preflight(start(CORS_ORIGINS="*"), "https://evil.example").headers
    assert "access-control-allow-credentials" not in wildcard, (
        "Any site may call with the visitor's credentials."
    )


# --- Logs ---


def test_every_log_line_is_json_and_carries_the_request_id(start: App) -> None:
    server = start(APP_NAME="logs")
    ask(server, "Is my question in the log?", headers={"X-Request-ID": "trace-me"})
    httpx2.get(f"{server}/health")
    lines = until(lambda: [line for line in log_lines(server) if line["event"] == "request"])
    assert [line.get("endpoint") for line in lines or []] == ["/v1/invoke"], (
        "The log should have one line with fields for the request, and none for the probe."
    )
    assert lines[0]["request_id"] == "trace-me"
    assert {"level", "timestamp", "status", "ms", "method"} <= set(lines[0])
    assert "Is my question" not in server.log.read_text()


def test_a_request_id_is_made_when_none_is_given(server: Server) -> None:
    made = {ask(server).headers.get("x-request-id", "") for _ in range(2)}
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in made) and len(made) == 2, (
        "A request came without an id and got none: nobody will find it in the log."
    )


def test_the_models_failure_is_in_the_log_and_not_in_the_reply(start: App) -> None:
    server = start(MODEL_NAME="offline?fault=401", OPENAI_API_KEY="sk-quoted-by-the-model")
    assert "sk-quoted" not in ask(server, headers={"X-Request-ID": "find-me"}).text
    assert [
        line for line in log_lines(server) if line.get("request_id") == "find-me" and line["level"] == "error"
    ]


# --- Metrics ---


def test_requests_tokens_and_cache_are_counted(start: App) -> None:
    url = start(APP_NAME="counted")
    used = ask(url).json()["tokens_used"]
    ask(url)
    seen = metrics(url)
    assert seen["agent_requests_total", "POST", "/v1/invoke", "200"] == 2
    assert seen["agent_tokens_total", "offline"] == used
    assert seen["agent_cache_total", "miss"] == seen["agent_cache_total", "hit"] == 1
    assert seen["agent_requests_in_flight",] == 1, "the request for the metrics itself"


def test_paths_and_methods_that_nobody_knows_share_one_series(start: App) -> None:
    url = start(APP_NAME="bounded")
    with httpx2.Client(base_url=url) as client:
        for number in range(300):
            client.request(f"M{number}" if number % 2 else "GET", f"/{number}")
        size = len(client.get("/metrics").content)
    assert size < 50_000, (
        f"300 unknown paths made the metrics {size:,} bytes long: every path is a series of its own."
    )


def test_a_stream_is_timed_to_its_end(start: App) -> None:
    url = start(MODEL_NAME="offline?tps=200")
    stream = events(httpx2.post(f"{url}/v1/stream", json={"query": QUESTION}, timeout=20))
    seen = metrics(url)
    seconds = seen["agent_request_latency_seconds_sum", "POST", "/v1/stream"]
    assert seconds > len(stream) / 200 * 0.8, (
        "A stream was measured before it had run: its time is that of its head."
    )
    assert seen["agent_time_to_first_token_seconds_count",] == 1
    assert seen["agent_time_to_first_token_seconds_sum",] < seconds / 2


def test_metrics_are_the_sum_of_all_workers(start: App) -> None:
    server = start(WEB_CONCURRENCY="4")
    up = "Application startup complete."
    assert until(lambda: server.log.read_text().count(up) == 4, 30), "Four workers were asked for."

    async def many() -> set[float | None]:
        limits = httpx2.Limits(
            max_keepalive_connections=0
        )  # a new connection each, so that all workers get some
        async with httpx2.AsyncClient(limits=limits, timeout=20) as client:
            before = metrics(server).get(("agent_requests_total", "POST", "/v1/invoke", "422"), 0)
            await asyncio.gather(*(client.post(f"{server}/v1/invoke", json={}) for _ in range(40)))
        return {
            metrics(server).get(("agent_requests_total", "POST", "/v1/invoke", "422"), 0) - before
            for _ in range(8)
        }

    assert asyncio.run(many()) == {40}, "Every scrape says something else: each worker counts for itself."


# --- Stopping ---


def test_readiness_is_red_while_the_server_serves_on_before_it_stops(start: App) -> None:
    server = start(DRAIN_DELAY_SECONDS="1")
    assert httpx2.get(f"{server}/ready").status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert until(lambda: httpx2.get(f"{server}/ready").status_code == 503, 1)
    assert ask(server).status_code == 200
    server.process.wait(5)

"""The claims of lesson 04, over real HTTP to a real research agent: its answers, its runs, its limits."""

import asyncio
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from conftest import App, Server, assert_heard_during_imports, calls, until
from schemathesis import GenerationMode
from test_01_basic_api import HUNG, assert_problem, leave_after
from test_01_hostile_input import BOTH, assert_promises_kept
from test_02_production_api import log_lines, metrics

QUESTION = "What is graceful shutdown?"
DEEP = "Research as deeply as you can: what is a container image?"


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


@contextmanager
def streaming(url: str, query: str, **fields: Any) -> Iterator[tuple[str, Iterator[Event]]]:
    """Start a streamed run; its id and its events."""
    body = {"query": query, **fields}
    with httpx2.stream("POST", f"{url}/v1/research/stream", json=body, timeout=30) as response:
        assert response.status_code == 200, response.read()
        yield response.headers["x-run-id"], read_events(response)


def stream(url: str, query: str, **fields: Any) -> list[Event]:
    with streaming(url, query, **fields) as (_, events):
        return list(events)


def resume(url: str, run_id: str, after: str | None = None) -> list[Event]:
    headers = {"Last-Event-ID": after} if after else {}
    with httpx2.stream("GET", f"{url}/v1/research/{run_id}/events", headers=headers, timeout=30) as response:
        assert response.status_code == 200, response.read()
        return list(read_events(response))


def ask(url: str, query: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/research", json={"query": query, **fields}, headers=headers, timeout=30)


def state(url: str, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = httpx2.get(f"{url}/v1/research/{run_id}").json()
    return run


def text_of(events: list[Event]) -> str:
    """The answer as a client shows it: what was said before a step, or was withdrawn, is gone."""
    text = ""
    for event in events:
        text = "" if event.type in ("step", "reset") else text + event.data.get("text", "")
    return text


def pair(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))


@pytest.fixture(scope="session")
def start(research_agent: App) -> App:
    return lambda **settings: research_agent(
        **({"RATE_LIMIT_RPM": "100000", "MAX_RUNS_PER_CALLER": "1000", "MODEL_RETRIES": "0"} | settings)
    )


@pytest.fixture
def server(start: App) -> Server:
    return start()


# --- Answers ---


def test_an_answer_cites_what_the_tools_have_found(server: Server, offline_model: str) -> None:
    reply = ask(server, QUESTION).json()
    assert {"query", "response", "steps", "sources"} <= set(reply)
    assert [step["n"] for step in reply["steps"]] == list(range(1, len(reply["steps"]) + 1))
    cited = {int(n) for n in re.findall(r"\[(\d+)\]", reply["response"])}
    assert cited, "The answer cites nothing."
    assert cited <= {source["n"] for source in reply["sources"]}, "A citation points at nothing."
    found = httpx2.get(f"{offline_model}/search", params={"q": QUESTION, "format": "json"}).json()["results"]
    known = {result["url"] for result in found}
    searched = {step["input"]["query"] for step in reply["steps"] if step["tool"] == "web_search"}
    for query in searched:
        more = httpx2.get(f"{offline_model}/search", params={"q": query, "format": "json"}).json()["results"]
        known |= {result["url"] for result in more}
    assert {source["url"] for source in reply["sources"]} <= known, (
        "A source was made up: no tool returned it."
    )
    assert all(1 <= source["step"] <= len(reply["steps"]) for source in reply["sources"])


def test_a_comparison_marks_what_was_inferred(server: Server) -> None:
    reply = ask(server, "What is the difference between a thread and a process?").json()
    assert re.search(r"^\W*Inferred:", reply["response"], re.MULTILINE)


def test_the_agent_takes_five_steps_at_most_and_still_answers(start: App) -> None:
    response = ask(start(TIMEOUT_SECONDS="10"), DEEP)
    assert response.status_code == 200, "The agent's steps have no limit: this one went on to its deadline."
    assert len(response.json()["steps"]) == 5
    assert len(response.json()["response"]) > 20


def test_a_failed_search_is_told_to_the_agent_and_the_answer_says_so(start: App) -> None:
    reply = ask(start(SEARCH_URL="http://127.0.0.1:1"), QUESTION)
    assert reply.status_code == 200, "The search failed, and that became an error of the whole request."
    assert reply.json()["steps"][0]["outcome"] == "failed"
    assert reply.json()["sources"] == []
    assert re.search(r"search.*fail", reply.json()["response"], re.IGNORECASE)


def test_ddgs_without_network_gives_an_answer_that_says_so(start: App) -> None:
    proxies = {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    reply = ask(start(SEARCH_BACKEND="ddgs", **proxies), QUESTION)
    assert reply.status_code == 200
    assert reply.json()["steps"][0]["outcome"] == "failed"
    assert re.search(r"search.*fail", reply.json()["response"], re.IGNORECASE)


def test_the_model_is_told_the_limit_and_gets_no_tools_when_it_is_reached(
    server: Server, offline_model: str
) -> None:
    query = f"{DEEP} And what is a layer?"
    ask(server, query)
    bodies = [call["body"] for call in calls(offline_model, "And what is a layer?")]
    assert "at most 5 steps" in json.dumps(bodies[0]["messages"][0])
    assert (
        len(bodies) == 6 and "tools" not in bodies[-1] and "All steps are used up" in json.dumps(bodies[-1])
    )


# --- Streams ---


def test_a_stream_tells_steps_sources_text_and_an_end(server: Server) -> None:
    events = stream(server, "What is a container image?")
    types = [event.type for event in events]
    assert types[0] == "state"
    assert types.index("step") < types.index("source") < types.index("token")
    assert types[-2:] == ["usage", "done"]
    assert {"state", "step", "source", "token", "usage", "done"} == set(types)
    ids = [pair(event.id) for event in events]
    assert ids == sorted(set(ids)), "The ids of the events do not ascend."


def test_a_run_can_be_read_when_it_is_over(server: Server) -> None:
    with streaming(server, "What is a layer of an image?") as (run_id, events):
        told = list(events)
    run = until(lambda: (run := state(server, run_id))["state"] == "done" and run)
    assert run["result"]["response"] == text_of(told)
    assert resume(server, run_id) == told


def test_a_resumed_stream_has_every_event_once(start: App) -> None:
    server = start(MODEL_NAME="offline?tps=100")
    with streaming(server, "What is a volume?", background=True) as (run_id, events):
        first = [next(events) for _ in range(20)]
    rest = resume(server, run_id, first[-1].id)
    whole = resume(server, run_id)
    assert first + rest == whole, "Events came twice, or not at all, when the stream was resumed."
    assert rest[-1].type == "done"
    assert resume(server, run_id, whole[-1].id) == [], "after the last event there is nothing to wait for"


@pytest.mark.parametrize("bad", ["x", "1", "-1-2", "1-2-3", "0-", "٣-٤"])
def test_a_bad_last_event_id_is_a_422(server: Server, bad: str) -> None:
    run_id = ask(server, "What is a port?").json()["id"]
    headers = {b"Last-Event-ID": bad.encode()}
    assert_problem(httpx2.get(f"{server}/v1/research/{run_id}/events", headers=headers), 422)


def test_an_unknown_run_is_a_404(server: Server) -> None:
    for method, path in (("GET", "/x"), ("GET", "/x/events"), ("DELETE", "/x")):
        assert_problem(httpx2.request(method, f"{server}/v1/research{path}"), 404)


def test_a_run_in_the_background_goes_on_alone(server: Server) -> None:
    reply = ask(server, "What is an orphan process?", background=True)
    assert reply.status_code == 202 and reply.headers["location"].endswith(reply.json()["id"])
    run = until(lambda: (run := state(server, reply.json()["id"]))["state"] == "done" and run)
    assert run["result"]["response"]


# --- Ends ---


def test_a_deleted_run_is_cancelled_down_to_the_model(start: App, offline_model: str) -> None:
    query = "Who cancels this one?"
    server = start(MODEL_NAME=HUNG)
    with streaming(server, query) as (run_id, events):
        assert until(lambda: calls(offline_model, query))
        assert httpx2.delete(f"{server}/v1/research/{run_id}").status_code == 202
        assert [(event.type, event.data) for event in events][1:] == [("done", {"reason": "cancelled"})]
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled")
    assert until(lambda: state(server, run_id)["state"] == "cancelled")
    assert httpx2.delete(f"{server}/v1/research/{run_id}").status_code == 202, "cancelling twice is no error"


def test_a_client_that_leaves_cancels_its_run_down_to_the_model(start: App, offline_model: str) -> None:
    query = "Does the agent notice that nobody waits?"
    leave_after(start(MODEL_NAME=HUNG), "/v1/research", query, lambda: calls(offline_model, query))
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", 2), (
        "The client has left, and the model still works for it."
    )


@pytest.mark.parametrize(("background", "end"), [(False, "cancelled"), (True, "done")])
def test_a_stream_that_nobody_follows_is_cancelled_after_a_while(
    start: App, background: bool, end: str
) -> None:
    server = start(MODEL_NAME="offline?tps=40", RESUME_GRACE_SECONDS="0.5", LEASE_SECONDS="0.6")
    with streaming(server, f"Who follows, {background}?", background=background) as (run_id, events):
        next(events)
    assert until(lambda: state(server, run_id)["state"] not in ("queued", "running"), 20)
    assert state(server, run_id)["state"] == end


def test_a_run_has_one_deadline(start: App) -> None:
    server = start(MODEL_NAME=HUNG, TIMEOUT_SECONDS="0.5")
    assert_problem(ask(server, QUESTION), 504)
    assert stream(server, QUESTION)[-1].data["problem"]["status"] == 504


def test_a_model_that_fails_is_a_502_that_tells_no_secret(start: App) -> None:
    server = start(MODEL_NAME="offline?fault=401", OPENAI_API_KEY="sk-quoted-by-the-model")
    reply = ask(server, QUESTION)
    assert_problem(reply, 502)
    last = stream(server, QUESTION)[-1]
    assert (last.type, last.data["problem"]["status"]) == ("error", 502)
    assert "sk-quoted" not in reply.text + json.dumps(last.data)


def test_a_model_call_that_fails_once_is_tried_again(start: App) -> None:
    server = start(MODEL_NAME="offline?fault=500&every=2", MODEL_RETRIES="2")
    assert ask(server, "Is one failure the end?").status_code == 200


# --- Asking twice ---


def test_the_same_idempotency_key_gives_the_same_run(server: Server, offline_model: str) -> None:
    query = "Is this one paid twice?"

    async def twice() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(timeout=30, headers={"Idempotency-Key": "once"}) as client:
            posts = [client.post(f"{server}/v1/research", json={"query": query}) for _ in range(5)]
            return await asyncio.gather(*posts)

    replies = asyncio.run(twice())
    assert len({reply.json()["id"] for reply in replies}) == 1, (
        "One Idempotency-Key, sent twice, started two runs: it is paid twice."
    )
    firsts = [
        c for c in calls(offline_model, query) if not any(m["role"] == "tool" for m in c["body"]["messages"])
    ]
    assert len(firsts) == 1
    other = ask(server, "Another question", headers={"Idempotency-Key": "once"})
    assert_problem(other, 409)


def test_an_equal_question_is_answered_from_the_cache_for_the_same_caller(
    start: App, offline_model: str
) -> None:
    server = start(API_KEYS="first-key, second-key", APP_NAME="cache")
    first, again, other = (
        ask(server, "Is this kept?", headers={"X-API-Key": key}).json()["id"]
        for key in ("first-key", "first-key", "second-key")
    )
    assert first == again and first != other


# --- Callers ---


def test_a_key_is_needed_when_keys_are_set_and_may_be_set_as_a_hash(start: App) -> None:
    hashed = "sha256:" + hashlib.sha256(b"second-key").hexdigest()
    server = start(API_KEYS=f"first-key,{hashed}")
    assert_problem(ask(server, QUESTION), 401)
    assert_problem(ask(server, QUESTION, headers={"X-API-Key": hashed}), 401)
    for key in ("first-key", "second-key"):
        assert ask(server, QUESTION, headers={"X-API-Key": key}).status_code == 200
    assert httpx2.get(f"{server}/").status_code == httpx2.get(f"{server}/ready").status_code == 200
    assert not re.search("first-key|second-key", server.log.read_text())


def test_a_run_is_its_callers_alone(start: App) -> None:
    server = start(API_KEYS="first-key, second-key")
    run_id = ask(server, "Whose is this?", headers={"X-API-Key": "first-key"}).json()["id"]
    other = {"X-API-Key": "second-key"}
    assert_problem(httpx2.get(f"{server}/v1/research/{run_id}", headers=other), 404)
    assert_problem(httpx2.get(f"{server}/v1/research/{run_id}/events", headers=other), 404)
    assert_problem(httpx2.delete(f"{server}/v1/research/{run_id}", headers=other), 404)


def test_the_rate_limit_holds_and_says_when_to_come_back(start: App) -> None:
    server = start(RATE_LIMIT_RPM="2")
    replies = [ask(server, QUESTION) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert 1 <= int(replies[2].headers["retry-after"]) <= 61
    assert re.match(r'"minute";r=1;t=\d+$', replies[0].headers["ratelimit"])


def test_a_caller_may_have_so_many_runs_at_once(start: App) -> None:
    server = start(MODEL_NAME=HUNG, MAX_RUNS_PER_CALLER="2", TIMEOUT_SECONDS="60")
    ids = [ask(server, f"Mine, {n}", background=True).json()["id"] for n in range(2)]
    refused = ask(server, "Mine, too", background=True)
    assert_problem(refused, 429)
    assert refused.headers["retry-after"]
    for run_id in ids:
        httpx2.delete(f"{server}/v1/research/{run_id}")
    assert until(lambda: ask(server, "And now?", background=True).status_code == 202)


@contextmanager
def reading(url: str, run_id: str) -> Iterator[httpx2.Response]:
    with httpx2.stream("GET", f"{url}/v1/research/{run_id}/events", timeout=30) as response:
        yield response


def test_a_caller_may_read_so_many_streams_at_once_and_gets_the_place_back(start: App) -> None:
    server = start(MODEL_NAME=HUNG, MAX_READERS_PER_CALLER="2", TIMEOUT_SECONDS="60")
    run_id = ask(server, "Who reads along?", background=True).json()["id"]
    with reading(server, run_id), reading(server, run_id):
        with reading(server, run_id) as third:
            third.read()
            assert third.status_code == 429, "One caller may open as many streams as there are connections."
            assert third.headers["retry-after"]
        refused = httpx2.post(f"{server}/v1/research/stream", json={"query": "And my own?"}, timeout=30)
        assert_problem(refused, 429)

    def place() -> bool:
        with reading(server, run_id) as response:
            return response.status_code == 200

    assert until(place), "A reader that has left still counts."


def test_reading_events_counts_against_a_limit_of_its_own(start: App) -> None:
    server = start(RATE_LIMIT_RPM="3")
    run_id = ask(server, "How often may I read this?").json()["id"]
    statuses = []
    for _ in range(4):
        with reading(server, run_id) as response:
            statuses.append(response.status_code)
    assert statuses == [200, 200, 200, 429], "A finished run may be read in a loop, by as many as like to."
    assert ask(server, "May I still ask?").status_code == 200


def test_health_answers_while_one_caller_opens_hundreds_of_readers(start: App) -> None:
    server = start(MODEL_NAME="offline?fault=long&tokens=20000&tps=2000", MAX_TOKENS="1000000", MAX_STEPS="0")
    run_id = ask(server, "Who reads all of this?", background=True).json()["id"]

    async def crowd() -> tuple[list[int], list[float]]:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=server, timeout=60, limits=limits) as client:
            statuses: list[int] = []

            async def read() -> None:
                async with client.stream("GET", f"/v1/research/{run_id}/events") as response:
                    statuses.append(response.status_code)
                    async for _ in response.aiter_raw():
                        pass

            readers = [asyncio.create_task(read()) for _ in range(300)]
            seconds = []
            for _ in range(10):
                # By a process of its own: this one is busy with its readers.
                curl = ["curl", "-so", "/dev/null", "-w", "%{time_total}", f"{server}/health"]
                probe = await asyncio.create_subprocess_exec(*curl, stdout=subprocess.PIPE)
                seconds.append(float((await probe.communicate())[0]))
            async with asyncio.timeout(30):
                while len(statuses) < len(readers):  # noqa: ASYNC110  # the readers do not tell
                    await asyncio.sleep(0.1)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            return statuses, seconds

    statuses, seconds = asyncio.run(crowd())
    assert statuses.count(200) <= 50 and statuses.count(429) >= 250, "One caller opens any number of readers."
    assert sorted(seconds)[5] < 1, f"Readers starve the process: /health took {seconds} seconds."


def test_load_beyond_the_queue_is_shed(start: App) -> None:
    server = start(MODEL_NAME=HUNG, MAX_CONCURRENCY="1", MAX_QUEUE="1", TIMEOUT_SECONDS="60")
    replies = [ask(server, f"Load {n}", background=True) for n in range(3)]
    assert [reply.status_code for reply in replies] == [202, 202, 503]
    assert_problem(replies[2], 503)
    assert replies[2].headers["retry-after"] == "1"


def test_a_body_over_the_limit_is_a_413(start: App) -> None:
    assert_problem(ask(start(MAX_BODY_BYTES="100"), "x" * 200), 413)


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_STEPS", "-1"), ("SEARCH_BACKEND", "bing"), ("WEB_CONCURRENCY", "2")]
)
def test_a_bad_setting_stops_the_start_with_one_line_that_names_it(
    lesson_root: Path, name: str, value: str
) -> None:
    command = [sys.executable, "main.py"]
    env = {"OPENAI_API_KEY": "x", name: value}
    run = subprocess.run(
        command, env=env, cwd=lesson_root / "research-agent", capture_output=True, text=True, timeout=20
    )
    assert run.returncode == 1
    assert re.fullmatch(rf"Bad setting {name}: .*\n", run.stderr)


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        ("/health", "GET", GenerationMode.POSITIVE),
        ("/ready", "GET", GenerationMode.POSITIVE),
        *[(path, "POST", mode) for path in ("/v1/research", "/v1/research/stream") for mode in BOTH],
        *[("/v1/research/{run_id}", method, GenerationMode.POSITIVE) for method in ("GET", "DELETE")],
        *[("/v1/research/{run_id}/events", "GET", mode) for mode in BOTH],
    ],
)
def test_no_answer_is_one_that_openapi_does_not_promise(
    start: App, path: str, method: str, mode: GenerationMode
) -> None:
    assert_promises_kept(start(MAX_STEPS="1"), path, method, mode)


# --- Seen from outside ---


def test_every_log_line_of_a_run_has_its_id_and_no_question_is_logged(start: App) -> None:
    server = start(APP_NAME="logs")
    run_id = ask(server, "Is my question in the log?", headers={"X-Request-ID": "trace-me"}).json()["id"]
    lines = until(lambda: [line for line in log_lines(server) if line.get("run_id") == run_id])
    assert lines and lines[0]["request_id"] == "trace-me"
    assert "Is my question" not in server.log.read_text()


def test_runs_steps_and_tokens_are_counted(start: App) -> None:
    server = start(APP_NAME="counted")
    reply = ask(server, QUESTION).json()
    until(lambda: metrics(server).get(("agent_open_streams",)) == 0)
    text = httpx2.get(f"{server}/metrics").text
    assert 'agent_runs_total{outcome="done"} 1.0' in text
    searches = sum(step["tool"] == "web_search" for step in reply["steps"])
    assert f'agent_tool_calls_total{{outcome="ok",tool="web_search"}} {searches}.0' in text
    assert f'agent_tokens_total{{model="offline"}} {reply["tokens_used"]}.0' in text
    assert "agent_time_to_first_token_seconds_count 1.0" in text
    assert "agent_run_seconds_count 1.0" in text


def test_tokens_of_a_run_that_fails_are_counted(start: App) -> None:
    model = "offline?every=2&fault=500"  # a name that no other test calls: its second call fails
    server = start(APP_NAME="paid", MODEL_NAME=model, MODEL_RETRIES="0")
    assert_problem(ask(server, QUESTION), 502)
    counted = metrics(server).get(("agent_tokens_total", model), 0)
    assert counted > 0, "A call that was paid is missing in agent_tokens_total, for its run has failed later."


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_monitors_may_ask_with_head(server: Server, path: str) -> None:
    whole, head = httpx2.get(f"{server}{path}"), httpx2.head(f"{server}{path}")
    assert (head.status_code, head.headers["Content-Type"]) == (200, whole.headers["Content-Type"])
    assert head.content == b""


def test_health_awaits_nothing_and_shows_what_is_known(start: App) -> None:
    server = start(APP_NAME="health")
    health = httpx2.get(f"{server}/health").json()
    assert (health["status"], health["model"]) == ("healthy", "offline")
    assert health["dependencies"] == {"model": "ok", "store": "ok"}
    assert httpx2.get(f"{server}/ready").json()["agent"] == "ready"


def test_a_model_that_is_away_makes_the_agent_unready_and_not_unhealthy(start: App) -> None:
    server = start(OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    assert "model" in assert_problem(httpx2.get(f"{server}/ready"), 503)["detail"]
    assert httpx2.get(f"{server}/health").json()["dependencies"]["model"] == "unreachable"


def test_the_documentation_asks_no_other_site(server: Server) -> None:
    page = httpx2.get(f"{server}/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links and not [link for link in links if link.startswith(("http", "//"))]
    for link in links:
        assert httpx2.get(f"{server}/{link}").status_code == 200


# --- Stopping ---


def test_a_stream_in_flight_finishes_after_sigterm_and_the_exit_is_clean(start: App) -> None:
    server = start(MODEL_NAME="offline?tps=60", DRAIN_SECONDS="20")
    with streaming(server, "What is a namespace?") as (_, events):
        next(events)
        server.process.send_signal(signal.SIGTERM)
        assert list(events)[-1].type == "done"
    assert server.process.wait(10) == 0


def test_a_run_longer_than_the_drain_ends_with_a_word(start: App) -> None:
    server = start(MODEL_NAME="offline?ttft=30", DRAIN_SECONDS="0.5")
    with streaming(server, "What takes so long?") as (_, events):
        assert until(lambda: httpx2.get(f"{server}/metrics").text.count("agent_open_streams 1.0"))
        server.process.send_signal(signal.SIGTERM)
        last = list(events)[-1]
        assert (last.type, last.data["problem"]["status"]) == ("error", 503)
    assert server.process.wait(5) == 0


def test_an_idle_agent_stops_at_once(start: App) -> None:
    server = start(APP_NAME="idle", DRAIN_DELAY_SECONDS="30")
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0
    assert time.monotonic() - began < 5


def test_a_stop_is_heard_while_the_program_still_starts(lesson_root: Path, tmp_path: Path) -> None:
    assert_heard_during_imports(lesson_root / "research-agent/main.py", tmp_path)

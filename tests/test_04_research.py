"""Lesson 04 over HTTP: answers, runs and limits of a real research agent."""

import asyncio
import hashlib
import json
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from schemathesis import GenerationMode
from support.connections import leave_after
from support.openapi import GENERATION_MODES, assert_responses_match_openapi
from support.problems import assert_problem
from support.research import (
    DEEP,
    ask,
    parse_event_id,
    result_of,
    resume,
    state,
    stream,
    streaming,
    text_of,
    tool_results_of,
    unique_question,
    wait_until_finished,
)
from support.servers import (
    HUNG,
    Server,
    StartServer,
    assert_ends_with_zero,
    assert_sigterm_works_during_imports,
    calls,
    log_lines,
    metrics,
)
from support.site import Site, page

from course.polling import until

QUESTION = "What is graceful shutdown?"


@pytest.fixture
def hung(start: StartServer) -> Server:
    """A server whose model never answers. Its runs have so much time that only a client can end them."""
    return start(MODEL_NAME=HUNG, RESUME_GRACE_SECONDS="60")


# --- Answers ---


def test_an_answer_cites_what_the_tools_have_found(server: Server, offline_model: str) -> None:
    reply = result_of(ask(server, QUESTION))
    missing = {"query", "response", "steps", "sources"} - set(reply)
    assert not missing, f"The answer lacks what its readers need: {missing}."
    assert [step["n"] for step in reply["steps"]] == list(range(1, len(reply["steps"]) + 1)), (
        "The steps of the answer are not numbered from 1."
    )
    cited = {int(n) for n in re.findall(r"\[(\d+)\]", reply["response"])}
    assert cited, "The answer cites nothing."
    assert cited <= {source["n"] for source in reply["sources"]}, "A citation points at nothing."
    searched = {step["input"]["query"] for step in reply["steps"] if step["tool"] == "web_search"}
    known = set()
    for query in searched:
        found = httpx2.get(f"{offline_model}/search", params={"q": query, "format": "json"}).json()["results"]
        known |= {result["url"] for result in found}
    unknown = {source["url"] for source in reply["sources"]} - known
    assert not unknown, f"A source has an address that no tool has returned: {', '.join(sorted(unknown))}."
    assert all(1 <= source["step"] <= len(reply["steps"]) for source in reply["sources"]), (
        "A source says that it was found by a step that there was not."
    )


async def test_a_source_keeps_the_address_that_the_search_gave_to_the_letter(
    research_agent: StartServer,
) -> None:
    async with Site() as site:
        url = f"http://{site.host}/a_(b)/index.html?lang=en&q=%C3%A4#part-2"
        found = {"title": "Leases", "url": url, "content": "A lease is a lock that ends by itself."}
        site.pages["/search"] = page(
            json.dumps({"query": "", "results": [found]}).encode(), "application/json"
        )
        site.pages["/a_(b)/index.html"] = page(b"<p>A lease is a lock that ends by itself.")
        agent = research_agent(SEARCH_URL=f"http://{site.host}", FETCH_ALLOWED_HOSTS=site.host)
        reply = result_of(await asyncio.to_thread(ask, agent, "What is a lease, to the letter?"))
    listed = [source["url"] for source in reply["sources"]]
    assert listed == [url], (
        f"The search found {url}, and the answer's sources are {listed}: who follows one comes elsewhere."
    )


def test_a_comparison_marks_what_was_inferred(server: Server) -> None:
    reply = result_of(ask(server, "What is the difference between a thread and a process?"))
    assert re.search(r"^\W*Inferred:", reply["response"], re.MULTILINE), (
        "A comparison that no source makes is not marked as inferred."
    )


def test_the_agent_takes_five_steps_at_most_and_still_answers(server: Server) -> None:
    response = ask(server, DEEP)
    assert response.status_code == 200, (
        "The agent went on when its five steps were used up, and something else had to end it: "
        f"instead of an answer there is an error {response.status_code}."
    )
    steps = len(response.json()["steps"])
    assert steps == 5, f"The agent took {steps} steps, where it may take five and needs them all."
    assert len(response.json()["response"]) > 20, "The steps are used up, and there is no answer."


def assert_says_that_the_search_failed(reply: httpx2.Response, model: str, query: str) -> None:
    assert reply.status_code == 200, "The search failed, and that became an error of the whole request."
    outcome = reply.json()["steps"][0]["outcome"]
    assert outcome == "failed", f"The search failed, and its step says {outcome!r}."
    assert reply.json()["sources"] == [], "The search failed, and yet the answer has sources."
    told = tool_results_of(model, query)[0].strip()
    assert told, "The search failed, and the model is told nothing of it."
    # The offline model says so in its own words, or repeats the error message of the tool.
    said = " ".join(reply.json()["response"].split())
    assert re.search(r"search.*fail", said, re.IGNORECASE) or " ".join(told.split())[:80] in said, (
        f"The search failed, and the answer does not say so. The model was told: {told!r}."
    )


def test_a_failed_search_is_told_to_the_agent_and_the_answer_says_so(
    start: StartServer, offline_model: str
) -> None:
    query = "What is graceful shutdown, without a search?"
    reply = ask(start(SEARCH_URL="http://127.0.0.1:1"), query)
    assert_says_that_the_search_failed(reply, offline_model, query)


def test_ddgs_without_network_gives_an_answer_that_says_so(start: StartServer, offline_model: str) -> None:
    query = "What is graceful shutdown, without a network?"
    proxies = {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    reply = ask(start(SEARCH_BACKEND="ddgs", **proxies), query)
    assert_says_that_the_search_failed(reply, offline_model, query)


def test_the_model_is_told_the_limit_and_gets_no_tools_when_it_is_reached(
    server: Server, offline_model: str
) -> None:
    query = f"{DEEP} And what is a layer?"
    ask(server, query)
    bodies = [call["body"] for call in calls(offline_model, "And what is a layer?")]
    assert "at most 5 steps" in json.dumps(bodies[0]["messages"][0]), "The model is not told its limit."
    assert "tools" not in bodies[-1], (
        "The steps are used up, and the model is offered tools: one that is offered tools will use them."
    )
    assert len(bodies) == 6, f"Five steps and an answer are six calls of the model, not {len(bodies)}."
    assert "All steps are used up" in json.dumps(bodies[-1]), (
        "The model is not told why it has no tools, and cannot say what it did not find out."
    )


def streamed(choice: dict[str, Any], reason: str) -> str:
    """A model's answer as OpenAI streams it, in one chunk."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "eager"}
    pieces = [{"index": 0, "delta": choice}, {"index": 0, "delta": {}, "finish_reason": reason}]
    told = [f"data: {json.dumps(head | {'choices': [piece]})}\n\n" for piece in pieces]
    return "".join([*told, "data: [DONE]\n\n"])


async def test_a_model_that_calls_many_tools_at_once_gets_no_more_steps(
    research_agent: StartServer, offline_model: str
) -> None:
    """A model may ignore `parallel_tool_calls: false`."""
    eager = [
        {"index": n, "id": f"call-{n}", "type": "function"}
        | {"function": {"name": "web_search", "arguments": json.dumps({"query": f"lease {n}"})}}
        for n in range(7)
    ]
    async with Site() as model:

        async def answer(writer: asyncio.StreamWriter) -> None:
            over = '"role":"tool"' in re.sub(r"\s", "", model.bodies[-1])
            told = {"role": "assistant", "content": "Enough."} if over else {"tool_calls": eager}
            body = streamed(told, "stop" if over else "tool_calls").encode()
            await page(body, "text/event-stream")(writer)

        model.pages["/v1/chat/completions"] = answer
        agent = research_agent(OPENAI_BASE_URL=f"http://{model.host}/v1", SEARCH_URL=offline_model)
        reply = result_of(await asyncio.to_thread(ask, agent, "What is a lease, asked seven times at once?"))
    steps = len(reply["steps"])
    assert steps == 5, (
        f"The model called seven tools at once, and {steps} of its calls were carried out, not five."
    )


# --- Streams ---


def test_a_stream_tells_steps_sources_text_and_an_end(server: Server) -> None:
    events = stream(server, "What is a container image?")
    types = [event.type for event in events]
    missing = {"state", "step", "source", "token", "usage", "done"} ^ set(types)
    assert not missing, f"Of these events a stream has too few or too many: {missing}."
    assert types[0] == "state", "A stream does not begin with the run's state."
    assert types.index("step") < types.index("source") < types.index("token"), (
        "Steps, their sources and the text do not come in this order."
    )
    assert types[-2:] == ["usage", "done"], f"A stream ends with {types[-2:]}, not with usage and done."
    ids = [parse_event_id(event.id) for event in events]
    assert ids == sorted(set(ids)), "The ids of the events do not ascend."


def test_a_run_can_be_read_when_it_is_over(server: Server) -> None:
    with streaming(server, "What is a layer of an image?") as (run_id, events):
        told = list(events)
    run = wait_until_finished(server, run_id)
    assert run["result"]["response"] == text_of(told), "The run's result is not the text that was streamed."
    assert resume(server, run_id) == told, "A finished run has other events than it had while it went on."


def test_a_resumed_stream_has_every_event_once(start: StartServer) -> None:
    server = start(MODEL_NAME="offline?tps=100")
    with streaming(server, "What is a volume?", background=True) as (run_id, events):
        first = [next(events) for _ in range(20)]
    rest = resume(server, run_id, first[-1].id)
    whole = resume(server, run_id)
    assert first + rest == whole, "Events came twice, or not at all, when the stream was resumed."
    assert rest[-1].type == "done", "A resumed stream has no end."


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
    assert reply.status_code == 202, (
        f"A run in the background was answered with {reply.status_code}, not 202."
    )
    assert reply.headers["location"].endswith(reply.json()["id"]), "The Location does not lead to the run."
    run = wait_until_finished(server, reply.json()["id"])
    assert run["state"] == "done", f"A run in the background has ended as {run['state']!r}."
    assert run["result"]["response"], "A run in the background has no answer."


# --- Cancellation, deadlines and failures ---


def is_cancelled(model: str, query: str) -> bool:
    """Return True if the caller cancelled the first model call of this query."""
    return bool(calls(model, query)[0]["state"] == "cancelled")


def test_a_deleted_run_is_cancelled_down_to_the_model(hung: Server, offline_model: str) -> None:
    query = unique_question("Who cancels this one?")
    with streaming(hung, query) as (run_id, events):
        assert until(lambda: calls(offline_model, query), 20), "The call never reached the model."
        deleted = httpx2.delete(f"{hung}/v1/research/{run_id}").status_code
        assert deleted == 202, f"A run was to be cancelled, and the answer has status {deleted}, not 202."
        told = [(event.type, event.data) for event in events][1:]
        assert told == [("done", {"reason": "cancelled"})], f"A cancelled run ends with {told}."
    assert until(lambda: is_cancelled(offline_model, query), 20), (
        "The run is cancelled, and the model still works for it."
    )
    ended = wait_until_finished(hung, run_id)["state"]
    assert ended == "cancelled", f"A cancelled run has the state {ended!r}."
    again = httpx2.delete(f"{hung}/v1/research/{run_id}").status_code
    assert again == 202, f"To cancel a run twice is no error, and yet it is a {again}."


def test_a_client_that_leaves_cancels_its_run_down_to_the_model(hung: Server, offline_model: str) -> None:
    query = unique_question("Does the agent notice that nobody waits?")
    leave_after(hung, "/v1/research", query, lambda: calls(offline_model, query))
    assert until(lambda: is_cancelled(offline_model, query), 20), (
        "The client has left, and the model still works for it."
    )


def test_a_client_that_leaves_ends_no_run_that_another_waits_for(hung: Server, offline_model: str) -> None:
    query = unique_question("Who else waits for this one?")
    key = {"Idempotency-Key": uuid.uuid4().hex}
    parts = urlsplit(hung)
    with closing(HTTPConnection(parts.hostname or "", parts.port)) as leaving:
        headers = key | {"Content-Type": "application/json", "X-Request-ID": key["Idempotency-Key"]}
        leaving.request("POST", "/v1/research", json.dumps({"query": query}), headers)
        assert until(lambda: calls(offline_model, query), 20), "The call never reached the model."
        with streaming(hung, query, key) as (run_id, events):
            next(events)
            leaving.close()
            assert until(lambda: key["Idempotency-Key"] in hung.log.read_text(), 20), (
                "The server has not noticed that a client of a plain POST has left."
            )
            now = state(hung, run_id)["state"]
            assert now == "running", (
                f"Two have asked with one Idempotency-Key. One has left, and for the other the run is {now}."
            )
            httpx2.delete(f"{hung}/v1/research/{run_id}")
            list(events)


@pytest.mark.parametrize(("background", "end"), [(False, "cancelled"), (True, "done")])
def test_a_run_without_followers_is_cancelled_unless_it_runs_in_the_background(
    start: StartServer, background: bool, end: str
) -> None:
    server = start(MODEL_NAME="offline?tps=40", RESUME_GRACE_SECONDS="0.5", LEASE_SECONDS="0.6")
    with streaming(server, f"What is graceful shutdown, followed {background}?", background=background) as (
        run_id,
        events,
    ):
        next(events)
    ended = wait_until_finished(server, run_id)["state"]
    assert ended == end, f"No client follows a run (background: {background}), and it ended as {ended!r}."


def test_a_run_has_one_deadline(start: StartServer) -> None:
    server = start(MODEL_NAME=HUNG, TIMEOUT_SECONDS="0.5")
    assert_problem(ask(server, QUESTION), 504)
    last = stream(server, QUESTION)[-1]
    assert last.data.get("problem", {}).get("status") == 504, (
        f"A run was longer than its deadline, and its last event is {last.type} {last.data}."
    )


def test_a_model_that_fails_is_a_502_that_tells_no_secret(start: StartServer) -> None:
    server = start(MODEL_NAME="offline?fault=401", OPENAI_API_KEY="sk-quoted-by-the-model")
    reply = ask(server, QUESTION)
    assert_problem(reply, 502)
    last = stream(server, QUESTION)[-1]
    assert last.type == "error" and last.data["problem"]["status"] == 502, (
        f"The model failed, and the last event is {last.type} {last.data}."
    )
    assert "sk-quoted" not in reply.text + json.dumps(last.data), (
        "The model's error quotes the server's key, and a caller could read it."
    )


def test_a_model_call_that_fails_once_is_tried_again(start: StartServer) -> None:
    server = start(MODEL_NAME="offline?fault=500&every=2", MODEL_RETRIES="2")
    status = ask(server, "Is one failure the end?").status_code
    assert status == 200, f"One call of the model failed, and the whole run with it: {status}."


# --- Idempotency and cache ---


def test_the_same_idempotency_key_gives_the_same_run(server: Server, offline_model: str) -> None:
    query = "Is this one paid twice?"

    async def twice() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(timeout=30, headers={"Idempotency-Key": "once"}) as client:
            posts = [client.post(f"{server}/v1/research", json={"query": query}) for _ in range(5)]
            return await asyncio.gather(*posts)

    replies = asyncio.run(twice())
    assert len({result_of(reply)["id"] for reply in replies}) == 1, (
        "One Idempotency-Key, sent several times, started several runs: they are paid several times."
    )
    firsts = [
        c for c in calls(offline_model, query) if not any(m["role"] == "tool" for m in c["body"]["messages"])
    ]
    assert len(firsts) == 1, (
        f"One Idempotency-Key, and the model was asked from the start {len(firsts)} times."
    )
    other = ask(server, "Another question", headers={"Idempotency-Key": "once"})
    assert other.status_code == 409, (
        "A key that was used for one question came with another, and that is no 409, "
        f"but a {other.status_code}: {other.text}."
    )
    assert_problem(other, 409)


@pytest.fixture
def keyed(start: StartServer) -> Server:
    """A server with two keys: first-key, and second-key, of which it has only the hash."""
    return start(API_KEYS=f"first-key, {HASHED}")


FIRST, SECOND = {"X-API-Key": "first-key"}, {"X-API-Key": "second-key"}
HASHED = "sha256:" + hashlib.sha256(b"second-key").hexdigest()


def test_an_idempotency_key_belongs_to_its_caller(keyed: Server) -> None:
    key = {"Idempotency-Key": "chosen-by-two"}
    first = result_of(ask(keyed, "Whose key is this?", headers=FIRST | key))["id"]
    second = ask(keyed, "Whose key is this?", headers=SECOND | key)
    assert second.status_code == 200 and second.json()["id"] != first, (
        "Two callers have chosen the same Idempotency-Key by chance, and one gets in the other's way "
        f"({second.status_code})."
    )


def test_an_equal_question_is_answered_from_the_cache_for_the_same_caller(keyed: Server) -> None:
    ids = [result_of(ask(keyed, "Is this kept?", headers=who))["id"] for who in (FIRST, FIRST, SECOND)]
    assert ids[0] == ids[1], "A caller asked the same question twice, and paid for two runs."
    assert ids[0] != ids[2], "A caller got an answer that was made for another."


# --- Callers ---


def test_a_key_is_needed_when_keys_are_set_and_may_be_set_as_a_hash(keyed: Server) -> None:
    assert_problem(ask(keyed, QUESTION), 401)
    assert_problem(ask(keyed, QUESTION, headers={"X-API-Key": HASHED}), 401)
    for key in (FIRST, SECOND):
        status = ask(keyed, QUESTION, headers=key).status_code
        assert status == 200, f"A caller with a valid key gets {status}."
    for path in ("/", "/ready"):
        status = httpx2.get(f"{keyed}{path}").status_code
        assert status == 200, f"{path} needs no key, and answers {status} without one."
    assert not re.search("first-key|second-key", keyed.log.read_text()), "A caller's key stands in the log."


def test_a_run_is_visible_only_to_its_caller(keyed: Server) -> None:
    run_id = result_of(ask(keyed, "Whose is this?", headers=FIRST))["id"]
    for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
        reply = httpx2.request(method, f"{keyed}/v1/research/{run_id}{path}", headers=SECOND)
        assert_problem(reply, 404)


def test_the_rate_limit_holds_and_says_when_to_come_back(start: StartServer) -> None:
    server = start(RATE_LIMIT_RPM="2")
    replies = [ask(server, QUESTION) for _ in range(3)]
    statuses = [reply.status_code for reply in replies]
    assert statuses == [200, 200, 429], (
        f"Two requests a minute are allowed, and three are answered {statuses}."
    )
    wait = int(replies[2].headers["retry-after"])
    assert 1 <= wait <= 61, f"A minute is over in at most 60 seconds, and Retry-After says {wait}."
    left = replies[0].headers["ratelimit"]
    assert re.match(r'"minute";r=1;t=\d+$', left), f"One request is left, and the header says {left}."


def test_a_caller_may_have_so_many_runs_at_once(start: StartServer) -> None:
    server = start(MODEL_NAME=HUNG, MAX_RUNS_PER_CALLER="2", TIMEOUT_SECONDS="60")
    ids = [ask(server, f"Mine, {n}", background=True).json()["id"] for n in range(2)]
    refused = ask(server, "Mine, too", background=True)
    assert_problem(refused, 429)
    assert refused.headers.get("retry-after"), "A caller is refused without a Retry-After."
    for run_id in ids:
        httpx2.delete(f"{server}/v1/research/{run_id}")
    assert until(lambda: ask(server, "And now?", background=True).status_code == 202, 20), (
        "A caller's runs have ended, and new ones are refused."
    )


@contextmanager
def reading(url: str, run_id: str) -> Iterator[httpx2.Response]:
    with httpx2.stream("GET", f"{url}/v1/research/{run_id}/events", timeout=30) as response:
        yield response


def test_a_caller_may_read_so_many_streams_at_once_and_gets_the_place_back(start: StartServer) -> None:
    server = start(MODEL_NAME=HUNG, MAX_READERS_PER_CALLER="2", TIMEOUT_SECONDS="60")
    run_id = ask(server, "What is graceful shutdown, read along?", background=True).json()["id"]
    with reading(server, run_id), reading(server, run_id):
        with reading(server, run_id) as third:
            third.read()
            assert third.status_code == 429, "One caller may open as many streams as there are connections."
            assert third.headers.get("retry-after"), "A reader is refused without a Retry-After."
        refused = httpx2.post(f"{server}/v1/research/stream", json={"query": "And my own?"}, timeout=30)
        assert_problem(refused, 429)

    def place() -> bool:
        with reading(server, run_id) as response:
            return response.status_code == 200

    assert until(place), "A reader that has left still counts."


def test_reading_events_counts_against_a_limit_of_its_own(start: StartServer) -> None:
    server = start(RATE_LIMIT_RPM="3")
    run_id = ask(server, "How often may I read this?").json()["id"]
    statuses = []
    for _ in range(4):
        with reading(server, run_id) as response:
            statuses.append(response.status_code)
    assert statuses == [200, 200, 200, 429], "A finished run may be read in a loop, by as many as like to."
    status = ask(server, "May I still ask?").status_code
    assert status == 200, f"A caller who may read no more asks a question, and gets {status}, not 200."


@pytest.mark.serial
def test_health_answers_while_one_caller_opens_1500_readers(start: StartServer) -> None:
    server = start(
        MODEL_NAME="offline?fault=long&tokens=100000&tps=2000", MAX_TOKENS="1000000", MAX_STEPS="0"
    )
    run_id = ask(server, "Who reads all of this?", background=True).json()["id"]
    address = urlsplit(server)
    request = f"GET /v1/research/{run_id}/events HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    statuses: list[int] = []

    async def read() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        with closing(writer):
            writer.write(request)
            statuses.append(int((await reader.readline()).split()[1]))
            while await reader.read(65_536):  # the server keeps the connection of a refused reader for 5 s
                pass

    async def crowd() -> list[float]:
        readers = [asyncio.create_task(read()) for _ in range(1_500)]
        seconds: list[float] = []
        while len(seconds) < 10 or len(statuses) < len(readers):
            # In another process, because this one is busy with its readers.
            curl = ["curl", "-so", "/dev/null", "-m", "20", "-w", "%{time_total}", f"{server}/health"]
            probe = await asyncio.to_thread(subprocess.run, curl, stdout=subprocess.PIPE, check=True)
            seconds.append(float(probe.stdout))
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        return sorted(seconds)

    seconds = asyncio.run(asyncio.wait_for(crowd(), 240))
    assert statuses.count(200) <= 50, "One caller opens any number of readers."
    assert statuses.count(429) >= 1_450, f"Readers are not refused: {set(statuses)}."
    starved = f"Readers starve the process: /health took {seconds} seconds."
    assert seconds[len(seconds) // 2] < 3, starved
    assert seconds[-1] < 10, starved  # the requests of all readers are refused before this probe


def test_load_beyond_the_queue_is_shed(start: StartServer) -> None:
    server = start(MODEL_NAME=HUNG, MAX_CONCURRENCY="1", MAX_QUEUE="1", TIMEOUT_SECONDS="60")
    replies = [ask(server, f"Load {n}", background=True) for n in range(3)]
    statuses = [reply.status_code for reply in replies]
    assert statuses == [202, 202, 503], (
        f"There is a place for one run and one that waits, and three are answered {statuses}."
    )
    assert_problem(replies[2], 503)
    wait = replies[2].headers.get("retry-after")
    assert wait == "1", f"A client that was shed may come back in a second, and Retry-After says {wait}."


def test_a_body_over_the_limit_is_a_413(server: Server) -> None:
    assert_problem(ask(server, "x" * 70_000), 413)


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_STEPS", "-1"), ("SEARCH_BACKEND", "bing"), ("WEB_CONCURRENCY", "2")]
)
def test_a_bad_setting_stops_the_start_with_one_line_that_names_it(
    lesson_root: Path, name: str, value: str
) -> None:
    command = [sys.executable, "main.py"]
    env = {"OPENAI_API_KEY": "x", name: value}
    run = subprocess.run(
        command, env=env, cwd=lesson_root / "research-agent", capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1, (
        f"{name}={value} is a bad setting, and the program ends with {run.returncode}."
    )
    assert re.fullmatch(rf"Bad setting {name}: .*\n", run.stderr), (
        f"{name}={value} is a bad setting, and there is not one line that names it, but this: {run.stderr!r}."
    )


def test_the_old_name_of_the_search_backend_still_works_and_is_logged(start: StartServer) -> None:
    server = start(SEARCH_BACKEND="offline", APP_NAME="renamed")
    assert result_of(ask(server, QUESTION))["sources"], "SEARCH_BACKEND=offline finds nothing any more."
    lines = [line["event"] for line in log_lines(server) if "SEARCH_BACKEND" in line["event"]]
    assert len(lines) == 1 and "searxng" in lines[0], f"The log does not name the new value once: {lines}."


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        ("/health", "GET", GenerationMode.POSITIVE),
        ("/ready", "GET", GenerationMode.POSITIVE),
        *[
            (path, "POST", mode)
            for path in ("/v1/research", "/v1/research/stream")
            for mode in GENERATION_MODES
        ],
        *[("/v1/research/{run_id}", method, GenerationMode.POSITIVE) for method in ("GET", "DELETE")],
        *[("/v1/research/{run_id}/events", "GET", mode) for mode in GENERATION_MODES],
    ],
)
def test_every_response_matches_the_openapi_document(
    start: StartServer, path: str, method: str, mode: GenerationMode
) -> None:
    assert_responses_match_openapi(start(MAX_STEPS="1"), path, method, mode)


# --- Logs, metrics and health ---


def test_every_log_line_of_a_run_has_its_id_and_no_question_is_logged(server: Server) -> None:
    asked = ask(server, "Is my question in the log?", headers={"X-Request-ID": "trace-me"})
    run_id = result_of(asked)["id"]
    lines = until(lambda: [line for line in log_lines(server) if line.get("run_id") == run_id])
    assert lines, "No line of the log has the run's id."
    assert lines[0]["request_id"] == "trace-me", "A line of the log lacks the id of the run's request."
    assert "Is my question" not in server.log.read_text(), "What a caller has asked stands in the log."


def test_runs_steps_and_tokens_are_counted(start: StartServer) -> None:
    server = start(APP_NAME="counted")
    reply = result_of(ask(server, QUESTION))
    until(lambda: metrics(server).get(("agent_open_streams",)) == 0)
    text = httpx2.get(f"{server}/metrics").text
    searches = sum(step["tool"] == "web_search" for step in reply["steps"])
    for line in (
        'agent_runs_total{outcome="done"} 1.0',
        f'agent_tool_calls_total{{outcome="ok",tool="web_search"}} {searches}.0',
        f'agent_tokens_total{{model="offline"}} {reply["tokens_used"]}.0',
        "agent_time_to_first_token_seconds_count 1.0",
        "agent_run_seconds_count 1.0",
    ):
        assert line in text, f"After one run the metrics lack this line: {line}."


def test_tokens_of_a_run_that_fails_are_counted(start: StartServer) -> None:
    model = "offline?every=2&fault=500"  # no other test uses this name, so its second call is ours, and fails
    server = start(APP_NAME="paid", MODEL_NAME=model, MODEL_RETRIES="0")
    assert_problem(ask(server, QUESTION), 502)
    counted = metrics(server).get(("agent_tokens_total", model), 0)
    assert counted > 0, "A call that was paid is missing in agent_tokens_total, for its run has failed later."


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_monitors_may_ask_with_head(server: Server, path: str) -> None:
    whole, head = httpx2.get(f"{server}{path}"), httpx2.head(f"{server}{path}")
    assert head.status_code == 200, f"A monitor asks for {path} with HEAD, and gets {head.status_code}."
    assert head.headers["Content-Type"] == whole.headers["Content-Type"], (
        f"HEAD of {path} names another Content-Type than GET."
    )
    assert head.content == b"", f"The answer to HEAD of {path} has a body."


def test_health_awaits_nothing_and_shows_what_is_known(server: Server) -> None:
    health = httpx2.get(f"{server}/health").json()
    shown = {key: health[key] for key in ("status", "model", "dependencies")}
    expected = {
        "status": "healthy",
        "model": "offline",
        "dependencies": {"model": "ok", "store": "ok"},
    }
    assert shown == expected, f"All is well, and /health shows {shown}."
    ready = httpx2.get(f"{server}/ready").json()
    assert ready.get("agent") == "ready", f"All is well, and /ready says {ready}."


def test_a_model_that_is_away_makes_the_agent_unready_and_not_unhealthy(start: StartServer) -> None:
    server = start(OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    detail = assert_problem(httpx2.get(f"{server}/ready"), 503)["detail"]
    assert "model" in detail, f"The model is away, and /ready does not name it: {detail!r}."
    known = httpx2.get(f"{server}/health").json()["dependencies"]["model"]
    assert known == "unreachable", f"The model is away, and /health shows it as {known!r}."


def test_the_documentation_asks_no_other_site(server: Server) -> None:
    links = re.findall(r'(?:src|href)="([^"]+)"', httpx2.get(f"{server}/docs").text)
    assert links, "The documentation's page names no file at all."
    elsewhere = [link for link in links if link.startswith(("http", "//"))]
    assert not elsewhere, f"The documentation asks another site, which may be away or hostile: {elsewhere}."
    for link in links:
        status = httpx2.get(f"{server}/{link}").status_code
        assert status == 200, f"The documentation asks for {link}, and gets {status}."


# --- Stopping ---


def test_a_stream_in_flight_finishes_after_sigterm_and_the_exit_is_clean(start: StartServer) -> None:
    server = start(MODEL_NAME="offline?tps=60", DRAIN_SECONDS="20")
    with streaming(server, "What is a namespace?") as (_, events):
        next(events)
        server.process.send_signal(signal.SIGTERM)
        last = list(events)[-1]
        assert last.type == "done", f"A stream in flight was cut off by the stop, at an event {last.type}."
    assert_ends_with_zero(server)


def test_a_run_longer_than_the_drain_ends_with_an_error_event(start: StartServer) -> None:
    server = start(MODEL_NAME="offline?ttft=60", DRAIN_SECONDS="0.5")
    with streaming(server, "What takes so long?") as (_, events):
        next(events)
        server.process.send_signal(signal.SIGTERM)
        last = list(events)[-1]
        assert last.type == "error" and last.data["problem"]["status"] == 503, (
            f"A run was longer than the drain, and its last event is {last.type} {last.data}."
        )
    assert_ends_with_zero(server)


def test_sigterm_during_the_imports_stops_the_program(lesson_root: Path, tmp_path: Path) -> None:
    assert_sigterm_works_during_imports(lesson_root / "research-agent/main.py", tmp_path)

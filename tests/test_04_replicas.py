"""Several replicas of the research agent on one Redis: a run outlives the replica that began it."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress

import httpx2
import pytest
from conftest import App, RedisServer, Server, calls, until
from test_01_basic_api import assert_problem
from test_02_production_api import metrics
from test_04_research import Event, ask, pair, resume, state, streaming, text_of

PACED = "offline?tps=40"

Replica = Callable[..., Server]


@pytest.fixture
def replica(research_agent: App, redis_server: RedisServer) -> Replica:
    """Starts a replica by name; the same name and settings are the same replica while it lives."""
    redis_server.start()

    def start(name: str, **settings: str) -> Server:
        limits = {"RATE_LIMIT_RPM": "100000", "MAX_RUNS_PER_CALLER": "1000", "MODEL_NAME": PACED}
        return research_agent(REDIS_URL=redis_server.url, APP_NAME=name, **(limits | settings))

    return start


def test_a_run_can_be_followed_at_any_replica(replica: Replica) -> None:
    with streaming(replica("a"), "What can be followed anywhere?") as (run_id, events):
        here = [next(events) for _ in range(10)]
        there = resume(replica("b"), run_id)
        here += events
    assert there == here, "The two replicas tell different events of one run."


def test_a_stream_resumes_at_another_replica_with_every_event_once(replica: Replica) -> None:
    with streaming(replica("a"), "What resumes elsewhere?") as (run_id, events):
        first = [next(events) for _ in range(10)]
    rest = resume(replica("b"), run_id, first[-1].id)
    assert first + rest == resume(replica("a"), run_id)
    assert rest[-1].type == "done", "nobody followed at one replica, but somebody did at another"


def test_a_run_whose_replica_was_killed_goes_on_at_another_from_its_last_step(
    replica: Replica, offline_model: str
) -> None:
    query = "Who finishes what a killed replica began?"
    other = replica("b")
    doomed = replica("doomed")
    with streaming(doomed, query, background=True) as (run_id, events):
        told: list[Event] = []
        while len([event for event in told if event.type == "token"]) < 10:
            told.append(next(events))
        doomed.process.kill()
        with suppress(httpx2.RemoteProtocolError):
            for event in events:
                told.append(event)  # kept, although the stream is cut in the middle
    rest = resume(other, run_id, told[-1].id)
    assert rest[0].type == "reset" and rest[0].id.startswith("1-"), (
        "Half an answer stands, and nothing withdrew it."
    )
    assert [event.type for event in rest].count("step") == 0, "A finished step was done again."
    assert rest[-1].type == "done"
    result = state(other, run_id)["result"]
    assert text_of(rest) == result["response"]
    assert [step["n"] for step in result["steps"]] == [e.data["n"] for e in told if e.type == "step"]
    begun = [call for call in calls(offline_model, query) if call["body"]["messages"][-1]["role"] == "user"]
    assert len(begun) == 1, "The model was asked again for a step that was finished."
    ids = [pair(event.id) for event in told + rest]
    assert ids == sorted(set(ids))


def test_a_run_longer_than_the_drain_is_handed_over(replica: Replica) -> None:
    other = replica("b")
    leaving = replica("leaving", DRAIN_SECONDS="0.3")
    with streaming(leaving, "What is graceful shutdown, when a replica leaves?") as (run_id, events):
        told = [next(events) for _ in range(10)]
        leaving.process.send_signal(signal.SIGTERM)
        told += events
    assert leaving.process.wait(10) == 0
    assert told[-1].type not in ("done", "error"), "the run was ended, though another replica was there"
    began = time.monotonic()
    rest = resume(other, run_id, told[-1].id)
    assert rest[0].type == "reset" and rest[-1].type == "done"
    assert time.monotonic() - began < 15
    assert text_of(rest) == state(other, run_id)["result"]["response"]


def test_a_run_can_be_cancelled_at_any_replica(replica: Replica) -> None:
    with streaming(replica("slow", MODEL_NAME="offline?ttft=60"), "Who cancels from afar?") as (
        run_id,
        events,
    ):
        next(events)
        assert httpx2.delete(f"{replica('b')}/v1/research/{run_id}").status_code == 202
        assert [*events][-1].data == {"reason": "cancelled"}


def test_an_idempotency_key_holds_at_every_replica(replica: Replica) -> None:
    key = {"Idempotency-Key": "everywhere"}
    first = ask(replica("a"), "Asked here and there?", headers=key, background=True).json()["id"]
    second = ask(replica("b"), "Asked here and there?", headers=key, background=True).json()["id"]
    assert first == second


def test_the_rate_limit_holds_over_all_replicas(replica: Replica, redis_server: RedisServer) -> None:
    limited = {"RATE_LIMIT_RPM": "2", "API_KEYS": "shared-key"}
    servers = [replica(name, **limited) for name in "ab"]
    key = {"X-API-Key": "shared-key"}
    statuses = [ask(server, "How often?", headers=key, background=True).status_code for server in servers * 2]
    assert statuses == [202, 202, 429, 429], "Two replicas let a caller ask twice as often as one."


def test_a_run_goes_on_while_redis_is_away_and_is_there_when_it_is_back(
    replica: Replica, redis_server: RedisServer
) -> None:
    server = replica("a")
    with streaming(server, "What happens while Redis is away?") as (run_id, events):
        told = [next(events) for _ in range(10)]
        redis_server.kill()
        assert until(lambda: httpx2.get(f"{server}/ready").status_code == 503)
        assert "store" in httpx2.get(f"{server}/ready").json()["detail"]
        began = time.monotonic()
        assert_problem(httpx2.get(f"{server}/v1/research/unknown"), 503)
        assert_problem(ask(server, "Is anybody there?"), 503)
        assert time.monotonic() - began < 5, "Without Redis a request hangs."
        assert httpx2.get(f"{server}/health").status_code == 200
        told += events
    assert told[-1].type == "done", "The run ended with Redis."
    redis_server.start()
    assert until(lambda: httpx2.get(f"{server}/ready").status_code == 200, 10)
    assert until(lambda: state(server, run_id).get("state") == "done", 10)
    assert resume(replica("b"), run_id) == told, "What was said while Redis was away is not there."


def test_workers_share_their_runs_and_add_up_their_metrics(replica: Replica) -> None:
    server = replica("workers", WEB_CONCURRENCY="2")
    ids = [ask(server, f"Which worker, {n}?", background=True).json()["id"] for n in range(4)]
    for run_id in ids:
        assert resume(server, run_id)[-1].type == "done"
    posts = ("agent_requests_total", "POST", "/v1/research", "202")
    assert {metrics(server).get(posts) for _ in range(6)} == {4}
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0

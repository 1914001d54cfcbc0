"""Several replicas of the research agent on one Redis: a run outlives the replica that began it."""

import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import redis
from support.problems import assert_problem
from support.research import ask, parse_event_id, resume, state, stream, streaming, text_of, unique_question
from support.servers import Server, StartServer, assert_ends_with_zero, calls, log_lines, metrics
from support.store import until_claimed
from support.streams import Event

from app.models import Run, StoredRun
from app.runs.stores.redis import RedisStore
from course.engines.redis import RedisServer
from course.paths import ROOT
from course.polling import until

PACED = "offline?tps=40"

Replica = Callable[..., Server]


@pytest.fixture
def replica(research_agent: StartServer, redis_server: RedisServer, lesson_root: Path) -> Replica:
    """Starts a replica by name. The same name and settings give the same replica while it runs."""
    redis_server.start()
    # The course's replicas must not take over runs of a broken copy. Database 1 belongs to test_04_store.
    url = redis_server.url if lesson_root == ROOT else redis_server.url.removesuffix("/0") + "/3"

    def start(name: str, **settings: str) -> Server:
        limits = {"RATE_LIMIT_RPM": "100000", "MAX_RUNS_PER_CALLER": "1000", "MODEL_NAME": PACED}
        return research_agent(**({"REDIS_URL": url, "APP_NAME": name} | limits | settings))

    return start


databases = itertools.count(4)  # of Redis's 16


@pytest.fixture
def own_redis_url(redis_server: RedisServer) -> str:
    """A database of its own for this test: replicas of other tests would take over its runs."""
    redis_server.start()
    return redis_server.url.removesuffix("/0") + f"/{next(databases)}"


@pytest.fixture
async def short_leases(own_redis_url: str) -> AsyncIterator[RedisStore]:
    """A store whose leases expire at once, as if each replica were killed."""
    store = RedisStore(own_redis_url, lease=0.05, ttl=60, max_seconds=60)
    yield store
    await store.close()


def test_a_run_can_be_followed_at_any_replica(replica: Replica) -> None:
    with streaming(replica("a"), "What is graceful shutdown, followed from anywhere?") as (run_id, events):
        here = [next(events) for _ in range(10)]
        there = resume(replica("b"), run_id)
        here += events
    assert there == here, "The two replicas tell different events of one run."


def test_a_stream_resumes_at_another_replica_with_every_event_once(replica: Replica) -> None:
    with streaming(replica("a"), "What is graceful shutdown, resumed elsewhere?") as (run_id, events):
        first = [next(events) for _ in range(10)]
    rest = resume(replica("b"), run_id, first[-1].id)
    assert first + rest == resume(replica("a"), run_id), (
        "Events came twice, or not at all, when the stream was resumed at another replica."
    )
    assert rest[-1].type == "done", "The run was cancelled although a client followed it at another replica."


def test_a_run_whose_replica_was_killed_goes_on_at_another_from_its_last_step(
    replica: Replica, offline_model: str
) -> None:
    query = unique_question("Who finishes what a killed replica began?")
    other = replica("b")
    doomed = replica("doomed")
    with streaming(doomed, query, background=True) as (run_id, events):
        told: list[Event] = []
        while len([event for event in told if event.type == "token"]) < 10:
            told.append(next(events))
        doomed.process.kill()
        with suppress(httpx2.RemoteProtocolError):
            for event in events:
                told.append(event)  # the events before the stream was cut count
    rest = resume(other, run_id, told[-1].id)
    resets = [event.id for event in rest if event.type == "reset"]
    assert resets, "Half an answer stands, and nothing withdrew it."
    assert resets == ["1-1"], f"The next epoch begins with one reset, and here are {resets}."
    assert "step" not in [event.type for event in rest], "A finished step was done again."
    assert rest[-1].type == "done", f"Another replica went on with the run, and ended it with {rest[-1]}."
    result = state(other, run_id)["result"]
    assert text_of([*told, *rest]) == result["response"], (
        "A client that followed the whole stream shows another text than the run's answer, "
        "although half of it was withdrawn."
    )
    known = [event.data["n"] for event in told if event.type == "step"]
    assert [step["n"] for step in result["steps"]] == known, "The stream has other steps than the result."
    asked = [
        [message["role"] for message in call["body"]["messages"]] for call in calls(offline_model, query)
    ]
    assert len([roles for roles in asked if "tool" not in roles]) == 1, (
        "The model was asked again for a step that was finished."
    )
    ids = [parse_event_id(event.id) for event in told + rest]
    assert list(dict.fromkeys(ids)) == sorted({*ids}), (
        "The ids of a run that changed its replica do not ascend."
    )


def test_a_waiting_caller_is_told_that_the_run_was_handed_over(replica: Replica, offline_model: str) -> None:
    replica("b")
    query = "What is graceful shutdown, when the caller waits for the whole answer?"
    leaving = replica("leaving", DRAIN_SECONDS="0.3", MODEL_NAME="offline?tps=10")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, leaving, query)
        assert until(lambda: calls(offline_model, query), 20), "The run does not begin."
        leaving.process.send_signal(signal.SIGTERM)
        reply = asked.result(30)
    assert_problem(reply, 503)
    assert "Location" in reply.headers, "The answer has no Location of the run, which goes on elsewhere."


def test_a_run_longer_than_the_drain_is_handed_over(replica: Replica) -> None:
    other = replica("b")
    # The lease would expire after a minute. The run goes on sooner, because it is handed over.
    leaving = replica("leaving", DRAIN_SECONDS="0.3", LEASE_SECONDS="60")
    with streaming(leaving, "What is graceful shutdown, when a replica leaves?") as (run_id, events):
        told = [next(events) for _ in range(10)]
        leaving.process.send_signal(signal.SIGTERM)
        told += events
    assert_ends_with_zero(leaving)
    assert told[-1].type not in ("done", "error"), "The run was ended, though another replica was there."
    began = time.monotonic()
    rest = resume(other, run_id, told[-1].id)
    assert time.monotonic() - began < 30, (
        "The run went on only when the lease of the replica that left had ended."
    )
    assert "reset" in [event.type for event in rest], "Half an answer stands, and nothing withdrew it."
    assert rest[-1].type == "done", f"Another replica went on with the run, and ended it with {rest[-1]}."
    assert text_of([*told, *rest]) == state(other, run_id)["result"]["response"], (
        "A client that followed the whole stream shows another text than the run's answer, "
        "although half of it was withdrawn."
    )


def test_a_run_can_be_cancelled_at_any_replica(replica: Replica) -> None:
    with streaming(replica("slow", MODEL_NAME="offline?ttft=60"), "Who cancels from afar?") as (
        run_id,
        events,
    ):
        next(events)
        status = httpx2.delete(f"{replica('b')}/v1/research/{run_id}").status_code
        assert status == 202, f"A replica was asked to cancel another's run, and answered {status}."
        last = [*events][-1]
        assert last.data == {"reason": "cancelled"}, f"A cancelled run ends with {last.type} {last.data}."


def test_an_idempotency_key_holds_at_every_replica(replica: Replica) -> None:
    key = {"Idempotency-Key": "everywhere"}
    first = ask(replica("a"), "Asked here and there?", headers=key, background=True).json()["id"]
    second = ask(replica("b"), "Asked here and there?", headers=key, background=True).json()["id"]
    assert first == second, "One Idempotency-Key, sent to two replicas, started two runs."


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
    with streaming(server, "What is graceful shutdown, while Redis is away?") as (run_id, events):
        told = [next(events) for _ in range(10)]
        redis_server.kill()
        assert until(lambda: httpx2.get(f"{server}/ready").status_code == 503, 20), (
            "Redis is away, and the replica is ready all the same."
        )
        detail = httpx2.get(f"{server}/ready").json()["detail"]
        assert "store" in detail, f"Redis is away, and /ready does not name it: {detail!r}."
        began = time.monotonic()
        assert_problem(httpx2.get(f"{server}/v1/research/unknown"), 503)
        assert_problem(ask(server, "Is anybody there?"), 503)
        assert time.monotonic() - began < 15, "Without Redis a request hangs."
        status = httpx2.get(f"{server}/health").status_code
        assert status == 200, f"Redis is away, the process is well, and /health answers {status}."
        told += events
    assert told[-1].type == "done", "The run ended with Redis."
    redis_server.start()
    assert until(lambda: httpx2.get(f"{server}/ready").status_code == 200, 20), (
        "Redis is back, and the replica is not ready."
    )
    assert until(lambda: state(server, run_id).get("state") == "done", 20), (
        "The run ended while Redis was away, and Redis never hears of it."
    )
    other = replica("b")
    assert until(lambda: httpx2.get(f"{other}/ready").status_code == 200, 20), (
        "Redis is back, and another replica is not ready."
    )
    assert resume(other, run_id) == told, "What was said while Redis was away is not there."


def test_a_long_run_that_redis_has_missed_is_written_when_it_is_back(
    replica: Replica, redis_server: RedisServer
) -> None:
    server = replica("long", MODEL_NAME="offline?fault=long&tokens=5000", MAX_TOKENS="100000", MAX_STEPS="0")
    with streaming(server, "What is longer than Lua's stack?") as (run_id, events):
        told = [next(events)]
        redis_server.kill()
        told += events
    assert told[-1].type == "done" and len(told) > 4000, (
        f"After {len(told)} events the run ended with {told[-1]}; the log: {log_lines(server)[-5:]}"
    )
    redis_server.start()
    assert until(lambda: state(replica("b"), run_id).get("state") == "done", 20), (
        "A run of thousands of unwritten events is never stored, though its reader got the event `done`."
    )
    assert resume(replica("b"), run_id) == told, (
        "Redis is back, and another replica shows other events of the run than its reader got."
    )


def test_a_run_whose_writes_are_refused_fails_alone(replica: Replica, own_redis_url: str) -> None:
    server = replica("refused", REDIS_URL=own_redis_url)
    with (
        streaming(server, "What is graceful shutdown, when a key is broken?") as (poisoned, broken),
        streaming(server, "What is graceful shutdown, for the neighbour?") as (_, events),
        redis.Redis.from_url(own_redis_url) as client,
    ):
        next(broken)
        next(events)
        client.set(f"run:{poisoned}", "not a hash")
        last = [*broken][-1]
        assert last.type == "error", "A run that cannot be stored is reported as done."
        status = last.data["problem"]["status"]
        assert status == 503, f"The error of a run that cannot be stored has status {status}, not 503."
        assert httpx2.get(f"{server}/ready").status_code == 200, "One run's trouble makes a replica unready."
        end = [*events][-1]
        assert end.type == "done", f"One run cannot be stored, and another ended with {end.type} {end.data}."
    lines = log_lines(server)
    assert not [line for line in lines if line["event"] == "the store is down"], (
        "One refused write counts as a store that is down."
    )
    why = [line for line in lines if line.get("run_id") == poisoned and "WRONGTYPE" in str(line.get("error"))]
    assert why, "The log does not say why Redis refused to store the run."
    client.delete(f"run:{poisoned}")


@pytest.mark.parametrize("way", ["stream", "post", "state"])
def test_no_client_is_told_of_an_end_that_is_not_stored(
    replica: Replica, own_redis_url: str, way: str
) -> None:
    """If the replica were killed now, another one would produce a different answer."""
    server = replica("unstored", REDIS_URL=own_redis_url, MODEL_NAME="offline?tps=100")
    query = f"What is graceful shutdown, stored by {way}?"
    with redis.Redis.from_url(own_redis_url) as client, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(ask if way == "post" else stream, server, query)
        leases = until(lambda: client.zrange("leases", 0, -1), 10)
        assert len(leases) == 1, f"One question was asked, and Redis has leases of {len(leases)} runs, not 1."
        run_id = leases[0].decode()
        assert until(
            lambda: any(b'"token"' in e[b"event"] for _, e in client.xrange(f"events:{run_id}")), 20
        ), "The run never stored a token in Redis."
        client.execute_command("CLIENT", "PAUSE", 1500, "WRITE")  # shorter than the timeout of a hang
        if way == "state":
            assert until(lambda: state(server, run_id)["state"] == "done", 20), (
                "Redis pauses its writes for 1.5 seconds, and the run is not done after 20."
            )
        else:
            reply.result()
        last = client.xrevrange(f"events:{run_id}", count=1)
        assert last and b'"done"' in last[0][1][b"event"], (
            "A client has the last event and Redis has not: a kill -9 would change the answer."
        )


async def claimed_by_replicas_that_end(store: RedisStore, times: int) -> StoredRun:
    """A run that so many replicas have claimed and neither written nor released."""
    run = StoredRun(run=Run(query="Who survives this run?"), caller="127.0.0.1", request_id="r")
    await store.create(run, None, 10)
    for _ in range(times):
        await until_claimed(store)
    return run


async def test_a_run_that_ends_its_replicas_is_given_up_after_three_takeovers(
    replica: Replica, short_leases: RedisStore, own_redis_url: str
) -> None:
    run = await claimed_by_replicas_that_end(short_leases, 3)
    server = replica("last", REDIS_URL=own_redis_url, LEASE_SECONDS="0.6")
    last = resume(server, run.run.id)[-1]
    assert last.type == "error", "A run that has ended three replicas is begun by a fourth."
    detail = last.data["problem"]["detail"]
    assert "given up" in detail, (
        f"A run has ended three replicas, and its error does not say that it was given up: {detail!r}."
    )
    assert until(lambda: state(server, run.run.id)["state"] == "failed"), (
        "A run that ended with an error does not get the state `failed`."
    )
    assert await short_leases.redis.zcard("leases") == 0, "A run that was given up is claimed again."


async def test_a_handed_over_run_is_not_counted_as_a_takeover(
    short_leases: RedisStore,
) -> None:
    run = await claimed_by_replicas_that_end(short_leases, 0)
    for _ in range(5):
        await short_leases.release(run.run.id)
        claimed = await until_claimed(short_leases)
        assert claimed.takeovers == 0, "Five orderly restarts would give up a healthy run."


async def test_a_record_that_cannot_be_read_is_given_up_and_not_claimed_for_ever(
    replica: Replica, short_leases: RedisStore, own_redis_url: str
) -> None:
    run = await claimed_by_replicas_that_end(short_leases, 0)
    await short_leases.redis.hset(f"run:{run.run.id}", "record", '{"run": 1')
    server = replica("reader", REDIS_URL=own_redis_url, LEASE_SECONDS="0.6")
    assert until(lambda: httpx2.get(f"{server}/v1/research/{run.run.id}").status_code == 200, 15), (
        "A record that cannot be read is claimed again at the end of each lease."
    )
    problem = state(server, run.run.id)["problem"]
    assert problem and "given up" in problem["detail"], (
        f"The record of a run cannot be read, and its problem does not say that it was given up: {problem}."
    )
    assert await short_leases.redis.zcard("leases") == 0, "A run that was given up still has a lease."


def test_200_posts_do_not_wait_for_a_redis_that_hangs(
    replica: Replica, own_redis_url: str, redis_server: RedisServer
) -> None:
    server = replica("hung", REDIS_URL=own_redis_url)
    status = ask(server, "Is Redis there?", background=True).status_code
    assert status == 202, f"Redis is there, and a run in the background was answered with {status}, not 202."

    def refused(number: int) -> tuple[int, float]:
        began = time.monotonic()
        return ask(server, f"Redis hangs, {number}.", background=True).status_code, time.monotonic() - began

    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        assert until(lambda: httpx2.get(f"{server}/ready").status_code == 503, 15), (
            "Redis hangs, and /ready does not answer 503."
        )
        with ThreadPoolExecutor(50) as pool:
            replies = list(pool.map(refused, range(200)))
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert {status for status, _ in replies} == {503}, "Redis hangs, and a POST is not answered with 503."
    slowest = max(seconds for _, seconds in replies)
    assert slowest < 5, f"A POST waits {slowest:.1f} s for a Redis that is known to hang."
    again = "Redis answers again, and POSTs are still refused."
    assert until(lambda: ask(server, "And now?", background=True).status_code == 202, 15), again


def test_workers_share_their_runs_and_add_up_their_metrics(replica: Replica) -> None:
    server = replica("workers", WEB_CONCURRENCY="2")
    ids = [ask(server, f"Which worker, {n}?", background=True).json()["id"] for n in range(4)]
    for run_id in ids:
        last = resume(server, run_id)[-1]
        assert last.type == "done", f"A run of one of two workers ends with {last.type} {last.data}."
    posts = ("agent_requests_total", "POST", "/v1/research", "202")
    counted = {metrics(server).get(posts) for _ in range(6)}
    assert counted == {4}, f"Two workers have taken four requests, and /metrics says {counted}."
    server.process.send_signal(signal.SIGTERM)
    assert_ends_with_zero(server)

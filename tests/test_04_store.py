"""The stores of runs: tests for both memory and a real Redis, then tests for Redis alone."""

import asyncio
import secrets
import signal
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis.asyncio
import uvloop
import yaml
from redis.exceptions import OutOfMemoryError
from support.store import record, until_claimed

from app.models import Event, StoredRun
from app.runs.stores.base import Store, StoreDown, StoreRefused, TooManyRuns
from app.runs.stores.memory import MemoryStore
from app.runs.stores.redis import RedisStore, translate_errors
from course.engines.redis import RedisServer
from course.processes import Processes


def tokens(*numbers: int, epoch: int = 0) -> list[Event]:
    return [Event(id=(epoch, number), type="token", data={"text": str(number)}) for number in numbers]


def own_database(server: RedisServer) -> str:
    """A database of its own: replicas of other tests would take over its runs."""
    return server.url.removesuffix("/0") + "/1"


MakeStore = Callable[..., RedisStore]


@pytest.fixture
async def another(redis_server: RedisServer) -> AsyncIterator[MakeStore]:
    """Makes stores, one for each replica, on one Redis that is empty at first."""

    redis_server.start()
    made: list[RedisStore] = []

    def make(lease: float = 60, ttl: int = 60) -> RedisStore:
        made.append(RedisStore(own_database(redis_server), lease=lease, ttl=ttl, max_seconds=60))
        return made[-1]

    await make().redis.flushdb()
    yield make
    for store in made:
        await store.close()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore(60, 100)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    busy_machine = "?socket_timeout=20&socket_connect_timeout=20"
    made = RedisStore(own_database(server) + busy_machine, lease=60, ttl=60, max_seconds=60)
    await made.redis.flushdb()
    yield made
    await made.close()


async def append(store: Store, kept: StoredRun, events: list[Event], first: bool = False) -> str:
    return await store.append(kept, events, changed=True, first=first)


async def test_a_run_is_kept_with_its_events_in_order(store: Store) -> None:
    mine = record()
    assert await store.create(mine, None, 10) == mine.run.id, (
        "A new run is kept under another id than its own."
    )
    await append(store, mine, tokens(1, 2), first=True)
    await append(store, mine, tokens(3))
    everything = await store.read_events({mine.run.id: (0, 0)})
    assert [event.data["text"] for event in everything[mine.run.id]] == ["1", "2", "3"], (
        "The events of a run are not kept, each once and in order."
    )
    later = await store.read_events({mine.run.id: (0, 2)})
    assert [event.id for event in later[mine.run.id]] == [(0, 3)], "Events that were read before come again."
    assert (await store.load(mine.run.id)) == mine, "A run is kept otherwise than it is."
    assert await store.load("unknown") is None, "The store knows a run that was never kept."


async def test_an_alias_names_one_run_however_many_ask_at_once(store: Store) -> None:
    ids = await asyncio.gather(*(store.create(record(), "key:me:1", 50) for _ in range(20)))
    assert len(set(ids)) == 1, "One alias, asked for by many at once, names several runs."
    assert await store.find_alias("key:me:1") == ids[0], (
        "An alias names another run than the one that it was given to."
    )


async def test_an_alias_ends(store: Store) -> None:
    mine = record()
    await store.create(mine, None, 10)
    await store.set_alias("answer", mine.run.id, 0.05)
    async with asyncio.timeout(30):
        while await store.find_alias("answer"):  # noqa: ASYNC110  # an expiry sends no event
            await asyncio.sleep(0.01)


async def test_a_caller_has_a_bounded_number_of_runs_and_gets_the_place_back(store: Store) -> None:
    first, second = record(), record()
    await store.create(first, None, 2)
    await store.create(second, None, 2)
    with pytest.raises(TooManyRuns):
        await store.create(record(), None, 2)
    await store.create(record(caller="somebody else"), None, 2)
    first.run.state = "done"
    await append(store, first, [])
    await store.create(record(), None, 2)


async def test_a_cancel_request_reaches_the_owner_of_the_run(store: Store) -> None:
    mine = record()
    await store.create(mine, None, 10)
    lease = (await store.renew_leases([mine.run.id]))[mine.run.id]
    assert not lease.cancelled, "A run that was not cancelled is reported as cancelled."
    await store.cancel(mine.run.id)
    lease = (await store.renew_leases([mine.run.id]))[mine.run.id]
    assert lease.held, "Word to cancel a run has ended its lease."
    assert lease.cancelled, "Word to cancel a run does not reach the replica that has it."


async def test_the_rate_is_counted_by_caller(store: Store) -> None:
    quotas = [await store.count_request("me", 2) for _ in range(3)]
    told = [(quota.allowed, quota.remaining) for quota in quotas]
    assert told == [(True, 1), (True, 0), (False, 0)], (
        f"Of three requests two are allowed, and the store says {told}."
    )
    wait = quotas[2].reset_at - time.time()
    assert 0 < wait <= 61, f"The minute is over in {wait:.0f} seconds, says the store."
    assert (await store.count_request("somebody else", 2)).allowed, (
        "One caller's requests are counted against another's."
    )


async def test_memory_forgets_the_oldest_of_too_many_finished_runs_and_no_running_one() -> None:
    store = MemoryStore(60, 2)
    running, *finished = records = [record() for _ in range(4)]
    for each in records:
        await store.create(each, f"key:{each.run.id}", 10)
    for each in finished:
        each.run.state = "done"
        await append(store, each, tokens(1))
    kept = [each for each in records if await store.load(each.run.id)]
    assert kept == [running, *finished[1:]], (
        "The oldest of too many finished runs is not the one that was forgotten."
    )
    assert len(store.aliases) == 3, "A run is forgotten, and its alias is kept."
    assert store.unfinished == {"me": 1}, f"One run is going, and the store counts {dict(store.unfinished)}."


async def test_memory_bounds_the_bytes_of_finished_runs_and_forgets_the_oldest() -> None:
    store = MemoryStore(60, 1000, max_bytes=200_000)
    texts = [{"text": secrets.token_hex(1000)} for _ in range(50)]  # 50 kB a run, however well it is packed
    runs = [record() for _ in range(10)]
    for run in runs:
        await store.create(run, None, 100)
        run.run.state = "done"
        await append(store, run, [Event((0, n), "token", text) for n, text in enumerate(texts, 1)])
    kept = [run for run in runs if await store.load(run.run.id)]
    assert 1 <= len(kept) <= 4, "Long answers fill the memory: finished runs are bounded by number alone."
    assert kept == runs[-len(kept) :], "The finished runs that memory keeps are not the newest ones."


async def test_a_finished_run_in_memory_takes_little_and_has_every_event() -> None:
    store = MemoryStore(60, 1000)
    mine = record()
    await store.create(mine, None, 10)
    tracemalloc.start()
    await append(store, mine, tokens(*range(1, 2048)))
    mine.run.state = "done"
    await append(store, mine, tokens(2048))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 250_000, f"A finished run of 2,048 tokens takes {taken / 1e6:.1f} MB."
    rest = (await store.read_events({mine.run.id: (0, 2000)}))[mine.run.id]
    assert rest == tokens(*range(2001, 2049)), (
        "A finished run is read from event 2,001 on, and other events come than were written."
    )
    assert await store.load(mine.run.id) == mine, "A finished run is not loaded as it was stored."


# --- Leases, in Redis only ---


async def test_a_run_whose_lease_has_ended_is_claimed_once_and_in_its_next_epoch(another: MakeStore) -> None:
    owner, second, third = another(), another(), another()
    mine = record()
    await owner.create(mine, None, 10)
    await append(owner, mine, tokens(1), first=True)
    assert await second.claim() is None, "A run was taken from a replica that still holds its lease."
    owner.lease = 0.05
    await owner.renew_leases([mine.run.id])
    claimed = await until_claimed(second)
    assert claimed.run == mine.run and claimed.epoch == 1, (
        "A run that was claimed is not the same, one epoch on."
    )
    assert await third.claim() is None, "Two replicas have claimed one run."
    assert await append(owner, mine, tokens(2)) == "not_owner", "Two replicas write one run."
    lease = (await owner.renew_leases([mine.run.id]))[mine.run.id]
    assert not lease.held, "A replica still holds a run that another one has claimed."
    assert await append(second, claimed, tokens(1, epoch=1)) == "written", (
        "The replica that has claimed a run cannot write it."
    )
    events = (await third.read_events({mine.run.id: (0, 0)}))[mine.run.id]
    assert [event.id for event in events] == [(0, 1), (1, 1)], (
        "The events of both epochs are not there in order."
    )


async def test_a_renewed_lease_does_not_end(another: MakeStore) -> None:
    owner, other = another(lease=0.1), another()
    mine = record()
    await owner.create(mine, None, 10)
    first_end = await owner.redis.zscore("leases", mine.run.id)
    owner.lease = 60
    await owner.renew_leases([mine.run.id])
    async with asyncio.timeout(30):
        while await now_of(owner) <= (first_end or 0):  # noqa: ASYNC110  # only Redis knows its own time
            await asyncio.sleep(0.02)
    assert await other.claim() is None, "A lease was renewed, and has ended as if it had not been."


async def now_of(store: RedisStore) -> float:
    seconds, microseconds = await store.redis.time()
    return seconds + microseconds / 1_000_000


async def test_a_released_run_can_be_claimed_at_once(another: MakeStore) -> None:
    owner, other = another(), another()
    mine = record()
    await owner.create(mine, None, 10)
    await owner.release(mine.run.id)
    claimed = await other.claim()
    assert claimed and claimed.run.id == mine.run.id, "A released run cannot be claimed by another replica."


async def test_a_finished_run_cannot_be_claimed_and_expires(another: MakeStore) -> None:
    owner = another(ttl=30)
    mine = record()
    await owner.create(mine, None, 10)
    mine.run.state = "done"
    await append(owner, mine, tokens(1), first=True)
    assert await owner.redis.zcard("leases") == 0, "A run is over, and has a lease that will end."
    for key in (f"run:{mine.run.id}", f"events:{mine.run.id}"):
        left = await owner.redis.ttl(key)
        assert 0 < left <= 30, f"A finished run is kept for 30 seconds, and {key} for {left}."


async def test_a_finished_run_gets_no_lease_again(another: MakeStore) -> None:
    owner, other = another(), another()
    mine = record()
    await owner.create(mine, None, 10)
    mine.run.state = "done"
    await append(owner, mine, tokens(1), first=True)
    await owner.renew_leases([mine.run.id])
    await owner.release(mine.run.id)
    assert await other.claim() is None, "A finished run would be carried out again."


async def test_a_run_of_any_length_is_written(another: MakeStore) -> None:
    owner = another()
    mine = record()
    await owner.create(mine, None, 10)
    mine.run.state = "done"
    many = tokens(*range(1, 10_001))
    assert await append(owner, mine, many, first=True) == "written", (
        "A long run cannot be stored: Lua's stack holds some 8,000 values."
    )
    assert (await owner.read_events({mine.run.id: (0, 0)}))[mine.run.id] == many, (
        "The 10,000 events of a run are not read as they were written."
    )
    assert await owner.redis.zcard("leases") == 0, "The run is written to its end, and still has a lease."


async def test_a_refused_write_is_told_apart_from_a_redis_that_is_away(another: MakeStore) -> None:
    owner = another()
    mine, other = record(), record()
    for each in (mine, other):
        await owner.create(each, None, 10)
    await owner.redis.set(f"run:{mine.run.id}", "not a hash")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await append(owner, mine, tokens(1), first=True)
    leases = await owner.renew_leases([mine.run.id, other.run.id])
    assert leases[other.run.id].held, "One broken key costs all other runs their leases."
    result = await append(owner, other, tokens(1), first=True)
    assert result == "written", (
        f"One key is broken, and a write of another run gives {result!r}, not 'written'."
    )


async def test_events_written_twice_are_there_once(another: MakeStore) -> None:
    owner = another()
    mine = record()
    await owner.create(mine, None, 10)
    for events in (tokens(1, 2), tokens(1, 2, 3)):
        await append(owner, mine, events, first=True)
    kept = len((await owner.read_events({mine.run.id: (0, 0)}))[mine.run.id])
    assert kept == 3, f"Three events were written, two of them twice, and {kept} are there."


async def test_a_run_that_redis_has_lost_is_written_anew(another: MakeStore) -> None:
    owner = another()
    mine = record()
    await owner.create(mine, None, 10)
    await append(owner, mine, tokens(1), first=True)
    await owner.redis.flushdb()
    assert await append(owner, mine, tokens(2)) == "missing", (
        "Redis has lost a run, and the replica does not learn of it."
    )
    assert await append(owner, mine, tokens(1, 2), first=True) == "written", (
        "A lost run cannot be written anew."
    )
    assert await owner.load(mine.run.id) == mine, "A run that was written anew is another."


async def test_redis_down_is_reported_quickly_and_its_return_is_noticed(
    another: MakeStore, redis_server: RedisServer
) -> None:
    store = another()
    mine = record()
    await store.create(mine, None, 10)
    redis_server.kill()
    began = time.monotonic()
    for broken in (store.ping(), store.load(mine.run.id), store.claim(), store.renew_leases([mine.run.id])):
        with pytest.raises(StoreDown):
            await broken
    assert time.monotonic() - began < 20, "Redis is down, and it takes long until commands fail."
    redis_server.start()
    await store.ping()
    assert await store.load(mine.run.id) == mine, "What Redis had said it had stored is gone."


def test_a_write_on_a_connection_that_has_just_closed_means_that_redis_is_down(
    redis_server: RedisServer,
) -> None:
    """Of uvloop, which serves the agent, such a write gets a RuntimeError, and redis-py passes it on."""

    async def write() -> None:
        connection = redis.asyncio.Connection(port=redis_server.port)
        await connection.connect()  # type: ignore[no-untyped-call]
        writer = connection._writer
        assert writer, "The connection has no writer."
        writer.transport.abort()
        await writer.wait_closed()
        with translate_errors():
            await connection.send_command("PING")

    redis_server.start()
    with pytest.raises(StoreDown):
        uvloop.run(write())


async def test_a_request_from_before_an_answered_ping_does_not_make_redis_down(another: MakeStore) -> None:
    store, mine = another(), record()
    await store.create(mine, None, 10)
    late = asyncio.create_task(store.read_events({mine.run.id: (0, 0)}, wait=60))
    async with asyncio.timeout(20):
        while not (await store.redis.info("clients"))["blocked_clients"]:
            pass
    await store.ping()
    with pytest.raises(StoreDown):  # after the client's timeout of two seconds
        await late
    assert await store.load(mine.run.id) == mine, (
        "Redis has answered since, and a request that began before makes the store refuse all others."
    )


async def test_requests_do_not_wait_for_a_redis_that_is_known_to_hang(
    another: MakeStore, redis_server: RedisServer
) -> None:
    store = another()

    async def seconds_until_down(count: int) -> float:
        began = time.monotonic()
        results = await asyncio.gather(
            *(store.count_request("me", 9) for _ in range(count)), return_exceptions=True
        )
        others = [result for result in results if not isinstance(result, StoreDown)]
        assert not others, f"Redis hangs, and a request gives {others[0]!r}, not StoreDown."
        return time.monotonic() - began

    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        first = await seconds_until_down(200)
        assert first < 6, "Each of 200 requests waits its turn for a Redis that hangs."
        assert await seconds_until_down(200) < 1.5, "Requests wait for a Redis that is known to hang."
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    await store.ping()
    assert (await store.count_request("you", 9)).allowed, "Redis answers again, and still counts as down."


# --- A full Redis ---


@pytest.fixture
async def small(redis_server: RedisServer, lesson_root: Path, tmp_path: Path) -> AsyncIterator[RedisStore]:
    """A store on a Redis of 8 MB, with the eviction policy of the compose file."""
    compose = yaml.safe_load((lesson_root / "research-agent/docker-compose.yml").read_text())
    command = compose["services"]["redis"]["command"]
    policy = command[command.index("--maxmemory-policy") + 1]
    options = ("--maxmemory", "8mb", "--maxmemory-policy", policy)
    with Processes() as processes:
        server = RedisServer(processes, redis_server.command[0], tmp_path, *options)
        store = RedisStore(server.url, lease=60, ttl=3600, max_seconds=600)
        yield store
        await store.close()


async def finish(store: RedisStore, run: StoredRun, kilobytes: int) -> None:
    run.run.state = "done"
    events = [Event((0, n), "token", {"text": "x" * 1000}) for n in range(1, kilobytes + 1)]
    await append(store, run, events, first=True)


async def test_limits_and_running_runs_outlast_a_full_redis(small: RedisStore) -> None:
    running = record()
    await small.create(running, None, 1)
    for _ in range(3):
        await small.count_request("me", 5)
    finished = [record(caller=f"caller {n}") for n in range(200)]
    for run in finished:  # 20 MB in all
        await small.create(run, None, 1)
        await finish(small, run, 100)
    assert (await small.count_request("me", 5)).remaining == 1, (
        "A full Redis forgets how often a caller has asked."
    )
    with pytest.raises(TooManyRuns):
        await small.create(record(), None, 1)
    assert await small.load(running.run.id) == running, "A run that goes on had to make room."
    assert await small.redis.zscore("leases", running.run.id), "The lease of a run had to make room."
    assert await small.load(finished[-1].run.id), "The newest answer had to make room, and not the oldest."
    assert await small.load(finished[0].run.id) is None, (
        "A Redis of 8 MB got 20 MB of answers, and still has the oldest."
    )


async def test_what_redis_has_still_to_write_to_its_disk_takes_no_room_from_runs(small: RedisStore) -> None:
    done = record()
    await small.create(done, None, 1)
    await finish(small, done, 1)
    create = small.scripts["create_run"]
    write_7_mb = (
        "for n = 1, 7 do redis.call('SET', 'large', string.rep('x', 1e6)) redis.call('DEL', 'large') end"
    )

    async def create_after_writes(keys: list[str], values: list[str | float]) -> object:
        """Redis runs both one after the other, and writes to its disk when it has run both."""
        pipeline = small.redis.pipeline(transaction=False)
        pipeline.eval(write_7_mb, 0)
        await create(keys, values, client=pipeline)
        return (await pipeline.execute())[-1]

    small.scripts["create_run"] = create_after_writes  # type: ignore[assignment]
    await small.create(record(), None, 2)
    assert await small.load(done.run.id), (
        "A finished run had to make room for what waits to be written to a disk."
    )


async def test_a_redis_full_of_running_runs_refuses_new_ones_and_keeps_its_limits(small: RedisStore) -> None:
    running = record()
    await small.create(running, "key:me:1", 10)
    with pytest.raises(OutOfMemoryError):
        for n in range(200):
            await small.redis.set(f"filler:{n}", "x" * 100_000)
    with pytest.raises(StoreRefused):
        await small.create(record(), None, 10)
    with pytest.raises(StoreRefused):
        await finish(small, running, 2000)
    quotas = [await small.count_request("me", 1) for _ in range(2)]
    allowed = [quota.allowed for quota in quotas]
    assert allowed == [True, False], (
        f"Redis is full, and of two requests one is allowed, but the store says {allowed}."
    )
    await small.cancel(running.run.id)
    lease = (await small.renew_leases([running.run.id]))[running.run.id]
    assert lease.held and lease.cancelled, "A run cannot be cancelled, for Redis is full."
    await small.mark_followed([running.run.id], 60)
    await small.release(running.run.id)
    claimed = await small.claim()
    assert claimed and claimed.run.id == running.run.id, (
        "Redis is full, and a claim does not give the run that was released."
    )

"""Runs: started here, followed from anywhere, handed over when this replica ends before they do."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any

import httpx2
import openai
import structlog
from langgraph.errors import GraphRecursionError

from app import telemetry
from app.agent import Agent, BrokenOff
from app.config import Settings
from app.models import Event, EventId, Problem, Record, Result, wire_id
from app.research.circuit_breaker import run_deadline
from app.runs.event_log import Live, Log
from app.runs.stores.base import MAX_TAKEOVERS, Store, StoreDown, StoreError, StoreRefused

log = structlog.stdlib.get_logger("research-agent")
STORE_SECONDS = 2
"""What the store may take at the end of a drain."""
FLUSH_SECONDS = 0.03
"""Between two writes to the store: what comes in the meantime is written at once."""
REFUSED_SECONDS = 1
"""Until a write that the store has refused is tried again."""


def answer_alias(caller: str, query: str) -> str:
    """The name under which a finished run answers the same question again, for the same caller."""
    return f"answer:{caller}:{hashlib.sha256(query.encode()).hexdigest()}"


class Runs:
    def __init__(self, settings: Settings, store: Store, agent: Agent) -> None:
        self.settings, self.store, self.agent = settings, store, agent
        self.slots = asyncio.Semaphore(settings.max_concurrency)
        self.live: dict[str, Live] = {}
        self.tails: dict[str, Log] = {}
        self.draining = False
        self.starting = 0
        self.dirty = asyncio.Event()
        self.store_ok = True
        self.store_lost_at = time.monotonic()  # as if: who starts now does not know who is alive
        self.loops: list[asyncio.Task[None]] = []

    # --- What a caller may do ---

    @property
    def full(self) -> bool:
        """No place is left, nor one in the queue."""
        going = self.starting + sum(not live.record.run.over for live in self.live.values())
        return going >= self.settings.max_concurrency + self.settings.max_queue

    async def start(self, record: Record, alias: str | None = None) -> str:
        """Start a run, unless the alias names one already; the run's id."""
        self.starting += 1
        try:
            run_id = await self.store.create(record, alias, self.settings.max_runs_per_caller)
        except BaseException:
            self.agent.circuit.give_back(record.run.id)
            raise
        finally:
            self.starting -= 1
        if run_id == record.run.id:
            self.carry_out(Live(record))
        else:
            self.agent.circuit.give_back(record.run.id)
        return run_id

    async def get(self, run_id: str) -> Record | None:
        live = self.live.get(run_id)
        if live and live.record.run.over:
            await live.settled.wait()
        known_here = live and (live.end_told or not live.record.run.over)
        return live.record if live and known_here else await self.store.load(run_id)

    async def follow(self, run_id: str) -> Log:
        """The log to follow: this replica's own, or the store's, kept up to date from now on."""
        if live := self.live.get(run_id):
            return live
        if run_id not in self.tails:
            events = await self.store.read({run_id: (0, 0)})
            self.tails.setdefault(run_id, Log(events.get(run_id)))
        return self.tails[run_id]

    async def watch(self, run_id: str, after: EventId) -> AsyncGenerator[list[Event]]:
        """Follow a run wherever it is; ends without a last event when this replica cannot tell more."""
        while not (self.draining and run_id not in self.live):  # else it goes on at another replica
            try:
                log = await self.follow(run_id)
            except StoreError:
                return
            async with aclosing(log.follow(after)) as batches:
                async for batch in batches:
                    if not batch and (last := await self.lost_end(run_id, log)):
                        yield [last]
                        return
                    yield batch
                    if batch:
                        after = batch[-1].id
            if self.draining or log.ended:
                return

    async def lost_end(self, run_id: str, log: Log) -> Event | None:
        """The last event of a run whose events the store has lost, or that it does not know any more."""
        if isinstance(log, Live):
            return None
        try:
            record = await self.store.load(run_id)
        except StoreError:
            return None
        if record and not record.run.over:
            return None
        end = (log.events[-1].id[0] + 1 if log.events else 0, 1)
        if record:
            return Event(end, *record.run.last_event)
        gone = Problem(title="Not Found", status=404, detail="The run is gone.", request_id="")
        return Event(end, "error", {"problem": gone.model_dump(exclude_none=True)})

    async def until_over(self, run_id: str) -> bool:
        """Wait for the end of a run; False when it will not come here."""
        if live := self.live.get(run_id):
            live.listeners += 1
            try:
                await live.settled.wait()
            finally:
                live.listeners -= 1
        async with aclosing(self.watch(run_id, (0, 0))) as batches:
            async for batch in batches:
                if batch and batch[-1].last:
                    return True
        return False

    async def abandon(self, run_id: str) -> None:
        """Its only caller has left."""
        live = self.live.get(run_id)
        if live and not (live.listeners or live.heard_elsewhere or live.record.run.background):
            self.stop(live)

    async def cancel(self, run_id: str) -> None:
        if live := self.live.get(run_id):
            self.stop(live)
        else:
            await self.store.cancel(run_id)

    def stop(self, live: Live) -> None:
        if live.record.run.over:
            return
        live.cancel_asked = True
        if live.task:
            live.task.cancel()

    # --- One run ---

    def carry_out(self, live: Live) -> None:
        self.live[live.record.run.id] = live
        live.task = asyncio.create_task(self.run(live))

    async def run(self, live: Live) -> None:
        record = live.record
        structlog.contextvars.bind_contextvars(run_id=record.run.id, request_id=record.request_id)
        try:
            left = record.run.created_at + self.settings.timeout_seconds - time.time()
            async with asyncio.timeout(left) as deadline:
                run_deadline.set(deadline)
                if self.slots.locked():
                    live.emit("state", {"name": "queued"})
                with telemetry.queued.track_inprogress():
                    await self.slots.acquire()
                try:
                    self.change(live, "running")
                    live.emit("state", {"name": "running"})
                    with telemetry.span("run", run_id=record.run.id):
                        await self.research(live)
                finally:
                    self.slots.release()
        except TimeoutError:
            self.fail(live, 504, f"The run took longer than {self.settings.timeout_seconds:g} s.")
        except asyncio.CancelledError:
            if not live.cancel_asked:
                raise  # lost or handed over: another replica goes on
            self.finish(live, "cancelled")
        except (
            openai.OpenAIError,
            httpx2.HTTPError,
            json.JSONDecodeError,
            GraphRecursionError,
            BrokenOff,
        ) as error:
            log.error("the model failed", error=repr(error))
            self.fail(live, 502, "The model failed, or could not be reached.")
        except Exception:
            log.exception("the run failed")
            self.fail(live, 500, "Something went wrong; the log has the details.")
            raise
        finally:
            self.finished(live)

    async def research(self, live: Live) -> None:
        record, text, began = live.record, "", time.monotonic()
        steps = len(record.notebook.steps)
        async for kind, data in self.agent.research(record.run.query, record.notebook):
            if kind == "token":
                if not text:
                    telemetry.first_token.observe(time.monotonic() - began)
                text += data["text"]
            elif kind == "step":
                text = ""
                telemetry.tool_calls.labels(data["tool"], data["outcome"]).inc()
            elif kind == "done":
                notebook = record.notebook
                record.run.result = Result(
                    id=record.run.id,
                    query=record.run.query,
                    response=text,
                    steps=notebook.steps,
                    sources=notebook.sources,
                    model=self.settings.model_name,
                    tokens_used=notebook.prompt_tokens + notebook.completion_tokens,
                    finish_reason=data["reason"],
                )
                self.finish(live, "done")
                continue  # to the end of the generator: the graph closes
            live.emit(kind, data)
            if len(record.notebook.steps) > steps:
                steps = len(record.notebook.steps)
                live.record_changed = True
            self.dirty.set()

    def change(self, live: Live, state: Any) -> None:
        live.record.run.state = state
        live.record_changed = True
        self.dirty.set()

    def finish(self, live: Live, state: Any) -> None:
        """The end of a run, which has only one: what goes wrong after it is no concern of its readers."""
        if not live.record.run.over:
            live.record.notebook.messages = []  # nobody goes on from here
            self.change(live, state)
            live.emit(*live.record.run.last_event)

    def fail(self, live: Live, status: int, detail: str) -> None:
        run, request_id = live.record.run, live.record.request_id
        if not run.over:
            title = HTTPStatus(status).phrase
            run.problem = Problem(title=title, status=status, detail=detail, request_id=request_id)
            self.finish(live, "failed")

    def finished(self, live: Live) -> None:
        run = live.record.run
        self.agent.circuit.give_back(run.id)
        if run.over:
            telemetry.runs.labels(run.state).inc()
            telemetry.run_seconds.observe(time.time() - run.created_at)
            log.info("run", outcome=run.state, steps=len(live.record.notebook.steps))
        self.dirty.set()

    # --- What goes on all the time ---

    async def flush(self, live: Live) -> None:
        """Write what is new of a run; when the last of it is written, forget it here."""
        record, start = live.record, live.stored
        events = live.events[start:]
        changed, first = live.record_changed, not live.stored
        live.record_changed = False
        try:
            told = await self.store.append(record, events, changed=changed, first=first)
        except BaseException:
            live.record_changed = live.record_changed or changed
            raise
        if told == "lost":
            self.lose(live)
        elif told == "forgotten":
            live.stored, live.record_changed = 0, True
        else:
            live.stored = start + len(events)
            if record.run.over and live.written:
                live.settle()
            if record.run.over and live.written and record.run.id in self.live:
                del self.live[record.run.id]
                kept = min(self.settings.cache_ttl_seconds, self.settings.run_ttl_seconds)
                if kept and record.run.result and record.run.result.finish_reason == "stop":
                    alias = answer_alias(record.caller, record.run.query)
                    await self.store.alias(alias, record.run.id, kept)

    def lose(self, live: Live) -> None:
        """Another replica has this run now."""
        self.live.pop(live.record.run.id, None)
        if live.task:
            live.task.cancel()
        live.close()

    async def flush_all(self) -> None:
        """Write what is new of all runs; a failure of one keeps no other from being written."""
        await self.dirty.wait()
        self.dirty.clear()
        unwritten = self.unwritten()
        results = await asyncio.gather(*map(self.flush, unwritten), return_exceptions=True)
        for live, error in zip(unwritten, results, strict=True):
            if isinstance(error, Exception) and not isinstance(error, StoreDown):
                self.refused(live, error)
            if error and live.record.run.over:
                live.settle()  # an answer that is not stored is better than none
        for error in results:
            if isinstance(error, StoreDown):
                self.dirty.set()
                raise error

    def unwritten(self) -> list[Live]:
        now = time.monotonic()
        return [live for live in self.live.values() if not live.written and live.retry_at <= now]

    def refused(self, live: Live, error: Exception) -> None:
        """End a run that cannot be stored; that end is written later, if the store takes it in time."""
        run = live.record.run
        if not live.refused:
            log.error("a run cannot be stored", run_id=run.id, error=f"{type(error).__name__}: {error}")
        live.refused = True
        live.retry_at = time.monotonic() + REFUSED_SECONDS
        asyncio.get_running_loop().call_later(REFUSED_SECONDS, self.dirty.set)
        if not run.over:
            self.fail(live, 503, "The run could not be stored.")
            if live.task:
                live.task.cancel()
        elif time.time() > run.created_at + self.settings.timeout_seconds:
            self.live.pop(run.id, None)  # whoever claims it now fails it at once

    async def read_tails(self) -> None:
        """Bring the logs of other replicas' runs up to date, all of them in one read."""
        self.tails = {run_id: tail for run_id, tail in self.tails.items() if tail.listeners}
        if self.tails:
            tails = dict(self.tails)
            last = {run_id: tail.events[-1].id if tail.events else (0, 0) for run_id, tail in tails.items()}
            for run_id, events in (await self.store.read(last)).items():
                tails[run_id].add(*events)

    async def beat(self) -> None:
        """Renew our leases, hear what others want of our runs, take over runs whose replica is gone."""
        now, grace = time.monotonic(), self.settings.resume_grace_seconds
        going = [run_id for run_id, live in self.live.items() if not live.record.run.over]
        heard = [run_id for run_id, tail in self.tails.items() if tail.listeners]
        await self.store.ping()
        self.store_is(True)
        if heard:
            await self.store.hear(heard, self.settings.lease_seconds)
        for run_id, lease in (await self.store.renew(going)).items() if going else ():
            if (live := self.live.get(run_id)) is None:
                continue
            if not lease.held:
                self.lose(live)
                continue
            live.heard_elsewhere = lease.heard
            if live.listeners or lease.heard or live.record.run.background:
                live.heard_at = now
            if lease.cancelled or now - live.heard_at > grace:
                self.stop(live)
        # After the store was away, all leases have ended: their holders get the time to renew them.
        settled = now - self.store_lost_at > self.settings.lease_seconds
        while settled and not self.draining and len(self.live) < self.settings.max_concurrency:
            if (record := await self.store.claim()) is None:
                break
            await self.take_over(record)

    async def take_over(self, record: Record) -> None:
        run_id = record.run.id
        if old := self.live.get(run_id):
            self.lose(old)
        events = (await self.store.read({run_id: (0, 0)})).get(run_id, [])
        live = Live(record, events)
        if record.run.over:  # its replica ended before it had written the last event
            live.emit(*record.run.last_event)
            self.live[run_id] = live
            self.dirty.set()
            return
        if record.takeovers > MAX_TAKEOVERS:
            self.give_up(live)
            return
        sound = [event.id for event in events if event.type != "token"]
        last = sound[-1] if sound else (0, 0)
        log.warning("took over a run", run_id=run_id, epoch=record.epoch)
        telemetry.takeovers.inc()
        live.emit("reset", {"from_id": wire_id(last)})
        self.carry_out(live)

    def give_up(self, live: Live) -> None:
        """Fail a run that has ended every replica so far, before it ends this one."""
        log.error("gave up a run", run_id=live.record.run.id, takeovers=MAX_TAKEOVERS)
        self.live[live.record.run.id] = live
        self.fail(live, 500, f"The run was given up: {MAX_TAKEOVERS + 1} replicas ended while they had it.")
        self.finished(live)

    def store_is(self, ok: bool, error: Exception | None = None) -> None:
        if ok != self.store_ok:
            log.warning(
                "the store is back" if ok else "the store is down", error=str(error) if error else None
            )
        if not ok:
            self.store_lost_at = time.monotonic()
        self.store_ok = ok

    def begin(self) -> None:
        for work, pause in (
            (self.flush_all, FLUSH_SECONDS),
            (self.read_tails, FLUSH_SECONDS),
            (self.beat, self.settings.lease_seconds / 6),
        ):
            self.loops.append(asyncio.create_task(self.always(work, pause)))

    async def always(self, work: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            try:
                await work()
            except StoreDown as error:
                self.store_is(False, error)
                await asyncio.sleep(0.2)
            except StoreRefused as error:
                log.error("the store refuses a command", error=str(error))
            except Exception:  # a fault of ours; all runs depend on this, so it goes on
                log.exception("work in the background failed")
            await asyncio.sleep(pause)

    # --- The end ---

    async def drain(self, seconds: float) -> None:
        """Let runs finish for so long; hand over the rest, or where nobody could take them, end them."""
        self.draining = True
        for tail in self.tails.values():
            tail.close()
        if tasks := [live.task for live in self.live.values() if live.task and not live.task.done()]:
            await asyncio.wait(tasks, timeout=seconds)
        rest = [live for live in self.live.values() if not live.record.run.over]
        if self.store.shared:
            with suppress(TimeoutError):  # Redis hangs: the leases will end by themselves
                async with asyncio.timeout(STORE_SECONDS):
                    await asyncio.gather(*(self.hand_over(live) for live in rest))
            for live in rest:
                live.close()
        for live in rest if not self.store.shared else ():
            self.fail(live, 503, "The server is stopping.")
            if live.task:
                live.task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(STORE_SECONDS):
                while self.unwritten():
                    self.dirty.set()
                    await asyncio.sleep(FLUSH_SECONDS)
        for live in self.live.values():
            live.settle()

    async def hand_over(self, live: Live) -> None:
        run_id = live.record.run.id
        if live.task:
            live.task.cancel()
            await asyncio.wait([live.task])
        try:
            await self.flush(live)
            if not live.record.run.over:
                self.live.pop(run_id, None)
                await self.store.release(run_id)
            log.info("handed over a run", run_id=run_id)
        except StoreError as error:  # its lease will end by itself
            log.warning("could not hand over a run", run_id=run_id, error=str(error))

    async def end(self) -> None:
        for loop in self.loops:
            loop.cancel()
        await asyncio.gather(*self.loops, return_exceptions=True)
        await self.store.close()

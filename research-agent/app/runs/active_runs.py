"""The runs that this replica executes."""

import asyncio
import time
from http import HTTPStatus
from typing import Any

from app.models import Event, Problem, State, StoredRun
from app.runs.event_log import EventLog


class ActiveRun(EventLog):
    """A run that this replica executes: its record, its task, and which of its events are stored."""

    def __init__(self, record: StoredRun, events: list[Event] | None = None) -> None:
        super().__init__(events)
        self.record = record
        self.task: asyncio.Task[None] | None = None
        self.cancel_requested = False
        # For the heartbeat: a run that no client follows is cancelled after a while.
        self.followed_at = time.monotonic()
        self.followed_elsewhere = False
        # For the event writer.
        self.stored_events = len(self.events)
        self.record_changed = False
        self.write_refused = False
        self.retry_at = 0.0  # when a refused write may be tried again
        # For clients. `end_published`: they may read the last event. `settled`: set once the end is
        # published, or once another replica is to continue the run.
        self.end_published = False
        self.settled = asyncio.Event()

    @property
    def readable(self) -> int:
        """All events, but the last one only when it is stored.

        If this replica died after sending a last event that is not stored, the client could later read a
        different last event.
        """
        held_back = bool(self.events) and self.events[-1].is_last and not self.end_published
        return len(self.events) - held_back

    @property
    def written(self) -> bool:
        return self.stored_events == len(self.events) and not self.record_changed

    def publish_end(self) -> None:
        """Let clients read the last event: it is stored, or the store cannot take it."""
        self.end_published = True
        self.settled.set()
        self.wake()

    def close(self) -> None:
        self.settled.set()
        super().close()

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        epoch = self.record.epoch
        last = self.events[-1].id if self.events else (epoch, 0)
        number = last[1] + 1 if last[0] == epoch else 1
        self.add(Event(id=(epoch, number), type=kind, data=data))

    def set_state(self, state: State) -> None:
        self.record.run.state = state
        self.record_changed = True

    def finish(self, state: State) -> None:
        """Set the final state and emit the last event. No-op if the run has finished already."""
        if not self.record.run.finished:
            self.record.checkpoint.messages = []  # no replica will continue this run
            self.set_state(state)
            self.emit(*self.record.run.last_event)

    def fail(self, status: int, detail: str) -> None:
        """Finish with a problem. No-op if the run has finished already."""
        if not self.record.run.finished:
            self.record.run.problem = Problem(
                title=HTTPStatus(status).phrase,
                status=status,
                detail=detail,
                request_id=self.record.request_id,
            )
            self.finish("failed")

    def stop_task(self) -> None:
        if self.task:
            self.task.cancel()

    def cancel(self) -> None:
        """Cancel the run itself, not only this replica's work on it."""
        if not self.record.run.finished:
            self.cancel_requested = True
            self.stop_task()


class ActiveRuns(dict[str, ActiveRun]):
    """Every active run of this replica, by id."""

    def unfinished(self) -> list[ActiveRun]:
        return [run for run in self.values() if not run.record.run.finished]

    def unwritten(self) -> list[ActiveRun]:
        """The runs that have something to write, and that may be tried (again) now."""
        now = time.monotonic()
        return [run for run in self.values() if not run.written and run.retry_at <= now]

    def relinquish(self, run: ActiveRun) -> None:
        """Stop working on a run that another replica owns now."""
        self.pop(run.record.run.id, None)
        run.stop_task()
        run.close()

"""The event logs of runs that other replicas execute, kept up to date while clients follow them here."""

from app.models import STREAM_START_ID
from app.runs.event_log import EventLog
from app.runs.stores.base import Store

# How long one read blocks when there are no new events. Runs that clients start to follow meanwhile are part
# of the next read.
READ_TIMEOUT_SECONDS = 0.2


class RemoteLogs:
    """Reads the events of other replicas' runs from the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.logs: dict[str, EventLog] = {}
        self.closed = False

    async def get(self, run_id: str) -> EventLog:
        """Return the log of a run, which `refresh` keeps up to date from now on."""
        if run_id not in self.logs:
            events = await self.store.read_events({run_id: STREAM_START_ID})
            self.logs.setdefault(run_id, EventLog(events.get(run_id)))
        return self.logs[run_id]

    def followed(self) -> list[str]:
        return [run_id for run_id, log in self.logs.items() if log.listeners]

    async def refresh(self) -> None:
        """Wait for new events of all followed runs in one command; forget the other runs."""
        self.logs = {run_id: self.logs[run_id] for run_id in self.followed()}
        if logs := dict(self.logs):
            last = {
                run_id: log.events[-1].id if log.events else STREAM_START_ID for run_id, log in logs.items()
            }
            for run_id, events in (await self.store.read_events(last, READ_TIMEOUT_SECONDS)).items():
                logs[run_id].add(*events)

    def close(self) -> None:
        """End all streams: their clients have to continue at another replica."""
        self.closed = True
        for log in self.logs.values():
            log.close()

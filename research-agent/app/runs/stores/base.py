"""The interface of a store of runs, and the errors that every store raises."""

from dataclasses import dataclass
from typing import Literal, Protocol

from app.models import Event, EventId, StoredRun

# A run fails when it has been taken over more often than this from replicas that ended without handing it
# over.
MAX_TAKEOVERS = 3


class StoreError(Exception):
    """The store did not do what it was asked to do. The text gives the reason and is only for the log."""


class StoreDown(StoreError):
    """The store cannot be reached."""


class StoreRefused(StoreError):
    """The store answers, but refuses this command: it is out of memory, for example, or a key is broken."""


class TooManyRuns(Exception):
    """The caller already has as many unfinished runs as one caller may have."""


AppendResult = Literal["written", "not_owner", "missing"]


@dataclass
class LeaseStatus:
    """The state of the lease of one run that this replica executes."""

    held: bool = True
    cancelled: bool = False
    # A client follows the run, at this replica or at another one.
    followed: bool = False


@dataclass
class Quota:
    """A caller's requests in the current minute. `reset_at` is in seconds since 1970."""

    allowed: bool
    remaining: int
    reset_at: float


class Store(Protocol):
    """Stores runs. Every method may raise StoreDown or StoreRefused, and none waits long for the store.

    A run belongs to the replica that holds its lease, and only that replica may write. A lease that is not
    renewed expires, and the first replica that claims the run after that owns it.
    """

    # True if other replicas see the same runs.
    shared: bool

    async def create(self, record: StoredRun, alias: str | None, max_runs: int) -> str:
        """Store a new run, take its lease, and return its id.

        An alias (of an idempotency key, for example) names one run. If it already names one, nothing is
        stored and the id of that run is returned. Raises TooManyRuns when the caller has `max_runs`
        unfinished runs, and StoreRefused when there is no room.
        """

    async def find_alias(self, alias: str) -> str | None: ...

    async def set_alias(self, alias: str, run_id: str, seconds: float) -> None: ...

    async def load(self, run_id: str) -> StoredRun | None: ...

    async def append(
        self, record: StoredRun, events: list[Event], *, changed: bool, first: bool
    ) -> AppendResult:
        """Write events, and the record if it has `changed`, in one step; renew the lease.

        Events that are already stored are not written again. Returns "not_owner" if another replica owns the
        run, and "missing" if the store does not have the run (any more), unless these are its `first` events:
        then it is stored again.
        """

    async def read_events(self, after: dict[str, EventId], wait: float = 0) -> dict[str, list[Event]]:
        """Return for each run the stored events after the given id.

        If no run has any, a store that replicas share may wait up to `wait` seconds for one.
        """

    async def renew_leases(self, run_ids: list[str]) -> dict[str, LeaseStatus]:
        """Renew the leases of these runs. A run whose renewal the store refuses is missing in the result."""

    async def release(self, run_id: str) -> None:
        """End the lease now, so that another replica can continue the run at once."""

    async def claim(self) -> StoredRun | None:
        """Take over a run whose lease has expired, in its next epoch.

        Raises StoreRefused if the record of the run cannot be read, until the run has had MAX_TAKEOVERS
        takeovers. After that an empty record is returned.
        """

    async def cancel(self, run_id: str) -> None:
        """Ask the replica that holds the lease to cancel the run."""

    async def mark_followed(self, run_ids: list[str], seconds: float) -> None:
        """Record for `seconds` that clients of this replica follow these runs."""

    async def count_request(self, caller: str, per_minute: int) -> Quota:
        """Count one request of the caller against its limit of `per_minute`."""

    async def ping(self) -> None:
        """Check that the store answers. A store that was down may fail at once until this succeeds."""

    async def close(self) -> None: ...

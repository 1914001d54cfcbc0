"""How lesson 10's services treat events and state, with the sidecar's answers made in this process."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from support.services import FOLDER, importable


class Shell:
    """The modules of a service's shell, and a sidecar that stands in."""

    def __init__(self, sidecar: ModuleType, messages: ModuleType, stand_in: Any) -> None:
        self.sidecar, self.messages, self.stand_in = sidecar, messages, stand_in

    def connect(self) -> Any:
        connected = self.sidecar.Sidecar(3500, 5)
        transport = httpx2.MockTransport(self.stand_in)
        connected.http = httpx2.AsyncClient(base_url="http://sidecar", transport=transport)
        return connected

    def event(self, event_id: str) -> Any:
        query = self.messages.Query(user_id="ada")
        return self.messages.Event(id=event_id, time=datetime.now(UTC), topic="progress.requests", data=query)

    async def count(self, event: Any, transaction: Any) -> Any:
        """An agent that counts events, and tells the count."""
        counted = (await transaction.load("count") or 0) + 1
        await asyncio.sleep(0)  # another event can come in between
        transaction.save("count", counted)
        told = self.messages.Outgoing(topic="progress.updates", data={"count": counted})
        return self.messages.Answer(response=str(counted), events=[told])


@pytest.fixture
def shell(lesson_root: Path) -> Shell:
    folder = lesson_root / FOLDER / "templates/service"
    with importable(folder), importable(folder / "tests"):
        import sidecar_stand_in  # type: ignore[import-not-found]

        import messages  # type: ignore[import-not-found]
        import sidecar  # type: ignore[import-not-found]

        return Shell(sidecar, messages, sidecar_stand_in.StandIn())


def test_an_event_that_comes_twice_is_counted_once(shell: Shell) -> None:
    async def deliver() -> list[str]:
        connected, event = shell.connect(), shell.event("1")
        return [(await connected.once(event, shell.count)).response for _ in range(3)]

    assert asyncio.run(deliver()) == ["1", "1", "1"], (
        "An event that came three times was counted more than once."
    )
    ids = {event["id"] for event in shell.stand_in.published}
    assert ids == {"1/0"}, (
        "What follows from an event has another id each time, so nobody can tell that it is one."
    )


def test_a_write_fails_when_another_was_faster(shell: Shell) -> None:
    async def race() -> None:
        connected = shell.connect()
        transactions = [shell.sidecar.Transaction(connected) for _ in range(2)]
        for transaction in transactions:
            transaction.save("count", (await transaction.load("count") or 0) + 1)
        await transactions[0].commit()
        with pytest.raises(shell.sidecar.Conflict):
            await transactions[1].commit()

    shell.stand_in.state["count"] = (1, 5)
    try:
        asyncio.run(race())
    except pytest.fail.Exception:
        pytest.fail("The second writer wrote over what the first had written: no ETag was sent.")
    except shell.sidecar.Conflict:
        pytest.fail("The first writer was refused, and nobody had written before it.")
    assert shell.stand_in.state["count"][1] == 6, "What the first writer wrote is lost."


def test_events_at_the_same_time_are_all_counted(shell: Shell) -> None:
    async def deliver() -> None:
        connected = shell.connect()
        await asyncio.gather(*(connected.once(shell.event(str(n)), shell.count) for n in range(8)))

    asyncio.run(deliver())
    assert shell.stand_in.state["count"][1] == 8, "Events that came at the same time were lost."


def test_an_event_whose_agent_fails_is_not_taken_as_done(shell: Shell) -> None:
    async def fail(event: Any, transaction: Any) -> Any:
        transaction.save("count", 99)
        raise RuntimeError("the model failed")

    async def deliver() -> None:
        connected, event = shell.connect(), shell.event("1")
        with pytest.raises(RuntimeError):
            await connected.once(event, fail)
        assert not shell.stand_in.state, "A failed event left something behind."
        count = (await connected.once(event, shell.count)).response
        assert count == "1", f"An event that had failed came again, and the count is {count}, not 1."

    asyncio.run(deliver())

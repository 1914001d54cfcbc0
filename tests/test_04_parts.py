"""Parts of the research agent that are best asked directly."""

import asyncio
import re
from pathlib import Path

import pytest

from app.agent import Citations
from app.config import Settings
from app.log import Log
from app.models import Event, Notebook, Source


@pytest.mark.parametrize(
    "pieces", [["One [1] and [7], as [x](y)[2]."], list("One [1] and [7], as [x](y)[2].")]
)
def test_a_citation_of_nothing_is_dropped(pieces: list[str]) -> None:
    known = [Source(n=n, title="", url=str(n), snippet="", step=1) for n in (1, 2)]
    citations = Citations(Notebook(sources=known))
    text = "".join([citations.feed(piece) for piece in pieces] + [citations.rest()])
    assert text == "One [1] and, as [x](y)[2].", "A citation points at nothing."


async def test_a_log_that_is_behind_its_reader_tells_nothing_twice() -> None:
    log = Log()  # of a replica that has not read the store yet
    events = [Event((0, number), "token", {}) for number in range(1, 8)]
    log.add(*events[:2])

    async def add_the_rest() -> None:
        log.add(*events[2:], Event((0, 8), "done", {}))

    rest = asyncio.create_task(add_the_rest())
    told = [event.id for event in [event async for event in log.follow((0, 5))] if event]
    assert told == [(0, 6), (0, 7), (0, 8)], "Events came twice when a stream was resumed."
    await rest


def test_every_setting_is_in_the_example_with_its_default(
    lesson_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    example = lesson_root / "research-agent" / ".env.example"
    named = re.findall(r"^([A-Z_]+)=", example.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)
    shown = Settings(_env_file=example)  # type: ignore[call-arg]
    assert shown == Settings(_env_file=None, openai_api_key=shown.openai_api_key)  # type: ignore[call-arg]

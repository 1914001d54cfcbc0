"""Unit tests: parts of the research agent without a server."""

import asyncio
import re
from pathlib import Path

import pytest

from app.config import Settings
from app.models import Checkpoint, Event, Source
from app.research.citations import CitationFilter
from app.runs.event_log import EventLog

SAID = "One [1]\nand [7], [2, 9], [0] or [3](http://evil.example/), as [x](y)[2]."


@pytest.mark.parametrize("pieces", [[SAID], list(SAID), re.findall(r"\s*\S+\s", SAID + " ")])
def test_a_citation_of_nothing_is_dropped(pieces: list[str]) -> None:
    known = [Source(n=n, title="", url=str(n), snippet="", step=1) for n in (1, 2, 3)]
    citations = CitationFilter(Checkpoint(sources=known))
    text = "".join([citations.feed(piece) for piece in pieces] + [citations.flush()]).strip()
    cited = re.findall(r"\d+", " ".join(re.findall(r"\[[\d, ]+\]", text)))
    invented = sorted({*cited} - {"1", "2", "3"})
    assert not invented, f"A citation points at nothing: no source has the number {', '.join(invented)}."
    assert text == "One [1]\nand, [2], or [3], as [x](y)[2].", (
        f"More was taken out of the answer than citations of nothing, or less: {text!r}."
    )


def test_a_surrogate_pair_split_between_chunks_is_joined() -> None:
    citations = CitationFilter(Checkpoint())
    told = [citations.feed(piece) for piece in ("so \ud83d", "\ude00", "\ud83d")] + [citations.flush()]
    assert "".join(told) == "so \U0001f600\ufffd", (
        f"A character that came in halves became {''.join(told)!r}."
    )
    "".join(told).encode()


async def test_a_log_that_is_behind_its_reader_sends_no_event_twice() -> None:
    log = EventLog()  # of a replica that has not read the store yet
    events = [Event((0, number), "token", {}) for number in range(1, 8)]
    log.add(*events[:2])

    async def add_the_rest() -> None:
        log.add(*events[2:], Event((0, 8), "done", {}))

    rest = asyncio.create_task(add_the_rest())
    told = [event.id async for batch in log.follow((0, 5)) for event in batch]
    assert told == [(0, 6), (0, 7), (0, 8)], (
        f"The reader has seen the event 0-5 and there are three more, and these ids came: {told}."
    )
    await rest


async def test_a_stream_is_resumed_across_a_change_of_replica() -> None:
    """The replica that takes over numbers its events from 1 again, in the next epoch."""
    ids = [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]
    log = EventLog([Event(each, "done" if each == (1, 2) else "token", {}) for each in ids])
    for seen in range(len(ids)):
        told = [event.id async for batch in log.follow(ids[seen]) for event in batch]
        assert told == ids[seen + 1 :], (
            "A run went on at another replica, and a reader who comes back after the event "
            f"{ids[seen]} gets {told}, not {ids[seen + 1 :]}."
        )


@pytest.mark.parametrize("keys", [",", "sha256:zz", "sha256:"])
def test_a_list_of_invalid_keys_is_refused(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("API_KEYS", keys)
    with pytest.raises(ValueError, match="api_keys"):
        Settings(_env_file=None, openai_api_key="x")  # type: ignore[call-arg, arg-type]


def test_every_setting_is_in_the_example_with_its_default(
    lesson_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    example = lesson_root / "research-agent" / ".env.example"
    named = re.findall(r"^([A-Z_]+)=", example.read_text(), re.MULTILINE)
    differ = {*named} ^ {name.upper() for name in Settings.model_fields}
    assert not differ, (
        f"In .env.example and config.py are not the same settings: {', '.join(sorted(differ))}."
    )
    assert len(named) == len({*named}), "A setting stands twice in .env.example."
    shown, default = (Settings(_env_file=file, openai_api_key="x") for file in (example, None))  # type: ignore[call-arg, arg-type]
    assert shown == default, "A line of .env.example is not the setting's default."

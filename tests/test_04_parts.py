"""Parts of the research agent that are best asked directly."""

import re
from pathlib import Path

import pytest

from app.agent import Citations
from app.config import Settings
from app.models import Notebook, Source


@pytest.mark.parametrize(
    "pieces", [["One [1] and [7], as [x](y)[2]."], list("One [1] and [7], as [x](y)[2].")]
)
def test_a_citation_of_nothing_is_dropped(pieces: list[str]) -> None:
    known = [Source(n=n, title="", url=str(n), snippet="", step=1) for n in (1, 2)]
    citations = Citations(Notebook(sources=known))
    text = "".join([citations.feed(piece) for piece in pieces] + [citations.rest()])
    assert text == "One [1] and, as [x](y)[2].", "A citation points at nothing."


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

"""A passage: a few sentences of one book under one title, and where they really stand."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["page", "manual", "library"]


@dataclass(frozen=True, slots=True)
class Passage:
    """`place` is what a reader opens: `docs/01-basic-api.md#run-it` or `pydoc json.dumps`.

    `url` is where the same stands on the web. `text` is the whole section as it is written; of the passages
    of a long section only the first has it.
    """

    title: str
    place: str
    kind: Kind
    sentences: tuple[str, ...]
    url: str
    text: str

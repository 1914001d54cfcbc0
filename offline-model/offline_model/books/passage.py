"""A passage: a few sentences of one book under one title, and where they really stand."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["page", "manual", "library"]


@dataclass(frozen=True, slots=True)
class Passage:
    """`place` is what a reader opens: `docs/01-basic-api.md#run-it` or `pydoc json.dumps`."""

    title: str
    place: str
    kind: Kind
    sentences: tuple[str, ...]

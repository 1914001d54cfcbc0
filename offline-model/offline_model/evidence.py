"""Evidence: what a conversation says that a field of a schema could want."""

import re
from functools import cached_property
from typing import Any

from offline_model.background import Source
from offline_model.books.words import stems
from offline_model.conversation import Conversation
from offline_model.mentions import (
    NUMBER,
    WEB,
    Number,
    asides_in,
    expressions_in,
    names_in,
    numbers_in,
    pairs_in,
    places_in,
    quoted_in,
)
from offline_model.schemas.merge import Schema

# What costs more than a glance at each letter is only done so far.
MOST_TOLD = 50_000

QUERY = frozenset(stems("query question q search prompt input text topic keywords message"))
NAME = frozenset(stems("name person customer user label"))
SPOT = frozenset(stems("location loc city place country town region where address destination"))
FORMULA = frozenset(stems("expression formula calculation equation math"))
TITLE = frozenset(stems("title topic subject heading headline"))
CITED = frozenset(stems("source url citation reference link place page"))
WHOLE = frozenset(stems("answer response summary explanation content body text result output"))
ASIDES = frozenset(stems("description details notes about summary comment"))


class Evidence:
    """A Source for filling schemas. With `generous`, fields are filled although nobody spoke of them."""

    def __init__(self, conversation: Conversation, background: list[Source], *, generous: bool) -> None:
        self.question = conversation.question
        self.background = background
        self.order: dict[str, int] = {}
        self.generous = generous
        self.told = "\n".join(turn.text for turn in conversation.turns if turn.role in {"system", "user"})[
            :MOST_TOLD
        ]
        self.seed = conversation.seed

    def texts(self, name: str, schema: Schema) -> list[str]:
        found = [*self.facts(name), *self.extracted(name, schema)]
        if self.generous or not found:
            found += self.related(name, schema)
        return list(dict.fromkeys(text for text in found if text))

    def extracted(self, name: str, schema: Schema) -> list[str]:
        """What the question holds for a field of this kind."""
        kind = set(stems(name))
        told = kind | (set(stems(str(schema.get("description", "")))) if not kind & QUERY else set())
        form = WEB.get(schema.get("format", ""))
        if form is not None:
            return form.findall(self.told)
        if kind & FORMULA and (found := expressions_in(self.question)):
            return found
        if kind & QUERY:
            return [self.question.strip()]
        if kind & ASIDES:
            return asides_in(self.question)
        if told & SPOT and self.places:
            return self.places
        return [*self.quoted, *names_in(self.question)] if told & (NAME | FORMULA) or self.quoted else []

    def facts(self, name: str) -> list[str]:
        return self.values.get(" ".join(stems(name)), [])

    def related(self, name: str, schema: Schema) -> list[str]:
        """What the background has for a field: title, place, an excerpt, or sentences that speak of it."""
        kind, best = set(stems(name)), self.background[0] if self.background else None
        if best is None:
            return [self.question.strip()]
        if kind & TITLE:
            return [best.title]
        if kind & CITED:
            return [source.place for source in self.background]
        if kind & WHOLE:
            return [" ".join(best.sentences[:3]), *best.sentences]
        about = set(stems(f"{name} {schema.get('description', '')}"))
        sentences = [sentence for source in self.background for sentence in source.sentences]
        turn = self.seed % len(sentences)
        return sorted(sentences[turn:] + sentences[:turn], key=lambda each: -len(about & set(stems(each))))

    def numbers(self, name: str, schema: Schema) -> list[Number]:
        """Numbers said beside the field's name, then the others: the first for the first field, and so on."""
        beside = [number for text in self.facts(name) for number in numbers_in(text)]
        at = re.search(rf"\b{re.escape(name)}\b\D{{0,12}}?({NUMBER.pattern})", self.question, re.IGNORECASE)
        if at:
            beside += numbers_in(at[1])
        turn = self.order.setdefault(name, len(self.order))
        every = numbers_in(self.question)
        return beside + every[turn:] + every[:turn]

    def finds(self, name: str, schema: Schema) -> bool:
        """Whether a required field can be filled from what was said, rather than made up."""
        if "enum" in schema:
            return bool(self.choices(name, schema, schema["enum"]))
        kind = str(schema.get("type"))
        if kind in {"number", "integer"}:
            return bool(self.numbers(name, schema))
        return kind != "string" or bool(self.facts(name) or self.extracted(name, schema))

    def several(self, name: str, schema: Schema) -> list[Any]:
        """Every thing of the kind that one field wants, when the question names more than one."""
        if str(schema.get("type")) in {"number", "integer"}:
            return numbers_in(self.question)
        if "enum" in schema:
            return self.choices(name, schema, schema["enum"])
        found = self.extracted(name, schema)
        return found if found == self.places or found == self.quoted else []

    def choices(self, name: str, schema: Schema, options: list[Any]) -> list[Any]:
        """Options of an enum that are spoken of, the latest fact first, then by mention."""
        facts = [fact.lower() for fact in self.facts(name)]
        said = f" {' '.join(stems(self.question))} "
        by_fact = [each for each in options if str(each).lower() in facts]
        return by_fact + [each for each in options if f" {' '.join(stems(str(each)))} " in said]

    def truths(self, name: str, schema: Schema) -> list[bool]:
        for fact in self.facts(name):
            if fact.lower() in {"true", "yes", "on", "false", "no", "off"}:
                return [fact.lower() in {"true", "yes", "on"}]
        about = set(stems(name))
        spoken = about & set(stems(self.question))
        denied = re.search(r"\b(?:not|no|never|without|don't)\b", self.question, re.IGNORECASE)
        return [bool(spoken) and not denied]

    def wants(self, name: str, schema: Schema) -> bool:
        """Whether an optional field is worth filling."""
        if self.generous or self.facts(name):
            return True
        if "enum" in schema:
            return bool(self.choices(name, schema, schema["enum"]))
        kinds = str(schema.get("type", schema.get("anyOf", "")))
        if "integer" in kinds or "number" in kinds:
            return re.search(rf"\b{re.escape(name)}\b", self.question, re.IGNORECASE) is not None
        return "string" in kinds and set(stems(name)) & SPOT != set() and bool(self.places)

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        return pairs_in(self.told)

    @cached_property
    def values(self) -> dict[str, list[str]]:
        """What was said of each key, by the key's stems."""
        found: dict[str, list[str]] = {}
        for key, value in self.pairs:
            found.setdefault(" ".join(stems(key)), []).append(value)
        return found

    @cached_property
    def places(self) -> list[str]:
        return places_in(self.question)

    @cached_property
    def quoted(self) -> list[str]:
        return quoted_in(self.question)

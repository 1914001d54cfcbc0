"""Slot filling: find values for the fields of a schema in what the conversation says."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from offline_model.conversation import Conversation, parse_json
from offline_model.corpus.terms import stems
from offline_model.json_schema.extraction import (
    FORMAT_PATTERNS,
    NUMBER,
    Number,
    asides_in,
    expressions_in,
    key_values,
    names_in,
    numbers_in,
    pairs_in,
    places_in,
    quoted_in,
    subject_of,
)
from offline_model.json_schema.scalars import FORMAT_EXAMPLES
from offline_model.json_schema.schemas import Schema
from offline_model.research.documents import Document

# The part of a conversation that regular expressions search.
MAX_CHARACTERS = 50_000
# Separates the items of a list in a question.
LIST_SEPARATOR = re.compile(r"\s*(?:[,;]\s*and\b|[,;\n]|\band\b)\s*")
MAX_WORDS_OF_ITEM = 8

QUERY_FIELDS = frozenset(stems("query question q search prompt input text topic keywords message"))
NAME_FIELDS = frozenset(stems("name person customer user label"))
PLACE_FIELDS = frozenset(stems("location loc city place country town region where address destination"))
FORMULA_FIELDS = frozenset(stems("expression formula calculation equation math"))
TITLE_FIELDS = frozenset(stems("title topic subject heading headline"))
URL_FIELDS = frozenset(stems("source url citation reference link place page"))
ANSWER_FIELDS = frozenset(stems("answer response summary explanation content body text result output"))
DETAIL_FIELDS = frozenset(stems("description details notes about summary comment"))


class SlotValues:
    """The source of values for `json_schema.generator`.

    `fill_from_documents`: fields that the conversation does not mention get values from the documents.
    `answer`: the answer as text, if there is one.
    `item`: one item of a list in the question; values are then taken from its words only.
    """

    def __init__(
        self,
        conversation: Conversation,
        documents: Sequence[Document] = (),
        *,
        fill_from_documents: bool = False,
        answer: str = "",
        item: str = "",
    ) -> None:
        self.conversation, self.documents = conversation, documents
        self.fill_from_documents = fill_from_documents
        self.answer, self.item = answer, item
        self.question = item or conversation.question
        self.results = [] if item else [result.text for result in conversation.results]
        roles = {"system", "user"}
        text = item or "\n".join(turn.text for turn in conversation.turns if turn.role in roles)
        self.text = text[:MAX_CHARACTERS]
        self.order: dict[str, int] = {}

    def listed_items(self) -> list["SlotValues"]:
        """One source of values for each item of a list in the question; empty if the question has no list."""
        listed = self.question.rpartition(": ")[2] if not self.item else ""
        parts = [part for part in LIST_SEPARATOR.split(listed.strip(" \n.?!")) if part]
        if len(parts) < 2 or any(len(part.split()) > MAX_WORDS_OF_ITEM for part in parts):
            return []
        given, fill = (self.conversation, self.documents), self.fill_from_documents
        return [SlotValues(*given, fill_from_documents=fill, item=part) for part in parts]

    def texts(self, name: str, schema: Schema) -> list[str]:
        found = [*self.stated_values(name), *self.extract(name, schema)]
        if self.answer and set(stems(name)) & ANSWER_FIELDS:
            found.insert(0, self.answer)
        if self.item:
            found.append(subject_of(self.item))
        if schema.get("format") == "uri":
            found += [document.location for document in self.documents if "://" in document.location]
        elif schema.get("format") not in FORMAT_EXAMPLES and (self.fill_from_documents or not found):
            found += self.from_documents(name, schema)
        return list(dict.fromkeys(text for text in found if text))

    def extract(self, name: str, schema: Schema) -> list[str]:
        """Values in the question for a field of this name, description and format."""
        kind = set(stems(name))
        about = kind | (set(stems(str(schema.get("description", "")))) if not kind & QUERY_FIELDS else set())
        pattern = FORMAT_PATTERNS.get(schema.get("format", ""))
        if pattern is not None:
            return pattern.findall(self.text)
        if kind & FORMULA_FIELDS and (found := expressions_in(self.question)):
            return found
        if kind & QUERY_FIELDS:
            return [self.question.strip()]
        if kind & DETAIL_FIELDS:
            return asides_in(self.question)
        if about & PLACE_FIELDS and self.places:
            return self.places
        return (
            [*self.quoted, *names_in(self.question)]
            if about & (NAME_FIELDS | FORMULA_FIELDS) or self.quoted
            else []
        )

    def stated_values(self, name: str) -> list[str]:
        """Values that the conversation gives with the field's name, as in `city: Oslo`."""
        return self.values_by_key.get(" ".join(stems(name)), [])

    def from_documents(self, name: str, schema: Schema) -> list[str]:
        """Values from the documents: a title, URLs, an excerpt, or the sentences closest to its name."""
        kind, best = set(stems(name)), self.documents[0] if self.documents else None
        if best is None:
            return [self.answer or self.question.strip()]
        if kind & TITLE_FIELDS:
            return [best.title]
        if kind & URL_FIELDS:
            return [document.location for document in self.documents]
        if kind & ANSWER_FIELDS:
            return [self.answer or " ".join(best.sentences[:3]), *best.sentences]
        about = set(stems(f"{name} {schema.get('description', '')}"))
        sentences = [sentence for document in self.documents for sentence in document.sentences]
        return sorted(sentences, key=lambda each: -len(about & set(stems(each))))

    def numbers(self, name: str, schema: Schema) -> list[Number]:
        """Numbers next to the field's name, then the others: the first for the first field, and so on."""
        stated = [number for text in self.stated_values(name) for number in numbers_in(text)]
        turn = self.order.setdefault(name, len(self.order))
        every = numbers_in("\n".join(self.results)) or numbers_in(self.question)
        return stated + self.numbers_near_name(name) + every[turn:] + every[:turn]

    def numbers_near_name(self, name: str) -> list[Number]:
        """Numbers next to a word of the field's name: `at most 3 results` for `max_results`."""
        found = []
        for word in stems(name):
            # The stem of `quantity` is `quantiti`.
            said = rf"\b{re.escape(word.removesuffix('i'))}\w*"
            near = rf"{said}\D{{0,12}}?({NUMBER.pattern})|({NUMBER.pattern})\s+{said}"
            if at := re.search(near, self.question, re.IGNORECASE):
                found += numbers_in(at[1] or at[2])
        return found

    def has_value(self, name: str, schema: Schema) -> bool:
        """Whether the conversation has a value for a required field, so that none must be made up."""
        if "enum" in schema:
            return bool(self.choices(name, schema, schema["enum"]))
        kind = str(schema.get("type"))
        if kind in {"number", "integer"}:
            return bool(self.numbers(name, schema))
        return kind != "string" or bool(self.stated_values(name) or self.extract(name, schema))

    def all_values(self, name: str, schema: Schema) -> list[Any]:
        """All values in the question for one field, such as several places."""
        if str(schema.get("type")) in {"number", "integer"}:
            return numbers_in(self.question)
        found = self.extract(name, schema)
        return found if found == self.places or found == self.quoted else []

    def choices(self, name: str, schema: Schema, options: list[Any]) -> list[Any]:
        """Options of an enum that the conversation mentions: stated values first."""
        stated = [value.lower() for value in self.stated_values(name)]
        words = f" {' '.join(stems(self.question))} "
        first = [each for each in options if str(each).lower() in stated]
        return first + [each for each in options if f" {' '.join(stems(str(each)))} " in words]

    def booleans(self, name: str, schema: Schema) -> list[bool]:
        mentioned = set(stems(name)) & set(stems(self.question))
        negated = re.search(r"\b(?:not|no|never|without|don't|false|off)\b", self.question, re.IGNORECASE)
        return [bool(mentioned) and not negated]

    def should_fill(self, name: str, schema: Schema) -> bool:
        """Whether to fill an optional field."""
        if self.fill_from_documents or self.stated_values(name):
            return True
        branches = [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]
        return any(self.is_mentioned(name, each) for each in branches if isinstance(each, dict))

    def is_mentioned(self, name: str, schema: Schema) -> bool:
        """Whether the question has a value for an optional field of this kind."""
        kind, named = schema.get("type"), set(stems(name)) <= set(stems(self.question))
        if "enum" in schema:
            return bool(self.choices(name, schema, schema["enum"]))
        if kind in {"integer", "number"}:
            return bool(self.numbers_near_name(name))
        if kind == "string" and "format" in schema:
            return bool(self.extract(name, schema))
        if kind == "string":
            return bool((named and self.quoted) or (set(stems(name)) & PLACE_FIELDS and self.places))
        return named and kind in {"boolean", "array"}

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Keys and values in the conversation and in the results of tools."""
        return pairs_in(self.text) + [pair for text in self.results for pair in key_values(parse_json(text))]

    @cached_property
    def values_by_key(self) -> dict[str, list[str]]:
        """The values of each key, by the key's stems."""
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

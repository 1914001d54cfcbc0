"""Evidence: what a conversation says that a field of a schema could want."""

import re
from functools import cached_property, partial
from typing import Any

from offline_model.conversation.documents import Source, parsed
from offline_model.conversation.extraction import (
    NUMBER,
    WEB,
    Number,
    asides_in,
    expressions_in,
    flat,
    names_in,
    numbers_in,
    pairs_in,
    places_in,
    quoted_in,
    subject,
)
from offline_model.conversation.messages import Conversation
from offline_model.corpus.stemming import stems
from offline_model.json_schema.merging import Schema

# What costs more than a glance at each letter is only done so far.
MOST_TOLD = 50_000
# The members of a list, none of which has more words.
LISTED = re.compile(r"\s*(?:[,;]\s*and\b|[,;\n]|\band\b)\s*")
MOST_WORDS = 8

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

    def __init__(
        self,
        conversation: Conversation,
        background: list[Source],
        *,
        generous: bool,
        said: str = "",
        thing: str = "",
    ) -> None:
        """`said` is the answer in words, if there is one. With a `thing` of a list, only its words count."""
        self.conversation, self.background, self.generous = conversation, background, generous
        self.said, self.thing = said, thing
        self.question = thing or conversation.question
        self.results = [] if thing else [result.text for result in conversation.results]
        roles = {"system", "user"}
        told = thing or "\n".join(turn.text for turn in conversation.turns if turn.role in roles)
        self.told = told[:MOST_TOLD]
        self.order: dict[str, int] = {}
        self.seed = conversation.seed

    def things(self) -> list["Evidence"]:
        """For each of several things that the question lists, what is said of it."""
        listed = self.question.rpartition(": ")[2] if not self.thing else ""
        parts = [part for part in LISTED.split(listed.strip(" \n.?!")) if part]
        if len(parts) < 2 or any(len(part.split()) > MOST_WORDS for part in parts):
            return []
        of_conversation = partial(Evidence, self.conversation, self.background, generous=self.generous)
        return [of_conversation(thing=part) for part in parts]

    def texts(self, name: str, schema: Schema) -> list[str]:
        found = [*self.facts(name), *self.extracted(name, schema)]
        if self.thing:
            found.append(subject(self.thing))
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
            return [self.said or self.question.strip()]
        if kind & TITLE:
            return [best.title]
        if kind & CITED:
            return [source.place for source in self.background]
        if kind & WHOLE:
            return [self.said or " ".join(best.sentences[:3]), *best.sentences]
        about = set(stems(f"{name} {schema.get('description', '')}"))
        sentences = [sentence for source in self.background for sentence in source.sentences]
        turn = self.seed % len(sentences)
        return sorted(sentences[turn:] + sentences[:turn], key=lambda each: -len(about & set(stems(each))))

    def numbers(self, name: str, schema: Schema) -> list[Number]:
        """Numbers said beside the field's name, then the others: the first for the first field, and so on."""
        told = [number for text in self.facts(name) for number in numbers_in(text)]
        turn = self.order.setdefault(name, len(self.order))
        every = numbers_in("\n".join(self.results)) or numbers_in(self.question)
        return told + self.beside(name) + every[turn:] + every[:turn]

    def beside(self, name: str) -> list[Number]:
        """The numbers that stand beside a word of a field's name: `at most 3 results` for `max_results`."""
        found = []
        for word in stems(name):
            # The stem of `quantity` is `quantiti`.
            said = rf"\b{re.escape(word.removesuffix('i'))}\w*"
            near = rf"{said}\D{{0,12}}?({NUMBER.pattern})|({NUMBER.pattern})\s+{said}"
            if at := re.search(near, self.question, re.IGNORECASE):
                found += numbers_in(at[1] or at[2])
        return found

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
        branches = [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]
        return any(self.speaks_of(name, each) for each in branches if isinstance(each, dict))

    def speaks_of(self, name: str, schema: Schema) -> bool:
        """Whether the question has a value for an optional field of this kind."""
        kind, named = schema.get("type"), set(stems(name)) <= set(stems(self.question))
        if "enum" in schema:
            return bool(self.choices(name, schema, schema["enum"]))
        if kind in {"integer", "number"}:
            return bool(self.beside(name))
        if kind == "string" and "format" in schema:
            return bool(self.extracted(name, schema))
        if kind == "string":
            return bool((named and self.quoted) or (set(stems(name)) & SPOT and self.places))
        return named and kind in {"boolean", "array"}

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """What is said of which key, by the conversation and by what tools returned."""
        return pairs_in(self.told) + [pair for text in self.results for pair in flat(parsed(text))]

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

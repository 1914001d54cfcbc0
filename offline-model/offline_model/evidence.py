"""Evidence: what a conversation says that a field of a schema could want."""

import json
import re
from functools import cached_property
from typing import Any

from offline_model.background import Source
from offline_model.books.markup import split
from offline_model.books.words import stems
from offline_model.conversation import Conversation
from offline_model.schemas.merge import Schema
from offline_model.schemas.numbers import Number

MOST_QUESTION, MOST_TOLD = 4_000, 50_000

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|\.\d)")
SPELLED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
QUOTED = re.compile(r"(?<!\w)(['\"])(.+?)\1(?!\w)|[“‘«「](.+?)[”’»」]")
NAMED = re.compile(r"\b(?:named|called|name is|titled)\s+([\w.\-]+(?:\s+[A-Z][\w.\-]*)*)")
PLACE = re.compile(
    r"\b(?:in|at|near|from|to)\s+((?:[^\W\d_a-z][\w'’.\-]*)(?:,?\s+(?:[^\W\d_a-z][\w'’\-]*))*"
    r"(?:(?:,|\s+and|\s+or|,\s*and)\s+(?:in\s+|at\s+)?[^\W\d_a-z][\w'’.\-]*"
    r"(?:\s+[^\W\d_a-z][\w'’\-]*)*)*)"
)
ASIDES_AS = (re.compile(r"\s[-–—]\s+(.+?)\W*$"), re.compile(r"\(([^)]+)\)"))
EXPRESSION = re.compile(r"-?[\d(][\d\s.+\-*/%^()]*[+\-*/%^][\d\s.+\-*/%^()]*[\d)]")
PAIR = re.compile(
    r"(?:^|[\n,;{]|\bthe |\bmy )\s*[\"']?([A-Za-z][\w \-]{0,40}?)[\"']?\s*(?::|=|\bis\b)\s*([^\n,;{}]+)", re.I
)
WEB = {
    "email": re.compile(r"(?<![\w.+\-])[\w.+\-]+@[\w\-]+(?:\.[\w\-]+)+"),
    "uri": re.compile(r"https?://[^\s\"'<>)\]]+"),
    "date": re.compile(r"\b\d{4}-\d{2}-\d{2}\b"),
}

QUERY = frozenset(stems("query question q search prompt input text topic keywords message"))
NAME = frozenset(stems("name title person customer user label"))
SPOT = frozenset(stems("location loc city place country town region where address destination"))
FORMULA = frozenset(stems("expression formula calculation equation math"))
TITLE = frozenset(stems("title topic subject heading headline"))
CITED = frozenset(stems("source url citation reference link place page"))
WHOLE = frozenset(stems("answer response summary explanation content body text result output"))
ASIDES = frozenset(stems("description details notes about summary comment"))


class Evidence:
    """A Source for filling schemas. With `generous`, fields are filled although nobody spoke of them."""

    def __init__(self, conversation: Conversation, background: list[Source], *, generous: bool) -> None:
        # Some patterns below look twice at every letter, so a long text is only read so far.
        self.question = conversation.question[:MOST_QUESTION]
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
        if kind & FORMULA and (match := EXPRESSION.search(self.question)):
            return [match[0].strip()]
        if kind & QUERY:
            return [self.question.strip()]
        if kind & ASIDES:
            return [match[1] for form in ASIDES_AS if (match := form.search(self.question))]
        if told & SPOT and self.places:
            return self.places
        return [*self.quoted, *self.names] if told & (NAME | FORMULA) or self.quoted else []

    def facts(self, name: str) -> list[str]:
        wanted = " ".join(stems(name))
        return [value for key, value in self.pairs if " ".join(stems(key)) == wanted]

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
        """Keys and values: JSON objects first, then `key: value` and `my key is value`."""
        found = [pair for value in objects(self.told) for pair in flat(value)]
        return found + [(m[1], m[2].strip(" .'\"")) for m in PAIR.finditer(self.told)]

    @cached_property
    def quoted(self) -> list[str]:
        return [m[2] or m[3] for m in QUOTED.finditer(self.question)]

    @cached_property
    def names(self) -> list[str]:
        return [m[1].strip(" .'\"") for m in NAMED.finditer(self.question)]

    @cached_property
    def places(self) -> list[str]:
        """Every place on its own, but `San Francisco, CA` in one."""
        found: list[str] = []
        for match in PLACE.finditer(self.question):
            text = re.sub(r",\s+([A-Z]{2})\b", r"\0\1", match[1])
            for part in re.split(r",\s*and\s+|,\s+|\s+and\s+|\s+or\s+", text):
                found.append(re.sub(r"^(?:in|at)\s+", "", part).replace("\0", ", ").strip(" .?!,"))
        return [place for place in dict.fromkeys(found) if place]


def numbers_in(text: str) -> list[Number]:
    found: list[tuple[int, Number]] = []
    for match in NUMBER.finditer(text):
        digits = match[0].replace(",", "")
        if len(digits) < 300:
            found.append((match.start(), float(digits) if "." in digits else int(digits)))
    for value, word in enumerate(SPELLED):
        found += [(m.start(), value) for m in re.finditer(rf"\b{word}\b", text, re.IGNORECASE) if value != 1]
    return [number for _, number in sorted(found)]


def objects(text: str) -> list[Any]:
    """The JSON objects that stand in a text."""
    decoder, at = json.JSONDecoder(), text.find("{")
    found: list[Any] = []
    for _ in range(200):
        if at < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        found.append(value)
        at = text.find("{", end)
    return found


def flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    """An object's members as pairs of key and text."""
    if isinstance(value, dict):
        return [pair for name, member in value.items() for pair in flat(member, str(name))]
    if isinstance(value, list):
        if all(isinstance(each, str | int | float) for each in value):
            return [(key, ", ".join(map(str, value)))]
        return [pair for member in value for pair in flat(member, key)]
    if value is None or not key:
        return []
    return [(key, json.dumps(value) if isinstance(value, bool) else str(value))]


def sentences_of(text: str) -> list[str]:
    return [part.strip() for line in text.splitlines() for part in split(line) if part.strip()]

"""Properties of the offline model that hold for every input: filled schemas, options, tokens, stems."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from offline_model.api import responses
from offline_model.corpus.terms import stems, words_of
from offline_model.delivery.faults import DeliveryOptions, InvalidOptions, parse_model_name, parse_options
from offline_model.json_schema.generator import generate
from offline_model.json_schema.schemas import InvalidSchema
from offline_model.json_schema.validator import validator_options

Schema = dict[str, Any]

names = st.sampled_from(["name", "city", "count", "tags", "next", "ключ", "a b"])
patterns = st.sampled_from(
    [r"^[a-z]{2,5}$", r"^\d{3}-\d{4}$", r"^(foo|bar)+$", r"^\S+@\S+$", r"[A-Z]x?", r"^$"]
)
formats = st.sampled_from(
    ["date", "date-time", "time", "email", "uuid", "ipv4", "ipv6", "uri", "hostname", "duration"]
)
values = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5)


class Nothing:
    """A source without values: the generator makes them all up."""

    def texts(self, name: str, schema: Schema) -> list[str]:
        return []

    def numbers(self, name: str, schema: Schema) -> list[int | float]:
        return []

    def choices(self, name: str, schema: Schema, options: list[Any]) -> list[Any]:
        return []

    def booleans(self, name: str, schema: Schema) -> list[bool]:
        return []

    def should_fill(self, name: str, schema: Schema) -> bool:
        return True

    def listed_items(self) -> list["Nothing"]:
        return []


@st.composite
def strings(draw: st.DrawFn) -> Schema:
    extra = draw(
        st.just({})
        | patterns.map(lambda pattern: {"pattern": pattern})
        | formats.map(lambda name: {"format": name})
        | st.tuples(st.integers(0, 30), st.integers(0, 30)).map(
            lambda pair: {"minLength": pair[0], "maxLength": sum(pair)}
        )
    )
    return {"type": "string", **extra}


@st.composite
def numbers(draw: st.DrawFn) -> Schema:
    kind = draw(st.sampled_from(["integer", "number"]))
    low, room = draw(st.integers(-99, 99)), draw(st.integers(2, 50))
    bounds = {
        draw(st.sampled_from(["minimum", "exclusiveMinimum"])): low,
        draw(st.sampled_from(["maximum", "exclusiveMaximum"])): low + room,
    }
    kept = draw(st.sets(st.sampled_from(sorted(bounds))))
    step = {"multipleOf": draw(st.sampled_from([1, 2, 0.5]))} if draw(st.booleans()) and room > 4 else {}
    return {"type": kind, **{key: bounds[key] for key in kept}, **step}


@st.composite
def objects(draw: st.DrawFn, parts: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(names, parts, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    closed = {"additionalProperties": False} if draw(st.booleans()) else {}
    return {"type": "object", "properties": properties, "required": required, **closed}


@st.composite
def arrays(draw: st.DrawFn, parts: st.SearchStrategy[Schema]) -> Schema:
    low = draw(st.integers(0, 3))
    many = {"type": "integer"} if draw(st.booleans()) else {"type": "string"}
    if draw(st.booleans()):
        return {"type": "array", "items": many, "minItems": low, "uniqueItems": True}
    return {"type": "array", "items": draw(parts), "minItems": low, "maxItems": low + draw(st.integers(0, 2))}


def composed(parts: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return (
        objects(parts)
        | arrays(parts)
        | st.lists(parts, min_size=1, max_size=3).map(lambda each: {"anyOf": each})
        | st.lists(objects(parts), min_size=1, max_size=1).map(lambda each: {"allOf": each})
        | parts.map(lambda each: {"oneOf": [each, {"type": "null"}]} if each.get("type") else each)
    )


leaves = (
    strings()
    | numbers()
    | st.just({"type": "boolean"})
    | st.just({"type": ["string", "null"]})
    | st.lists(values, min_size=1, max_size=4, unique_by=repr).map(lambda each: {"enum": each})
    | values.map(lambda each: {"const": each})
    | st.just({"$ref": "#/$defs/node"})
)
NODE = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
    },
    "required": ["label", "next"],
    "additionalProperties": False,
}
schemas = objects(st.recursive(leaves, composed, max_leaves=8)).map(
    lambda each: {**each, "$defs": {"node": NODE}}
)


@given(schemas, st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_filled_value_fits_its_schema(schema: Schema, seed: int) -> None:
    value = generate(schema, Nothing(), seed)
    Draft202012Validator(schema, **validator_options()).validate(value)


json_values = st.recursive(
    values | st.floats(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=9), each, max_size=3),
)
KEYWORDS = [
    "type", "properties", "required", "items", "enum", "const", "anyOf", "allOf", "oneOf", "not", "if",
    "then", "pattern", "format", "minLength", "minItems", "minimum", "multipleOf", "$ref", "$defs",
    "contains", "additionalProperties", "patternProperties", "dependentRequired", "propertyNames",
    "minProperties",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYWORDS), json_values, max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_nonsense_schema_is_refused_or_filled_but_never_breaks(schema: Schema) -> None:
    try:
        generate(schema, Nothing())
    except InvalidSchema as problem:
        assert str(problem)


grammar = st.lists(
    st.tuples(
        st.sampled_from(["tps", "ttft", "fault", "retry_after", "after", "tokens", "every", "speed"]),
        st.sampled_from(["1", "0", "-1", "2.5", "nan", "inf", "hang", "429", "cut", "long", "", "9" * 5000])
        | st.text(),
    ),
    max_size=4,
).map(lambda pairs: "&".join("=".join(pair) for pair in pairs))


@given(grammar | st.text())
@settings(deadline=None)
def test_options_are_parsed_or_refused_with_a_reason(text: str) -> None:
    for read, written in (
        (parse_options, text),
        (parse_model_name, f"offline?{text}"),
        (parse_model_name, text),
    ):
        try:
            assert isinstance(read(written), DeliveryOptions)
        except InvalidOptions as problem:
            assert str(problem)


@given(st.text())
def test_tokens_join_to_the_text(text: str) -> None:
    pieces = responses.split_tokens(text)
    assert "".join(pieces) == text
    assert responses.count_tokens(text) == len(pieces)
    assert all(pieces)


@given(st.text())
def test_every_word_of_a_text_has_one_stem(text: str) -> None:
    assert len(stems(text)) == len(words_of(text))


def test_the_forms_of_a_word_have_one_stem() -> None:
    assert len(set(stems("stop stops stopped stopping"))) == 1
    assert stems("dictionaries") == stems("dict"), "Questions say dictionary, Python says dict."


def test_a_reference_may_be_percent_encoded() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/one%20word"}}, "required": ["a"]}
    schema["$defs"] = {"one word": {"const": 1}}
    assert generate(schema, Nothing()) == {"a": 1}

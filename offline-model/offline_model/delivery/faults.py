"""Pace and faults: one small grammar, in the model's name after `?` or in the header X-Offline."""

from typing import Annotated, Literal, Self
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MODEL = "offline"

# Which options mean something only together with which fault.
OPTIONS = {"retry_after": {"429"}, "after": {"cut", "malformed"}, "tokens": {"long"}}


class BadPace(ValueError):
    """The text is not in the grammar; the message says where."""


class Pace(BaseModel):
    """How an answer is delivered. Times in seconds, lengths in tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tps: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    ttft: Annotated[float, Field(ge=0, le=3600)] = 0
    fault: Literal["hang", "401", "429", "500", "cut", "malformed", "long"] | None = None
    retry_after: Annotated[int, Field(ge=0, le=86_400)] = 1
    after: Annotated[int, Field(ge=0, le=1_000_000)] = 5
    tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 100_000
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 1

    @model_validator(mode="after")
    def options_belong_to_their_fault(self) -> Self:
        given = self.model_fields_set
        for option, faults in OPTIONS.items():
            if option in given and self.fault not in faults:
                raise ValueError(f"{option} needs fault={' or fault='.join(sorted(faults))}")
        if "every" in given and self.fault is None:
            raise ValueError("every needs a fault")
        return self


def parse(text: str) -> Pace:
    """`tps=20&fault=cut` as a Pace; raises BadPace and nothing else."""
    if not text:
        return Pace()
    try:
        values = parse_qs(text, keep_blank_values=True, strict_parsing=True, max_num_fields=16)
    except ValueError as problem:
        raise BadPace(f"not of the form key=value&key=value ({problem})") from problem
    for key, given in values.items():
        if len(given) > 1:
            raise BadPace(f"{key} is given {len(given)} times")
    try:
        return Pace.model_validate({key: given[0] for key, given in values.items()})
    except ValidationError as problem:
        detail = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in detail["loc"])
        raise BadPace(f"{where}: {detail['msg']}" if where else detail["msg"]) from problem


def parse_model(name: str) -> Pace:
    """The pace in a model's name; raises BadPace for any name that is not this model's."""
    base, _, query = name.partition("?")
    if base != MODEL:
        raise BadPace(f"the only model here is `{MODEL}`")
    return parse(query)

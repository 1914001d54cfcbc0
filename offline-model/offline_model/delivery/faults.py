"""Speed and faults of an answer: options in the model's name after `?`, or in the header X-Offline."""

from typing import Annotated, Literal, Self
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MODEL = "offline"

# Options that need one of these faults.
FAULTS_OF_OPTION = {"retry_after": {"429"}, "after": {"cut", "malformed"}, "tokens": {"long"}}

# The call log marks calls with these faults as failed. `long` is not among them, because the client gets a
# complete answer.
FAILURES = {"hang", "401", "429", "500", "cut", "malformed"}


class InvalidOptions(ValueError):
    """The options cannot be parsed; the message says which part is wrong."""


class DeliveryOptions(BaseModel):
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
    def check_options_against_fault(self) -> Self:
        given = self.model_fields_set
        for option, faults in FAULTS_OF_OPTION.items():
            if option in given and self.fault not in faults:
                raise ValueError(f"{option} needs fault={' or fault='.join(sorted(faults))}")
        if "every" in given and self.fault is None:
            raise ValueError("every needs a fault")
        return self


def parse_options(text: str) -> DeliveryOptions:
    """Parse options such as `tps=20&fault=cut`; raise InvalidOptions and nothing else."""
    if not text:
        return DeliveryOptions()
    try:
        values = parse_qs(text, keep_blank_values=True, strict_parsing=True, max_num_fields=16)
    except ValueError as problem:
        raise InvalidOptions(f"not of the form key=value&key=value ({problem})") from problem
    for key, given in values.items():
        if len(given) > 1:
            raise InvalidOptions(f"{key} is given {len(given)} times")
    try:
        return DeliveryOptions.model_validate({key: given[0] for key, given in values.items()})
    except ValidationError as problem:
        detail = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in detail["loc"])
        raise InvalidOptions(f"{where}: {detail['msg']}" if where else detail["msg"]) from problem


def parse_model_name(name: str) -> DeliveryOptions:
    """The options in a model's name; raise InvalidOptions for a name that is not this model's."""
    base, _, query = name.partition("?")
    if base != MODEL:
        raise InvalidOptions(f"the only model here is `{MODEL}`")
    return parse_options(query)

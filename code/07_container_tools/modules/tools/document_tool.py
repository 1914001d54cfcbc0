"""Validate a document against a stored schema, or one that the caller sends."""

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from modules.tools.core import SCRIPTS, Tool
from schemas.document_schema import SCHEMAS


class Input(BaseModel, extra="forbid"):
    document: str = Field(max_length=200_000, description="the document, as JSON or YAML")
    format: Literal["json", "yaml"] = "json"
    schema_name: str = Field(default="document", description=f"a stored schema: {', '.join(SCHEMAS)}")
    # "schema" is also the name of a method of BaseModel, so the attribute has another one.
    json_schema: dict[str, Any] = Field(default={}, alias="schema", description="a JSON Schema of your own")

    @model_validator(mode="after")
    def use_stored_schema(self) -> "Input":
        if not self.json_schema:
            if self.schema_name not in SCHEMAS:
                raise ValueError(f"there is no schema {self.schema_name!r}; there are: {', '.join(SCHEMAS)}")
            self.json_schema = SCHEMAS[self.schema_name]
        return self


class Fault(BaseModel):
    pointer: str
    message: str


class Output(BaseModel):
    valid: bool
    errors: list[Fault]


TOOL = Tool(
    name="validate_document",
    description="Validate a JSON or YAML document against a JSON Schema.",
    input=Input,
    output=Output,
    script=SCRIPTS / "document_script.py",
    packages=True,
)

"""Greet somebody from inside a container."""

from pydantic import BaseModel, Field

from modules.tools.core import SCRIPTS, Tool


class Input(BaseModel, extra="forbid"):
    name: str = Field(min_length=1, max_length=100)


class Output(BaseModel):
    greeting: str
    source: str = Field(alias="from")


TOOL = Tool(
    name="hello",
    description="Say hello to somebody by name.",
    input=Input,
    output=Output,
    script=SCRIPTS / "hello_script.py",
)

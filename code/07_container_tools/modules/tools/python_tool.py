"""Run Python code that nobody has read: no network, no root, and tight limits."""

from pydantic import BaseModel, Field

from modules.tools.core import SCRIPTS, Limits, Tool


class Input(BaseModel, extra="forbid"):
    code: str = Field(min_length=1, max_length=20_000, description="Python code that prints its result")


class Output(BaseModel):
    printed: str


TOOL = Tool(
    name="run_python",
    description="Run Python code in a sandbox without network, and return what it prints.",
    input=Input,
    output=Output,
    script=SCRIPTS / "python_script.py",
    limits=Limits(seconds=5),
)

"""Convert Markdown to HTML."""

from pydantic import BaseModel, Field

from modules.tools.core import SCRIPTS, Tool


class Input(BaseModel, extra="forbid"):
    markdown: str = Field(max_length=100_000)


class Output(BaseModel):
    html: str


TOOL = Tool(
    name="markdown_to_html",
    description="Convert Markdown to HTML.",
    input=Input,
    output=Output,
    script=SCRIPTS / "markdown_script.py",
    packages=True,
)

"""Summarise a CSV or JSON file: its columns, their counts and ranges, and a chart."""

from typing import Literal

from pydantic import BaseModel, Field

from modules.tools.core import SCRIPTS, Tool


class Input(BaseModel, extra="forbid"):
    table: str = Field(min_length=1, max_length=200_000, description="CSV, or a JSON list of objects")
    format: Literal["csv", "json"] = "csv"
    column: str = Field(default="", description="the column to chart; the first if empty")


class Column(BaseModel):
    name: str
    values: int
    missing: int
    distinct: int
    min: float | None = None
    max: float | None = None
    mean: float | None = None


class Output(BaseModel):
    rows: int
    columns: list[Column]
    chart: str


TOOL = Tool(
    name="summarise_table",
    description="Summarise a CSV or JSON file: counts, ranges, and a chart as SVG.",
    input=Input,
    output=Output,
    script=SCRIPTS / "table_script.py",
)

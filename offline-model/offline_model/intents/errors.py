"""Errors of intents; the HTTP layer maps them to responses."""

from offline_model.json_schema.references import InvalidSchema


class UnusableSchema(Exception):
    """No value can be generated for the schema of a tool, or without a `tool` for that of the response."""

    def __init__(self, problem: InvalidSchema, tool: str | None = None) -> None:
        super().__init__(str(problem))
        self.tool = tool

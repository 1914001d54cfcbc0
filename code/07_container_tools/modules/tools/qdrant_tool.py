"""Test the connection to a Qdrant vector database."""

from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator

from modules.tools.core import SCRIPTS, Limits, Tool


class Input(BaseModel, extra="forbid"):
    url: str = Field(max_length=2_000, json_schema_extra={"format": "uri"})
    api_key: SecretStr | None = None
    seconds: float = Field(default=5, gt=0, le=20, description="how long to wait")

    @field_validator("url")
    @classmethod
    def is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a URL such as https://example.org:6333")
        return url


class Output(BaseModel):
    reachable: bool
    reason: str | None = None
    version: str | None = None
    collections: list[str] | None = None


TOOL = Tool(
    name="test_qdrant",
    description="Test whether a Qdrant vector database can be reached.",
    input=Input,
    output=Output,
    script=SCRIPTS / "qdrant_script.py",
    limits=Limits(seconds=30),
    network=True,
    cache_key="call",
    settings=("allow_private_addresses",),
)

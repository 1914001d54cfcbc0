"""Settings: each field is the environment variable of the same name in capitals, or a line of `.env`.

It can also be a secret: a file with the field's name in /run/secrets, where Docker puts it.
"""

import hashlib
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Loudness = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
SECRETS = Path("/run/secrets")


def split(value: str | list[str]) -> list[str]:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in re.split("[,\\n]", value) if part.strip()]


def digests(value: str | list[str]) -> list[str]:
    """Keys become their SHA-256 at once; `sha256:HEX` is one already: the setting need not hold the key.

    A slow hash is for passwords that people choose; a key is random and too long to guess.
    """
    made = []
    for key in split(value):
        digest = key.removeprefix("sha256:").lower() if key.startswith("sha256:") else None
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError("after sha256: come 64 hexadecimal digits")
        made.append(digest or hashlib.sha256(key.encode()).hexdigest())
    if isinstance(value, str) and not made:
        raise ValueError("there is no key in it")  # rather than a door that is open by mistake
    return made


Names = Annotated[list[str], NoDecode, BeforeValidator(split)]
Digests = Annotated[list[str], NoDecode, BeforeValidator(digests)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    app_name: str = "research-agent"
    app_version: str = "1.0.0"
    log_level: Loudness = "INFO"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    web_concurrency: int = Field(default=1, ge=1)
    forwarded_allow_ips: str = ""  # proxies whose X-Forwarded-For is believed: addresses, networks, or *

    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    model_name: str = "gpt-5.4-mini"
    temperature: float = Field(default=0, ge=0, le=2)
    max_tokens: int = Field(default=2048, ge=1)  # of one call of the model
    model_retries: int = Field(default=2, ge=0)
    circuit_failures: int = Field(default=5, ge=1)  # of the model, in a row: then new runs are refused
    circuit_seconds: float = Field(default=10, gt=0)  # until one may try again

    search_backend: Literal["offline", "ddgs"] = "offline"
    search_url: str = "http://127.0.0.1:9000"  # of the offline backend: anything that speaks SearXNG's JSON
    search_region: str = "us-en"
    search_safe: Literal["on", "moderate", "off"] = "moderate"
    fetch_allowed_hosts: Names = []  # private hosts (HOST or HOST:PORT) that may be read nonetheless

    max_steps: int = Field(default=5, ge=0)
    timeout_seconds: float = Field(default=120, gt=0)  # of a whole run
    resume_grace_seconds: float = Field(default=10, ge=0)
    drain_seconds: float = Field(default=20, ge=0)
    drain_delay_seconds: float = Field(default=0, ge=0)

    redis_url: SecretStr | None = None  # none: runs are kept in this process alone
    lease_seconds: float = Field(default=3, gt=0)
    run_ttl_seconds: int = Field(default=3600, ge=1)  # how long a finished run can be read
    max_stored_runs: int = Field(default=1000, ge=1)  # in memory; in Redis, `maxmemory` bounds them
    max_stored_bytes: int = Field(default=64_000_000, ge=1)  # of finished runs in memory
    cache_ttl_seconds: int = Field(default=300, ge=0)

    api_keys: Digests = []  # none: everybody may call
    rate_limit_rpm: int = Field(default=60, ge=1)
    max_runs_per_caller: int = Field(default=10, ge=1)
    max_readers_per_caller: int = Field(default=50, ge=1)  # streams of events, of one process
    max_concurrency: int = Field(default=32, ge=1)
    max_queue: int = Field(default=32, ge=0)
    max_body_bytes: int = Field(default=65_536, ge=1)

    otel_exporter_otlp_endpoint: str | None = None  # none: no traces

    @model_validator(mode="after")
    def workers_share(self) -> "Settings":
        if self.web_concurrency > 1 and self.redis_url is None:
            raise ValueError("several workers must share their runs: set REDIS_URL, too")
        return self


def read_settings() -> Settings:
    """The settings; a bad one stops the start with a line that names it."""
    try:
        return Settings()  # type: ignore[call-arg]  # the values come from the environment
    except ValidationError as bad:
        named = [("_".join(map(str, e["loc"][:1])) or "web_concurrency", e["msg"]) for e in bad.errors()]
        sys.exit("\n".join(f"Bad setting {name.upper()}: {told}" for name, told in named))

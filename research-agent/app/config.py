"""Settings: each field is read from the environment variable of the same name in capitals, or from `.env`.

A field can also be a secret: a file with its name in /run/secrets, where Docker mounts secrets.
"""

import hashlib
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
SECRETS = Path("/run/secrets")


def split_list(value: str | list[str]) -> list[str]:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in re.split("[,\\n]", value) if part.strip()]


def hash_keys(value: str | list[str]) -> list[str]:
    """Replace each key by its SHA-256. `sha256:HEX` is taken as it is: the setting need not hold the key.

    Slow hashes protect passwords that people choose. A key is random and too long to guess.
    """
    hashed = []
    for key in split_list(value):
        digest = key.removeprefix("sha256:").lower() if key.startswith("sha256:") else None
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError("sha256: must be followed by 64 hexadecimal digits")
        hashed.append(digest or hashlib.sha256(key.encode()).hexdigest())
    if isinstance(value, str) and not hashed:
        raise ValueError("it contains no key")  # an empty list would let everybody in
    return hashed


StringList = Annotated[list[str], NoDecode, BeforeValidator(split_list)]
KeyDigests = Annotated[list[str], NoDecode, BeforeValidator(hash_keys)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    app_name: str = "research-agent"
    app_version: str = "1.0.0"
    log_level: LogLevel = "INFO"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    web_concurrency: int = Field(default=1, ge=1)
    forwarded_allow_ips: str = ""  # proxies whose X-Forwarded-For is trusted: addresses, networks, or *

    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    model_name: str = "gpt-5.4-mini"
    temperature: float = Field(default=0, ge=0, le=2)
    max_tokens: int = Field(default=2048, ge=1)  # of one model call
    model_retries: int = Field(default=2, ge=0)
    circuit_failures: int = Field(
        default=5, ge=1
    )  # failures of the model in a row, after which new runs are refused
    circuit_seconds: float = Field(default=10, gt=0)  # until one run may try again

    search_backend: Literal["searxng", "ddgs", "offline"] = "searxng"  # offline: the old name of searxng
    search_url: str = "http://127.0.0.1:9000"  # for searxng: any server that speaks SearXNG's JSON
    search_region: str = "us-en"
    search_safe: Literal["on", "moderate", "off"] = "moderate"
    fetch_allowed_hosts: StringList = []  # private hosts (HOST or HOST:PORT) that may be read all the same

    max_steps: int = Field(default=5, ge=0)
    timeout_seconds: float = Field(default=120, gt=0)  # of a whole run
    resume_grace_seconds: float = Field(default=10, ge=0)
    drain_seconds: float = Field(default=20, ge=0)
    drain_delay_seconds: float = Field(default=0, ge=0)

    redis_url: SecretStr | None = None  # not set: runs are kept in the memory of this process
    lease_seconds: float = Field(default=3, gt=0)
    run_ttl_seconds: int = Field(default=3600, ge=1)  # how long a finished run can be read
    max_stored_runs: int = Field(default=1000, ge=1)  # in memory; in Redis, `maxmemory` bounds them
    max_stored_bytes: int = Field(default=64_000_000, ge=1)  # of finished runs in memory
    cache_ttl_seconds: int = Field(default=300, ge=0)

    api_keys: KeyDigests = []  # empty: no key is needed
    rate_limit_rpm: int = Field(default=60, ge=1)
    max_runs_per_caller: int = Field(default=10, ge=1)
    max_readers_per_caller: int = Field(default=50, ge=1)  # event streams at one process
    max_concurrency: int = Field(default=32, ge=1)
    max_queue: int = Field(default=32, ge=0)
    max_body_bytes: int = Field(default=65_536, ge=1)

    otel_exporter_otlp_endpoint: str | None = None  # not set: no traces

    @model_validator(mode="after")
    def require_shared_store(self) -> "Settings":
        if self.web_concurrency > 1 and self.redis_url is None:
            raise ValueError("several workers must share their runs: set REDIS_URL as well")
        return self


def read_settings() -> Settings:
    """Read the settings. Exit with one line for each bad one."""
    try:
        return Settings()  # type: ignore[call-arg]  # the values come from the environment
    except ValidationError as error:
        # An error without a location comes from require_shared_store.
        problems = [(str(e["loc"][0]) if e["loc"] else "web_concurrency", e["msg"]) for e in error.errors()]
        sys.exit("\n".join(f"Bad setting {name.upper()}: {reason}" for name, reason in problems))

"""Settings: each field is read from the environment variable of the same name in capitals, or from `.env`.

A field can also be a secret: a file with its name in /run/secrets, where Docker mounts secrets.
"""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SECRETS = Path("/run/secrets")


def split_list(value: str | list[str]) -> list[str]:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in re.split("[,\n]", value) if part.strip()]


StringList = Annotated[list[str], NoDecode, BeforeValidator(split_list)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    app_version: str = "1.0.0"
    debug: bool = False  # whether /docs shows the API's documentation
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    max_body_bytes: int = Field(default=65_536, ge=1)
    drain_seconds: float = Field(default=30, ge=0)
    drain_delay_seconds: float = Field(default=0, ge=0)

    secret_key: SecretStr = Field(min_length=32)  # signs the JWTs
    token_seconds: int = Field(default=3600, ge=1)  # until a JWT expires
    rate_limit_rpm: int = Field(default=120, ge=1)  # requests of a user that change something, in a minute
    login_limit_rpm: int = Field(default=20, ge=1)  # registrations and logins from one address, in a minute

    data_dir: Path = Path("data")  # the database, the mirrors of repositories, and work folders
    database_url: str = ""  # default: a SQLite file in DATA_DIR

    local_repositories: StringList = []  # folders whose repositories may be given by path
    clone_allowed_hosts: StringList = []  # private hosts (HOST or HOST:PORT) to clone from all the same
    clone_seconds: float = Field(default=60, gt=0)
    repository_mb: int = Field(default=50, ge=1)  # less than WORK_MB, which has to hold its files
    max_mirrors: int = Field(default=20, ge=1)  # that are kept when no run uses them

    engine: Literal["docker", "dagger"] = "docker"
    agent_container_image: str = "parallel-agent:latest"
    agent_source: Path = Path(__file__).parents[1]  # with Dockerfile.agent, for Dagger
    strategies: StringList = ["suspicious-first", "smallest-edit", "test-by-test"]  # those of agent.py
    max_variations: int = Field(default=8, ge=1)  # of one run
    max_variations_per_user: int = Field(default=16, ge=1)  # that run or wait
    max_concurrency: int = Field(default=4, ge=1)  # variations that run at once; the others wait

    agent_timeout: float = Field(default=300, gt=0)  # the wall clock: of a variation
    idle_timeout: float = Field(default=60, gt=0)  # without a line of output
    command_timeout: float = Field(default=30, gt=0)  # of each command that the agent runs inside
    output_bytes: int = Field(default=1_000_000, ge=1000)  # of a variation that are kept
    # The limits of a container. Not set: the engine's own defaults.
    memory_mb: int | None = Field(default=None, ge=16)
    cpus: float | None = Field(default=None, gt=0)
    pids: int | None = Field(default=None, ge=8)
    work_mb: int | None = Field(default=None, ge=1)  # of files in the work folder

    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    model_name: str = "gpt-5.4-mini"
    model_timeout: float = Field(default=50, gt=0)  # of one call of the model: less than IDLE_TIMEOUT
    max_tokens: int = Field(default=4096, ge=1)  # of one answer of the model
    token_budget: int = Field(default=1_000_000, ge=1)  # tokens of a run, all of its variations together

    @model_validator(mode="after")
    def refuse_missing_limits(self) -> "Settings":
        """A limit that the engine lacks must be refused, and never ignored."""
        given = [name for name in ("memory_mb", "cpus", "pids", "work_mb") if getattr(self, name) is not None]
        if self.engine == "dagger" and given:
            raise ValueError(f"the engine dagger cannot enforce {', '.join(given).upper()}")
        return self

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.resolve()}/parallel_agents.db"


def read_settings() -> Settings:
    """Read the settings. Exit with one line for each bad one."""
    try:
        return Settings()  # type: ignore[call-arg]  # the values come from the environment
    except ValidationError as error:
        # An error without a location comes from refuse_missing_limits.
        problems = [(str(e["loc"][0]) if e["loc"] else "engine", e["msg"]) for e in error.errors()]
        sys.exit("\n".join(f"Bad setting {name.upper()}: {reason}" for name, reason in problems))

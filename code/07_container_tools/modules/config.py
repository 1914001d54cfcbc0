"""Settings: each field is read from the environment variable of the same name in capitals, or from `.env`.

A field can also be a secret: a file with its name in /run/secrets, where Docker mounts secrets.
"""

import os
import sys
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRETS = Path("/run/secrets")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    app_version: str = "1.0.0"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    max_body_bytes: int = Field(default=262_144, ge=1)
    drain_seconds: float = Field(default=20, ge=0)
    drain_delay_seconds: float = Field(default=0, ge=0)

    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    model_name: str = Field(default="gpt-5.4-mini", validation_alias=AliasChoices("MODEL_NAME", "LLM_MODEL"))
    timeout_seconds: float = Field(default=60, gt=0)  # of one chat, its tool calls included
    max_steps: int = Field(default=5, ge=0)  # rounds of a chat in which the model may call tools

    max_concurrency: int = Field(default=32, ge=1)  # tool calls at once; as many again may wait
    connect_seconds: float = Field(default=600, gt=0)  # the engine's first start downloads an image
    allow_private_addresses: bool = False  # whether /test-qdrant may ask hosts of the private network
    dagger_log: Path = Path(os.devnull)  # where the engine's session writes its log


def read_settings() -> Settings:
    """Read the settings. Exit with one line for each bad one."""
    try:
        return Settings()  # type: ignore[call-arg]  # the values come from the environment
    except ValidationError as error:
        sys.exit("\n".join(f"Bad setting {str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()))

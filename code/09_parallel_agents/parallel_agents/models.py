"""The tables of the database, and what the API takes and returns."""

import secrets
import time
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy import Index, String, UniqueConstraint
from sqlmodel import Field as Column
from sqlmodel import SQLModel

RunState = Literal["queued", "running", "done", "cancelled", "interrupted", "failed"]
VariationState = Literal[
    "queued",
    "running",
    "passed",  # the agent says that all tests pass
    "failed",  # the agent says that tests fail
    "crashed",  # the agent ended without a result
    "timed_out",  # the wall clock
    "idle",  # the idle clock
    "out_of_memory",
    "over_quota",  # the work folder was full
    "cancelled",
    "interrupted",  # the server stopped or died
]
UNFINISHED = ("queued", "running")


def new_id() -> str:
    """A random id that sorts by time, so that it can be the key of a page."""
    return f"{time.time_ns():016x}{secrets.token_hex(6)}"


# --- Tables. Each `...Info` is what the API shows of a table. ---


class UserInfo(SQLModel):
    id: str = Column(default_factory=new_id, primary_key=True)
    username: str = Column(unique=True)


class User(UserInfo, table=True):
    password_hash: str


class KeyInfo(SQLModel):
    id: str = Column(default_factory=new_id, primary_key=True)
    name: str
    created_at: float = Column(default_factory=time.time)


class ApiKey(KeyInfo, table=True):
    user_id: str = Column(foreign_key="user.id", index=True, ondelete="CASCADE")
    digest: str = Column(unique=True)  # SHA-256: a key is random and too long to guess


class VariationInfo(SQLModel):
    n: int = Column(primary_key=True)
    strategy: str
    seed: int
    state: VariationState = Column(default="queued", sa_type=String)
    tests_passed: int | None = None
    tests_failed: int | None = None
    summary: str = ""
    exit_code: int | None = None
    seconds: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    output_bytes: int = 0
    files_changed: int = 0
    lines_added: int = 0
    lines_removed: int = 0


class Variation(VariationInfo, table=True):
    run_id: str = Column(foreign_key="run.id", primary_key=True, index=True, ondelete="CASCADE")


class RunFields(SQLModel):
    id: str = Column(default_factory=new_id, primary_key=True)
    repository: str
    ref: str
    commit: str | None = None
    prompt: str
    state: RunState = Column(default="queued", sa_type=String)
    engine: str
    created_at: float = Column(default_factory=time.time)
    finished_at: float | None = None


class Run(RunFields, table=True):
    __table_args__ = (UniqueConstraint("user_id", "idempotency_key"), Index("page", "user_id", "id"))
    user_id: str = Column(foreign_key="user.id", ondelete="CASCADE")
    seed: int
    idempotency_key: str | None = None
    body_digest: str = ""


class RunInfo(RunFields):
    stream_url: str
    variations: list[VariationInfo]


class Patch(SQLModel, table=True):
    run_id: str = Column(foreign_key="run.id", primary_key=True, ondelete="CASCADE")
    n: int = Column(primary_key=True)
    patch: bytes


class Event(SQLModel, table=True):
    """Append-only. Ids count from 1 in each run; an event is seen by readers only after its commit."""

    run_id: str = Column(foreign_key="run.id", primary_key=True, ondelete="CASCADE")
    id: int = Column(primary_key=True)
    variation: int | None = None
    type: str
    data: str  # JSON


# --- The API ---


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = None


class Credentials(BaseModel, extra="forbid"):
    username: str = Field(pattern=r"^[A-Za-z0-9_.@-]{3,64}$")
    password: str = Field(min_length=12, max_length=200)


class Token(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int


class KeyRequest(BaseModel, extra="forbid"):
    name: str = Field(min_length=1, max_length=100)


class NewKey(KeyInfo):
    key: str  # shown only once


class RunRequest(BaseModel, extra="forbid"):
    repository: str = Field(
        pattern=r"^[^\x00]{1,500}$", description="An http(s) URL, or an allowed local path"
    )
    prompt: str = Field(min_length=1, max_length=10_000)
    variations: int = Field(default=3, ge=1)
    ref: str = Field(default="HEAD", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}$")
    seed: int = Field(default=0, ge=0, le=2**31)
    strategies: list[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,40}$")]] | None = Field(
        default=None, min_length=1, max_length=20
    )


class RunPage(BaseModel):
    runs: list[RunInfo]
    next_cursor: str | None


class ResultTable(BaseModel):
    rows: list[VariationInfo]  # the best first

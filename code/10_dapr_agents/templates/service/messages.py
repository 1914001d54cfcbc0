"""What an agent receives and what it answers. All bounds are here: a longer message is refused."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints

UserId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.@/+-]{0,63}$")]
Level = Literal["beginner", "intermediate", "advanced"]


class Context(BaseModel):
    """What is known about the learner's question. Each agent uses the fields that it needs."""

    module: Name | None = None  # the topic, such as "loops"
    level: Level = "beginner"
    code: str = Field(default="", max_length=20_000)  # a submission
    exercise_id: Name | None = None
    hint: Literal[1, 2, 3] | None = None
    score: float | None = Field(default=None, ge=0, le=1)
    timezone: Name = "UTC"


class Query(BaseModel):
    """The body of POST /process, and the data of an event."""

    user_id: UserId
    query: str = Field(default="", max_length=20_000)
    context: Context = Context()


class Event(BaseModel):
    """A CloudEvent (version 1.0). Dapr sets `topic`; a call of /process has none."""

    id: str = Field(min_length=1, max_length=200)
    time: AwareDatetime
    topic: str = ""
    data: Query


class Outgoing(BaseModel):
    """An event to publish. Its id is derived from its cause, unless it is given."""

    topic: str
    data: dict[str, Any]
    id: str | None = None


class Answer(BaseModel):
    """What the agent says, and the events to publish. Stored under the id of the event that it answers."""

    response: str
    next_steps: list[str] = []
    result: dict[str, Any] = {}  # what programs need: a score, an exercise's id, the mastery
    events: list[Outgoing] = []

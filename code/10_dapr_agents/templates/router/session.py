"""A learning session as a Dapr workflow: explain, exercise, grade, progress.

Dapr stores each finished step. After a crash the workflow function runs again from its start, and gets the
stored results in place of new calls. So it does the same each time: no clock, no random numbers, no I/O.
"""

import asyncio
import json
import logging
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any, Self

import grpc  # type: ignore[import-untyped]
from dapr.ext.workflow import (
    DaprWorkflowContext,
    RetryPolicy,
    TaskFailedError,
    WorkflowActivityContext,
    WorkflowRuntime,
    when_any,
)
from dapr.ext.workflow.aio import DaprWorkflowClient
from fastapi import APIRouter, HTTPException, Path, Request
from pydantic import BaseModel, Field

from config import Settings
from messages import Level, Name, UserId
from sidecar import Sidecar, SidecarError

log = logging.getLogger("session")
RETRY = RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=8,
    backoff_coefficient=2,
    max_retry_interval=timedelta(seconds=20),
)
ACTIVITY_SECONDS = 60.0
SessionId = Annotated[str, Path(pattern=r"^[a-f0-9]{32}$")]


class Start(BaseModel):
    user_id: UserId
    module: Name
    level: Level = "beginner"
    timezone: Name = "UTC"
    submit_within_seconds: float = Field(default=1800, gt=0, le=604_800)


class Submission(BaseModel):
    code: str = Field(min_length=1, max_length=20_000)


def session(context: DaprWorkflowContext, given: dict[str, Any]) -> Generator[Any, Any, dict[str, Any]]:
    """The workflow. Each step names the agent, the query and the key under which that agent answers once."""
    wanted = {name: given[name] for name in ("module", "level", "timezone")}

    def step(name: str, agent: str, query: str, **more: Any) -> Any:
        context.set_custom_status(json.dumps({"step": name}))
        body = {"user_id": given["user_id"], "query": query, "context": wanted | more}
        asked = {"agent": agent, "body": body, "key": f"{context.instance_id}/{name}"}
        return context.call_activity("ask_agent", input=asked, retry_policy=RETRY)

    explained = yield step("explain", "concepts", f"Explain {given['module']}")
    exercise = yield step("exercise", "exercise", f"An exercise about {given['module']}")
    exercise_id = exercise["result"]["exercise_id"]
    context.set_custom_status(json.dumps({"step": "submission", "exercise": exercise["response"]}))
    submitted = context.wait_for_external_event("submission")
    timer = context.create_timer(timedelta(seconds=given["submit_within_seconds"]))
    if (yield when_any([submitted, timer])) is timer:
        yield step("withdraw", "exercise", "withdraw", exercise_id=exercise_id)
        return {"outcome": "timed out", "explanation": explained["response"]}
    try:
        code = submitted.get_result()["code"]
        grade = yield step("grade", "exercise", "grade", exercise_id=exercise_id, code=code)
        # The grade also reaches the progress agent as an event. Both have this id and content: one counts.
        counted = {"module": grade["result"]["topic"], "score": grade["result"]["score"]}
        progress = yield step("grade/progress", "progress", "attempt", **counted)
    except TaskFailedError as error:  # after the last retry: undo what the session has begun
        yield step("withdraw", "exercise", "withdraw", exercise_id=exercise_id)
        return {"outcome": "failed", "reason": error.details.error_type, "explanation": explained["response"]}
    return {
        "outcome": "graded",
        "explanation": explained["response"],
        "grade": grade["result"],
        "progress": progress["result"],
    }


class Sessions:
    """Runs workflows in this process, starts them, and asks Dapr about their state."""

    def __init__(self, settings: Settings) -> None:
        host, port, seconds = "127.0.0.1", str(settings.dapr_grpc_port), settings.workflow_seconds
        self.settings = settings
        self.runtime = WorkflowRuntime(host=host, port=port, worker_ready_timeout=seconds)
        self.runtime.register_workflow(session)
        self.runtime.register_activity(self.ask_agent, name="ask_agent")
        self.client = DaprWorkflowClient(host=host, port=port)

    async def __aenter__(self) -> Self:
        self.connecting = asyncio.create_task(self.connect())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.connecting.cancel()
        await asyncio.to_thread(self.runtime.shutdown)

    async def connect(self) -> None:
        """Connect to the sidecar, which may start later than this process."""
        while True:
            try:
                return await asyncio.to_thread(self.runtime.start)
            except RuntimeError:
                log.warning("no sidecar runs workflows yet; trying again")
                await asyncio.to_thread(self.runtime.shutdown)

    async def ask_agent(self, context: WorkflowActivityContext, asked: dict[str, Any]) -> dict[str, Any]:
        """Call an agent through the sidecar. It may run twice; the key makes the agent answer once."""
        app = getattr(self.settings, f"{asked['agent']}_app")
        sidecar = Sidecar(self.settings.dapr_http_port, ACTIVITY_SECONDS)
        async with sidecar.http:
            path, headers = f"/v1.0/invoke/{app}/method/process", {"idempotency-key": asked["key"]}
            answer = await sidecar.request("POST", path, json=asked["body"], headers=headers)
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def errors_translated() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise SidecarError("The sidecar did not do what a session asked for.") from error


router = APIRouter(prefix="/sessions")


@router.post("", status_code=202)
async def start_session(request: Request, given: Start) -> dict[str, str]:
    """Start a learning session."""
    client, session_id = request.state.sessions.client, uuid.uuid4().hex
    with errors_translated():
        await client.schedule_new_workflow(session, input=given.model_dump(), instance_id=session_id)
    return {"session_id": session_id}


@router.get("/{session_id}")
async def read_session(request: Request, session_id: SessionId) -> dict[str, Any]:
    """The state of a session: its status, the step that it is at, and in the end its result."""
    with errors_translated():
        state = await request.state.sessions.client.get_workflow_state(session_id)
    if state is None:
        raise HTTPException(404, "There is no such session.")
    at = json.loads(state.serialized_custom_status or "{}")
    result = json.loads(state.serialized_output) if state.serialized_output else None
    return {"session_id": session_id, "status": state.runtime_status.name.lower(), **at, "result": result}


@router.post("/{session_id}/submission", status_code=202)
async def submit(request: Request, session_id: SessionId, submission: Submission) -> dict[str, str]:
    """Hand in the solution that a session waits for. The first one counts."""
    found = await read_session(request, session_id)
    if found["status"] not in ("running", "pending"):
        raise HTTPException(409, f"The session is {found['status']}.")
    client, data = request.state.sessions.client, submission.model_dump()
    with errors_translated():
        await client.raise_workflow_event(session_id, "submission", data=data)
    return {"session_id": session_id}

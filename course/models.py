"""The model that a lesson talks to: the offline one, the learner's own server, or with MODEL=real a paid API.

Nothing is sent to a paid API without `MODEL=real`, whatever keys are exported.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from course.errors import CourseError
from course.ports import require_free
from course.processes import Processes, wait_listening, wait_ready

OFFLINE_PORT = 9000
OFFLINE = {
    "OPENAI_BASE_URL": f"http://127.0.0.1:{OFFLINE_PORT}/v1",
    "OPENAI_API_KEY": "offline",
    "MODEL_NAME": "offline",
}
# Variables with these prefixes could send a learner's data elsewhere, so programs do not get them.
REMOVED_PREFIXES = ("OPENAI_", "MODEL_NAME", "LANGSMITH_", "LANGCHAIN_")


@dataclass
class Model:
    """The variables for a lesson's programs, and whether their output can be compared with the page."""

    env: dict[str, str]
    comparable: bool
    notice: str
    wait: Callable[[], None] = lambda: None  # waits until the model answers


def base_environment() -> dict[str, str]:
    """This process's environment without settings for a model, and with the course's Python first on PATH."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(REMOVED_PREFIXES)}
    env["PATH"] = os.path.dirname(sys.executable) + os.pathsep + env["PATH"]  # noqa: PTH120
    env["PYTHONUNBUFFERED"] = "1"
    env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
    return env


def start_offline_model(
    processes: Processes, log: IO[str] | None = None, port: int = OFFLINE_PORT
) -> Callable[[], None]:
    """Start the offline model with its output in `log`; returns a function that waits until it answers."""
    require_free(port)
    command = [sys.executable, "-m", "offline_model", "--port", str(port)]
    process = processes.start(command, env=base_environment(), output=log)
    return lambda: wait_ready(process, f"http://127.0.0.1:{port}/health")


def start_model(processes: Processes, port: int = 0) -> str:
    """Start the offline model and wait until it answers; returns its base URL. 0 takes any free port."""
    command = [sys.executable, "-m", "offline_model", "--port", str(port)]
    process = processes.start(command, env=base_environment(), output=subprocess.DEVNULL)
    url = wait_listening(process)
    wait_ready(process, f"{url}/health")
    return url


def choose_model(processes: Processes, log: IO[str], page_starts_model: bool = False) -> Model:
    """The model for a lesson. Starts the offline one unless another is named or the page starts it itself."""
    env = base_environment()
    if os.environ.get("MODEL") == "real":
        return Model(
            env | real_api_settings(),
            False,
            "MODEL=real: your key is used, and your provider bills every call.",
        )
    if base_url := os.environ.get("OPENAI_BASE_URL"):
        return Model(env | custom_server_settings(base_url), False, f"The model is yours, at {base_url}.")
    where = "which the page starts" if page_starts_model else f"on port {OFFLINE_PORT}"
    model = Model(env | OFFLINE, True, f"The model is the offline one, {where}: no key, no network.")
    if not page_starts_model:
        model.wait = start_offline_model(processes, log)
    return model


def real_api_settings() -> dict[str, str]:
    """The learner's own settings for the real API."""
    if not os.environ.get("OPENAI_API_KEY"):
        raise CourseError("MODEL=real needs your key: export OPENAI_API_KEY=... first.")
    names = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "MODEL_NAME")
    return {name: os.environ[name] for name in names if name in os.environ}


def custom_server_settings(base_url: str) -> dict[str, str]:
    """Settings for another OpenAI-compatible server. Without MODEL_NAME, its first model is used."""
    key = os.environ.get("OPENAI_API_KEY", "none")
    name = os.environ.get("MODEL_NAME")
    if not name:
        import httpx2  # imported here, because it takes as long as all of the runner

        try:
            reply = httpx2.get(f"{base_url}/models", headers={"Authorization": f"Bearer {key}"}, timeout=10)
            name = reply.raise_for_status().json()["data"][0]["id"]
        except (httpx2.HTTPError, ValueError, LookupError) as error:
            raise CourseError(
                f"No model at OPENAI_BASE_URL={base_url} ({error}). Is its server running?"
            ) from None
    return {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": key, "MODEL_NAME": name}

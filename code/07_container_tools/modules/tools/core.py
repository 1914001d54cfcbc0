"""Tools: their declaration, and the function that runs a tool in a container."""

import hashlib
import hmac
import json
import secrets
import uuid
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import dagger
from pydantic import BaseModel, JsonValue, SecretStr, ValidationError

SCRIPTS = Path(__file__).parents[1] / "scripts"
STDERR_CHARACTERS = 2_000
# Names of secrets are built with this key, so that nobody can guess a secret from the name that logs show.
NAME_KEY = secrets.token_bytes()


@dataclass(frozen=True)
class Limits:
    """The resources that a script may use; scripts/run_script.py enforces them in the container."""

    seconds: float = 10
    output_bytes: int = 262_144
    file_bytes: int = 16 * 2**20
    memory_bytes: int = 256 * 2**20  # of address space, for each process
    processes: int = 16


@dataclass(frozen=True)
class Tool:
    """A function that runs in a container: what goes in, what comes out, and what it may do."""

    name: str
    description: str  # for people and for the model
    input: type[BaseModel]  # fields of the type SecretStr are passed as Dagger secrets
    output: type[BaseModel]
    script: Path | str  # a file, or the text of a short script
    image: str = "python:3.13-slim"
    packages: bool = False  # whether it needs those of scripts/requirements.txt
    limits: Limits = Limits()
    network: bool = False
    # "inputs": a call with the same inputs, secrets included, is answered from the cache. "call": never.
    cache_key: Literal["inputs", "call"] = "inputs"
    settings: tuple[str, ...] = ()  # settings of the app that the script's input has besides


Settings = dict[str, JsonValue]  # those of the app that Tool.settings names


class ToolFailed(Exception):
    """The script failed, ran into a limit, or returned something else than its output model allows."""

    def __init__(self, reason: str, exit_code: int, stderr: str) -> None:
        super().__init__(reason)
        self.reason, self.exit_code, self.stderr = reason, exit_code, stderr


# The engine caches failures, too, while the session lives. A call that failed before gets another cache key.
failed: OrderedDict[str, str] = OrderedDict()
EXIT_CODES = {124: "ran out of time", 125: "printed too much", 137: "was killed"}


def get_tool_base(client: dagger.Client, tool: Tool) -> dagger.Container:
    """The container for a tool's script. Its steps are the same in every call, so the engine caches them."""
    container = client.container().from_(tool.image)
    if tool.packages:
        requirements = (SCRIPTS / "requirements.txt").read_text()
        container = (
            container.with_new_file("/tool/requirements.txt", requirements)
            .with_mounted_cache("/root/.cache/pip", client.cache_volume("pip"))
            .with_exec(["pip", "install", "--quiet", "--require-hashes", "-r", "/tool/requirements.txt"])
        )
    script = tool.script.read_text() if isinstance(tool.script, Path) else tool.script
    limits = json.dumps(asdict(tool.limits) | {"network": tool.network})
    return (
        container.with_new_file("/tool/run_script.py", (SCRIPTS / "run_script.py").read_text())
        .with_new_file("/tool/limits.json", limits)
        .with_new_file("/tool/script.py", script)
        .with_mounted_temp("/tmp", size=64 * 2**20)  # noqa: S108  # the container's
    )


def with_input(
    container: dagger.Container, client: dagger.Client, tool: Tool, given: BaseModel, extra: Settings
) -> dagger.Container:
    """Add the input: secrets as secret variables, the rest as a JSON file, which no shell ever reads."""
    fields = {name: getattr(given, name) for name in type(given).model_fields}
    hidden = {name: value for name, value in fields.items() if isinstance(value, SecretStr)}
    plain = given.model_dump(mode="json", by_alias=True, exclude=set(hidden)) | extra
    container = container.with_new_file("/tool/input.json", json.dumps(plain))
    for name, value in hidden.items():
        container = container.with_secret_variable(
            name.upper(), client.set_secret(secret_name(tool, name, value), value.get_secret_value())
        )
    if tool.cache_key == "call":
        container = container.with_env_variable("CALL", uuid.uuid4().hex)
    return container


def secret_name(tool: Tool, name: str, value: SecretStr) -> str:
    """A name that differs for each value: the engine's cache key has a secret's name, and not its value."""
    digest = hmac.new(NAME_KEY, value.get_secret_value().encode(), hashlib.sha256).hexdigest()
    return f"{tool.name}-{name}-{digest}"


async def run_container_and_check(container: dagger.Container, args: list[str]) -> str:
    """Run a command in a container and return its output. Raises `ToolFailed` when it fails."""
    try:
        return await container.with_exec(args).stdout()
    except dagger.ExecError as error:
        end = error.stderr[-STDERR_CHARACTERS:]
        reason = EXIT_CODES.get(error.exit_code, f"failed with exit code {error.exit_code}")
        raise ToolFailed(f"The script {reason}.", error.exit_code, end) from None


async def run_tool(client: dagger.Client, tool: Tool, given: BaseModel, extra: Settings) -> dict[str, Any]:
    """Run a tool's script with validated input; return its validated output. Raises `ToolFailed`."""
    container = with_input(get_tool_base(client, tool), client, tool, given, extra)
    key = f"{tool.name} {given!r}"  # in which secrets are asterisks
    if key in failed:
        container = container.with_env_variable("AFTER_FAILURE", failed[key])
    paths = [f"/tool/{name}" for name in ("run_script.py", "limits.json", "script.py", "input.json")]
    try:
        printed = await run_container_and_check(container, ["python", *paths])
    except ToolFailed:
        failed[key] = uuid.uuid4().hex
        while len(failed) > 1_000:
            failed.popitem(last=False)
        raise
    try:
        return tool.output.model_validate_json(printed).model_dump(mode="json", by_alias=True)
    except ValidationError:
        raise ToolFailed("The script printed something else than its result.", 0, printed[-500:]) from None

"""Containers under test: an agent's image beside the offline model, on networks of their own."""

import json
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from course.docker_engine import docker
from course.images import MODEL
from course.processes import Failed

OFFLINE = {
    "OPENAI_BASE_URL": "http://model:9000/v1",
    "OPENAI_API_KEY": "offline",
    "MODEL_NAME": "offline",
    "SEARCH_URL": "http://model:9000",
}


def run(*arguments: str, seconds: float = 60) -> str:
    """What a docker command prints; `Failed` with what it said when it does not succeed."""
    done = docker(*arguments, seconds=seconds)
    if done.returncode:
        raise Failed(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout.strip()


def until(claim: Callable[[], Any], seconds: float) -> Any:
    """Poll until `claim()` is true, and return its value; its last value when the time is up."""
    deadline = time.monotonic() + seconds
    while not (value := claim()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return value


class Image:
    def __init__(self, name: str) -> None:
        self.name = name
        inspected = docker("image", "inspect", name)
        if inspected.returncode and docker("pull", "--quiet", name, seconds=600).returncode == 0:
            inspected = docker("image", "inspect", name)
        if inspected.returncode:
            raise Failed(f"There is no image {name}: {inspected.stderr.strip()}")
        self.config: dict[str, Any] = json.loads(inspected.stdout)[0]["Config"]

    @property
    def port(self) -> str:
        """The port that the image says it serves."""
        return str(next(iter(self.config.get("ExposedPorts") or ["8000/tcp"])))

    def history(self) -> list[str]:
        """The instructions that made its layers."""
        return run("history", "--no-trunc", "--format", "{{.CreatedBy}}", self.name).splitlines()

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Path and content of every file in every layer, also of those that a later layer deletes."""
        with tempfile.NamedTemporaryFile(suffix=".tar") as saved:
            run("save", "--output", saved.name, self.name, seconds=300)
            with tarfile.open(saved.name) as image:
                manifest = image.extractfile("manifest.json")
                assert manifest
                for name in json.load(manifest)[0]["Layers"]:
                    with tarfile.open(fileobj=image.extractfile(name)) as layer:
                        for member in layer:
                            content = layer.extractfile(member) if member.isfile() else None
                            if content:
                                yield f"/{member.name.removeprefix('./')}", content.read()


class Container:
    """A running container."""

    def __init__(self, *arguments: str) -> None:
        self.id = run("run", "--detach", *arguments)

    def inspect(self) -> dict[str, Any]:
        inspected: dict[str, Any] = json.loads(run("inspect", self.id))[0]
        return inspected

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect()["State"]
        return state

    @property
    def health(self) -> str:
        """As its health check found it: "starting", "healthy", "unhealthy"; "none" without a check."""
        health: str = self.state.get("Health", {}).get("Status", "none")
        return health

    def url(self, port: str) -> str:
        return f"http://{run('port', self.id, port).splitlines()[0]}"

    def logs(self) -> str:
        done = docker("logs", self.id)
        return (done.stdout + done.stderr).strip()

    def signal(self, name: str) -> None:
        run("kill", "--signal", name, self.id)

    def stop(self, grace: int) -> tuple[int, float]:
        """Stop it as an engine does; its exit code and how many seconds it took."""
        began = time.monotonic()
        run("stop", "--time", str(grace), self.id, seconds=grace + 30)
        return self.state["ExitCode"], time.monotonic() - began

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.id)


class Surroundings:
    """A network with the offline model on it, and a second one from which nothing else can be reached."""

    def __init__(self, *aliases: str) -> None:
        self.name = f"audit-{uuid.uuid4().hex[:8]}"
        self.inside = f"{self.name}-inside"
        self.aliases = aliases
        self.containers: list[Container] = []

    def __enter__(self) -> Self:
        try:
            run("network", "create", self.name)
            run("network", "create", "--internal", self.inside)
            aliases = [f"--network-alias={alias}" for alias in ("model", *self.aliases)]
            self.model = self.start(MODEL.tag, *aliases)
            run("network", "connect", "--alias", "model", self.inside, self.model.id)
            if not until(lambda: self.model.health == "healthy", 60):
                raise Failed(f"The offline model does not start: {self.model.logs()}")
        except BaseException:
            self.close()
            raise
        return self

    def start(self, image: str, *options: str, command: tuple[str, ...] = (), **env: str) -> Container:
        """Start an image on the network, or on another that the options name."""
        network = () if any(option.startswith("--network=") for option in options) else (self.name,)
        named = [f"--network={name}" for name in network]
        variables = [f"--env={name}={value}" for name, value in (OFFLINE | env).items()]
        container = Container(*named, *variables, *options, image, *command)
        self.containers.append(container)
        return container

    def close(self) -> None:
        for container in reversed(self.containers):
            container.remove()
        for network in (self.name, self.inside):
            docker("network", "rm", network)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

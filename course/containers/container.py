"""Containers under test: an agent's image beside the offline model, on networks of their own."""

import json
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from course.engines.docker import docker
from course.images import MODEL
from course.processes import Failed

OFFLINE = {
    "OPENAI_BASE_URL": "http://model:9000/v1",
    "OPENAI_API_KEY": "offline",
    "MODEL_NAME": "offline",
    "SEARCH_URL": "http://model:9000",
}
# A health check that runs at this moment is no child of process 1; stopped, it would hold up all later ones.
SIGNAL_OFFSPRING = """
import os, signal, sys
from contextlib import suppress
parents = {}
for number in filter(str.isdigit, os.listdir("/proc")):
    with suppress(OSError), open(f"/proc/{number}/stat") as file:
        parents[int(number)] = int(file.read().rpartition(")")[2].split()[1])
family = {1}
while more := {number for number, parent in parents.items() if parent in family} - family:
    family |= more
for number in family - {1}:
    with suppress(ProcessLookupError):
        os.kill(number, getattr(signal, f"SIG{sys.argv[1]}"))
"""


def run(*arguments: str, seconds: float = 60) -> str:
    """Run a docker command and return its output; `Failed` with its error text when it fails."""
    done = docker(*arguments, seconds=seconds)
    if done.returncode:
        raise Failed(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout.strip()


def until(claim: Callable[[], Any], seconds: float) -> Any:
    """Poll until `claim()` is true, and return its value; its last value when the time is up."""
    deadline = time.monotonic() + seconds
    while not (value := claim()) and time.monotonic() < deadline:
        time.sleep(0.25)
    return value


class Image:
    def __init__(self, name: str) -> None:
        self.name = name
        inspected = docker("image", "inspect", name)
        if inspected.returncode and docker("pull", "--quiet", name, seconds=600).returncode == 0:
            inspected = docker("image", "inspect", name)
        if inspected.returncode:
            raise Failed(f"There is no image {name} here, nor to pull. (A URL begins with http://.)")
        self.config: dict[str, Any] = json.loads(inspected.stdout)[0]["Config"]

    @property
    def port(self) -> str:
        """The port that the image says it serves."""
        return str(next(iter(self.config.get("ExposedPorts") or ["8000/tcp"])))

    def history(self) -> list[str]:
        """The instructions that made its layers."""
        return run("history", "--no-trunc", "--format", "{{.CreatedBy}}", self.name).splitlines()

    def layers(self) -> Iterator[tuple[str, Iterator[tuple[str, bytes]]]]:
        """Each layer's name, and path and content of its files, also of those that a later layer deletes."""
        with tempfile.NamedTemporaryFile(suffix=".tar") as saved:
            run("save", "--output", saved.name, self.name, seconds=300)
            with tarfile.open(saved.name) as image:
                manifest = image.extractfile("manifest.json")
                assert manifest
                for name in json.load(manifest)[0]["Layers"]:
                    with tarfile.open(fileobj=image.extractfile(name)) as layer:
                        yield name, contents(layer)


def contents(layer: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
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

    def wait_healthy(self, seconds: float = 60) -> None:
        """`Failed` when its health check does not turn healthy."""
        if not until(lambda: self.health == "healthy", seconds):
            raise Failed(f"A container is {self.health}; {self.last_words}.")

    def url(self, port: str) -> str:
        return f"http://{run('port', self.id, port).splitlines()[0]}"

    def logs(self) -> str:
        done = docker("logs", self.id)
        return (done.stdout + done.stderr).strip()

    @property
    def last_words(self) -> str:
        """The last line that it logged."""
        lines = [line for line in self.logs().splitlines() if line.strip()]
        return f"its last words: {lines[-1].strip()[:300]}" if lines else "it said nothing"

    def signal(self, name: str) -> None:
        """Signal process 1 from outside, for nobody inside can stop that one, and its offspring."""
        # It fails where there is no python, which leaves process 1.
        docker("exec", self.id, "python", "-c", SIGNAL_OFFSPRING, name)
        run("kill", "--signal", name, self.id)

    def stop(self, grace: int) -> tuple[int, float]:
        """Stop it as an engine does; its exit code and how many seconds it took."""
        began = time.monotonic()
        run("stop", "-t", str(grace), self.id, seconds=grace + 30)
        return self.state["ExitCode"], time.monotonic() - began

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.id)


class Surroundings:
    """A network with the offline model on it, and a second one from which nothing else can be reached."""

    def __init__(self, *aliases: str, model: str = MODEL.tag) -> None:
        self.model_image = model
        self.name = f"audit-{uuid.uuid4().hex[:8]}"
        self.inside = f"{self.name}-inside"
        self.aliases = [f"--alias={alias}" for alias in ("model", *aliases)]
        self.containers: list[Container] = []

    def __enter__(self) -> Self:
        try:
            run("network", "create", self.name)
            run("network", "create", "--internal", self.inside)
            self.model = self.start(self.model_image, *(f"--network-{alias[2:]}" for alias in self.aliases))
            run("network", "connect", "--alias=model", self.inside, self.model.id)
            self.model.wait_healthy()
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

    @contextmanager
    def without_model(self) -> Iterator[None]:
        """Meanwhile the model is not on the network."""
        run("network", "disconnect", self.name, self.model.id)
        try:
            yield
        finally:
            run("network", "connect", *self.aliases, self.name, self.model.id)

    def close(self) -> None:
        for container in reversed(self.containers):
            container.remove()
        for network in (self.name, self.inside):
            docker("network", "rm", network)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""A Docker network for a test: the offline model, and the containers under test beside it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from course.containers.commands import run
from course.containers.container import Container
from course.containers.images import MODEL
from course.engines.docker import docker

OFFLINE = {
    "OPENAI_BASE_URL": "http://model:9000/v1",
    "OPENAI_API_KEY": "offline",
    "MODEL_NAME": "offline",
    "SEARCH_URL": "http://model:9000",
}


class TestNetwork:
    """A Docker network with the offline model on it, and an internal one that has the model alone."""

    __test__ = False  # pytest takes classes for tests whose names begin like this one's

    def __init__(self, *aliases: str, model: str = MODEL.tag) -> None:
        self.model_image = model
        self.name = f"audit-{uuid.uuid4().hex[:8]}"
        self.internal = f"{self.name}-internal"
        self.aliases = [f"--alias={alias}" for alias in ("model", *aliases)]
        self.containers: list[Container] = []

    def __enter__(self) -> Self:
        try:
            run("network", "create", self.name)
            run("network", "create", "--internal", self.internal)
            self.model = self.start(self.model_image, *(f"--network-{alias[2:]}" for alias in self.aliases))
            run("network", "connect", "--alias=model", self.internal, self.model.id)
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
        """Take the model off the network for the duration of the block."""
        run("network", "disconnect", self.name, self.model.id)
        try:
            yield
        finally:
            run("network", "connect", *self.aliases, self.name, self.model.id)

    def close(self) -> None:
        for container in reversed(self.containers):
            container.remove()
        for network in (self.name, self.internal):
            docker("network", "rm", network)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

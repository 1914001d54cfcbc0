"""The target of an audit: a URL, or an image from which checks start containers."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import httpx2

from course.audit.layers import StoredFile, stored_files
from course.containers.commands import run, until
from course.containers.container import Container
from course.containers.local_image import LocalImage
from course.containers.network import TestNetwork
from course.errors import CourseError

QUESTION = "What is graceful shutdown?"
# An answer takes a second: long enough to stop the server in the middle of a stream.
SLOW_MODEL = "offline?tps=150"
START_SECONDS = 180  # the longest start, on a very busy machine
FAST_HEALTH_CHECK = (
    "--health-interval=500ms",
    "--health-timeout=3s",  # a busy machine needs a second to start one
    "--health-retries=2",
    "--health-start-period=1s",
)
RESTRICTED_OPTIONS = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
LOW_RESOURCE_OPTIONS = ("--memory=256m", "--memory-swap=256m", "--cpus=0.5")


class NotChecked(Exception):
    """The target does not allow this check; the message says why."""


@dataclass(frozen=True)
class Contract:
    """The routes and fields that an audit expects of an agent's API."""

    route: str = ""  # "": /v1/research or /v1/invoke, whichever its OpenAPI document lists
    field: str = "query"  # of the JSON body that asks a question


DEFAULT_CONTRACT = Contract()


class Target:
    """An image or a URL. Results that several checks need are cached."""

    def __init__(self, name: str, network: TestNetwork | None, contract: Contract = DEFAULT_CONTRACT) -> None:
        self.name, self.network, self.contract = name, network, contract
        self.named = LocalImage(name) if network else None
        self.containers: list[Container] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for container in self.containers:
            container.remove()

    @property
    def image(self) -> LocalImage:
        if self.named is None:
            raise NotChecked("this needs the image, and a URL was given")
        return self.named

    def start(self, *options: str, command: tuple[str, ...] = (), **env: str) -> Container:
        image = self.image
        assert self.network
        container = self.network.start(image.name, *options, command=command, **env)
        self.containers.append(container)
        return container

    @cached_property
    def container(self) -> Container:
        """The container that most checks look at."""
        return self.start(
            f"--publish=127.0.0.1::{self.image.port}", *FAST_HEALTH_CHECK, MODEL_NAME=SLOW_MODEL
        )

    @property
    def url(self) -> str:
        """Its base URL. Raises `NotChecked` when it does not answer."""
        if isinstance(self.reached, NotChecked):
            raise self.reached
        return self.reached

    @cached_property
    def reached(self) -> str | NotChecked:
        """Its base URL when it answers, or why it does not; waits only once."""
        if self.named is None:
            try:
                httpx2.get(self.name)
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                return NotChecked(f"nothing answers at {self.name} ({error})")
            return self.name.rstrip("/")
        container, last = self.container, "nothing"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and container.state["Running"]:
            try:
                if (answer := httpx2.get(f"{container.url(self.image.port)}/health")).status_code == 200:
                    return str(answer.url).removesuffix("/health")
                last = f"status {answer.status_code}"
            except httpx2.TransportError as error:
                last = type(error).__name__
                if (
                    container.health == "healthy"
                ):  # its own health check succeeds, so waiting longer will not help
                    deadline = min(deadline, time.monotonic() + 10)
            time.sleep(0.25)
        return NotChecked(f"GET /health on port {self.image.port} gives {last}; {container.last_line}")

    @cached_property
    def paths(self) -> dict[str, object]:
        """The paths of its OpenAPI document; none when it has no such document."""
        try:
            paths: dict[str, object] = httpx2.get(f"{self.url}/openapi.json").json()["paths"]
        except (httpx2.TransportError, ValueError, LookupError, TypeError):
            return {}
        return paths

    @cached_property
    def route(self) -> str:
        """The route that answers questions."""
        usual = ("/v1/research", "/v1/invoke")
        return self.contract.route or next((path for path in usual if path in self.paths), usual[0])

    @cached_property
    def stream_route(self) -> str:
        """The route that streams answers: ROUTE/stream, or `stream` in place of the last part of ROUTE."""
        below, beside = f"{self.route}/stream", f"{self.route.rpartition('/')[0]}/stream"
        return beside if beside in self.paths and below not in self.paths else below

    def body(self, question: str) -> dict[str, str]:
        return {self.contract.field: question}

    @cached_property
    def refusal(self) -> str:
        """Why its route does not answer a question; "" when it does."""
        try:
            answer = httpx2.post(f"{self.url}{self.route}", json=self.body(QUESTION), timeout=60)
        except httpx2.TransportError as error:
            return f"POST {self.route} gets no answer: {error!r}."
        if answer.status_code != 200:
            names = (
                " (If your agent uses another route or field, set ROUTE= and FIELD=.)"
                if answer.status_code in (404, 405, 422)
                else ""
            )
            return f"POST {self.route} gives status {answer.status_code}: {answer.text[:300]}.{names}"
        try:
            said = answer.json()
        except ValueError:
            return f"POST {self.route} gives no JSON: {answer.text[:300]}."
        said = said.get("response", said) if isinstance(said, dict) else said
        return "" if said else f"The answer of POST {self.route} is empty."

    def must_answer(self) -> None:
        """Raise `NotChecked` when the agent does not answer questions, which this check depends on."""
        if self.refusal:
            raise NotChecked(f"POST {self.route} does not answer a question in the first place")

    def stream(self, question: str = QUESTION) -> Iterator[tuple[float, str]]:
        """The time and the name of each event. Reads any stream, even one with a wrong content type."""
        url = f"{self.url}{self.stream_route}"
        with httpx2.stream("POST", url, json=self.body(question), timeout=60) as response:
            if response.status_code != 200:
                raise AssertionError(f"POST {self.stream_route} gives status {response.status_code}.")
            for line in response.iter_lines():
                if line.startswith("event:"):
                    yield time.monotonic(), line.removeprefix("event:").strip()

    @cached_property
    def files(self) -> list[StoredFile]:
        """Every file of every layer."""
        return stored_files(self.image)

    @cached_property
    def was_healthy(self) -> bool:
        """Whether its health check turns healthy within twenty seconds after it answers."""
        with suppress(NotChecked):
            _ = self.url
        return bool(until(lambda: self.container.health == "healthy", 20))

    @cached_property
    def answers_restricted(self) -> bool:
        """Whether it answers under all restrictions at once. If so, it does under each of them."""
        return not self.fails_with(*RESTRICTED_OPTIONS, *LOW_RESOURCE_OPTIONS, *self.internal_network)

    @property
    def internal_network(self) -> tuple[str, ...]:
        assert self.network
        return (f"--network={self.network.internal}",)

    def fails_with(self, *options: str) -> str:
        """Why a container with these options does not answer a question; "" when it does."""
        container = self.start("--no-healthcheck", *options)
        said = self.ask_from_inside(container)
        killed = container.state["OOMKilled"]
        container.remove()
        return (
            "it is killed because it uses too much memory"
            if killed
            else said and f"it does not answer: {said}"
        )

    def ask_from_inside(self, container: Container) -> str:
        """Ask a container from the model's container, over their network; returns what went wrong, or ""."""
        assert self.network
        model = self.network.model.id
        host = container.inspect()["Config"]["Hostname"]
        script = (
            "import sys, urllib.request as u\n"
            "base, route, body = sys.argv[1:]\n"
            "u.urlopen(base + '/health', timeout=5)\n"
            "json_type = {'Content-Type': 'application/json'}\n"
            "u.urlopen(u.Request(base + route, body.encode(), json_type), timeout=60)\n"
        )
        base = f"http://{host}:{self.image.port.split('/')[0]}"
        asking = ("python", "-c", script, base, self.route, json.dumps(self.body(QUESTION)))
        said = ""

        def answered() -> bool:
            nonlocal said
            try:
                run("exec", model, *asking, seconds=90)
            except CourseError as failure:
                said = str(failure).splitlines()[-1]
                return not container.state["Running"]
            said = ""
            return True

        until(answered, START_SECONDS)
        return f"{said}; {container.last_line}" if said else ""


@contextmanager
def network_for(name: str, *aliases: str) -> Iterator[TestNetwork | None]:
    """The network on which an image is tested; None for a URL."""
    if name.startswith(("http://", "https://")):
        yield None
    else:
        with TestNetwork(*aliases) as network:
            yield network

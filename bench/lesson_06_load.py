"""The compose project, and its callers: readers who come back after a cut, and others who ask steadily."""

import asyncio
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import yaml

from course import engines
from course.errors import Failed
from course.models import base_environment
from course.paths import ROOT
from course.ports import free_port

LONG = "Research as deeply as you can: what is a container image?"
SHORT = "What is graceful shutdown?"


class Stack:
    """A copy of the compose project, with a name, a port and images of its own; removed at the end.

    `settings` are the lines of its `.env`; `agent` is laid over the agent's part of the compose file.
    """

    mounted = ("haproxy.cfg", "prometheus.yml", "alerts.yml")
    """Files that a container reads only when it starts."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str],
        source: Path = ROOT,
        agent: dict[str, Any] | None = None,
    ) -> None:
        self.name = f"stack-{uuid.uuid4().hex[:8]}"
        self.folder = folder / "research-agent"
        self.agent = agent or {}
        for neighbour in ("offline-model", "docs"):  # what the offline model's image is built from
            (folder / neighbour).symlink_to(ROOT / neighbour)
        self.copy(source)
        port = free_port()
        lines = {
            "HTTP_PORT": str(port),
            "PROMETHEUS_PORT": str(free_port()),
            "RATE_LIMIT_RPM": "1000000",
            "MAX_RUNS_PER_CALLER": "1000000",
            "MAX_READERS_PER_CALLER": "1000000",
        } | settings
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        self.host, self.port = "127.0.0.1", port
        self.url = f"http://{self.host}:{port}"
        # No key of the learner's gets in.
        self.env = base_environment() | engines.environment() | {"COMPOSE_PROJECT_NAME": self.name}

    def copy(self, source: Path) -> None:
        """Take the files of the lesson at `source`, under names of this project's own."""
        self.source = source
        ignored = shutil.ignore_patterns(".env", "__pycache__", ".mypy_cache", "secrets")
        shutil.copytree(source / "research-agent", self.folder, ignore=ignored, dirs_exist_ok=True)
        model = self.folder / "compose" / "model.yml"
        model.write_text(model.read_text().replace("offline-model:latest", f"offline-model:{self.name}"))
        # A label that changes with these files, so that `up` makes the containers anew that have read them.
        read = b"".join((self.folder / "compose" / name).read_bytes() for name in self.mounted)
        label = {"labels": {"configuration": hashlib.sha256(read).hexdigest()}}
        agent = {"image": f"research-agent:{self.name}-${{VERSION:-latest}}"} | self.agent
        over = {"services": {"agent": agent, "proxy": label, "prometheus": label}}
        (self.folder / "docker-compose.override.yml").write_text(yaml.safe_dump(over))

    def apply(self, source: Path) -> None:
        """Take the files of another copy of the lesson; `up` makes of it what has changed."""
        if source != self.source:
            before = self.image_files()
            self.copy(source)
            if self.image_files() != before:
                self.compose("build", "--quiet", "agent", seconds=600)

    def image_files(self) -> dict[Path, bytes]:
        """What the agent's image may be built from."""
        top = [path for path in self.folder.iterdir() if path.name not in ("compose", ".env")]
        paths = [path for path in top if not path.name.startswith("docker-compose")]
        files = [file for path in paths for file in (path, *path.rglob("*")) if file.is_file()]
        return {file: file.read_bytes() for file in files}

    def __enter__(self) -> Self:
        self.compose("build", "--quiet", seconds=600)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "1")
        images = self.docker(
            "images", "--format", "{{.Repository}}:{{.Tag}}", f"--filter=reference=*:{self.name}*"
        )
        self.docker("image", "rm", "--force", *images.split())

    def run(self, *command: str, seconds: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the project's folder."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def docker(self, *arguments: str, seconds: float = 120, **env: str) -> str:
        """Run a docker command and return its output; `Failed` with its error text when it fails."""
        done = self.run("docker", *arguments, seconds=seconds, **env)
        if done.returncode:
            raise Failed(f"docker {' '.join(arguments[:4])}: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def compose(self, *arguments: str, seconds: float = 120, **env: str) -> str:
        return self.docker("compose", *arguments, seconds=seconds, **env)

    def up(self, replicas: int = 1, *profiles: str) -> None:
        """Bring everything up to the wished state, and wait until it is healthy and the proxy sees it."""
        named = [f"--profile={profile}" for profile in profiles]
        scale = f"agent={replicas}"
        self.compose(
            *named, "up", "--detach", "--wait", "--wait-timeout", "170", "--scale", scale, seconds=200
        )
        self.wait(lambda: self.ready() == replicas, f"the proxy sees {replicas} ready replicas")

    def ready(self) -> int:
        """How many replicas the proxy takes for ready."""
        return sum(
            line.startswith('haproxy_server_status{proxy="ready"') and 'state="UP"} 1' in line
            for line in self.from_proxy("/metrics").splitlines()
        )

    def from_proxy(self, path: str) -> str:
        """What the proxy answers on its own port, which is not published."""
        asking = f"exec 3<>/dev/tcp/127.0.0.1/8405; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        return self.compose("exec", "--no-TTY", "proxy", "bash", "-c", asking)

    def replicas(self) -> list[str]:
        """The ids of the replicas' containers, the oldest first."""
        listed = self.compose("ps", "--all", "--format", "json", "agent").splitlines()
        found = [json.loads(line) for line in listed]
        return [each["ID"] for each in sorted(found, key=lambda each: int(each["Name"].rpartition("-")[2]))]

    @contextmanager
    def cut_off(self, replica: str, network: str) -> Iterator[None]:
        """Meanwhile a replica is not on one of its networks."""
        self.docker("network", "disconnect", f"{self.name}_{network}", replica)
        try:
            yield
        finally:
            self.docker("network", "connect", "--alias=agent", f"{self.name}_{network}", replica)

    def state(self, container: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.docker("inspect", "--format", "{{json .State}}", container))
        return state

    def wait(self, claim: Callable[[], Any], what: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not claim():
            if time.monotonic() > deadline:
                logs = self.compose("logs", "--tail", "20", "--no-color")
                raise Failed(f"After {seconds:g} s it is not so that {what}.\n{logs}")
            time.sleep(0.2)


# --- Callers ---


@dataclass
class Reading:
    """What one reader has seen of one run. An event counts when all of it has come."""

    run_id: str = ""
    ids: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    cuts: int = 0
    """How often the stream ended without a last event."""
    failed: list[str] = field(default_factory=list)
    """Requests that were refused."""
    times: list[float] = field(default_factory=list)
    """When each event came, on time.monotonic()'s clock."""

    @property
    def pauses(self) -> list[float]:
        """The silences between each event and the next, in seconds."""
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]

    @property
    def gap(self) -> float:
        """The longest of them."""
        return max(self.pauses, default=0)

    @property
    def over(self) -> bool:
        return bool(self.types) and self.types[-1] in ("done", "error")

    def saw(self, event_id: str, kind: str) -> None:
        self.times.append(time.monotonic())
        self.ids.append(event_id)
        self.types.append(kind)


def new_client() -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(limits=limits, timeout=httpx2.Timeout(60, connect=5), trust_env=False)


async def events(response: httpx2.Response) -> AsyncIterator[tuple[str, str]]:
    """The id and the type of each whole event."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield fields["id"], fields["event"]
            fields = {}


async def read(client: httpx2.AsyncClient, url: str, query: str, seen: Reading) -> Reading:
    """Start a run and follow it to its end as a good client does: after each cut by Last-Event-ID."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    while not seen.over:
        came = False
        try:
            if seen.run_id:
                headers = {"Last-Event-ID": seen.ids[-1]} if seen.ids else {}
                stream = client.stream("GET", f"{url}/v1/research/{seen.run_id}/events", headers=headers)
            else:
                stream = client.stream(
                    "POST", f"{url}/v1/research/stream", json={"query": query}, headers=key
                )
            async with stream as response:
                if response.status_code != 200:
                    seen.failed.append(f"{response.status_code} {(await response.aread()).decode()}")
                else:
                    came = True
                    seen.run_id = response.headers["x-run-id"]
                    async for event_id, kind in events(response):
                        seen.saw(event_id, kind)
        except httpx2.TransportError as error:
            if not came:
                seen.failed.append(repr(error))
        if not seen.over:
            seen.cuts += came
            await asyncio.sleep(0.5)  # as `retry:` in the stream asks
    return seen


async def stored(client: httpx2.AsyncClient, url: str, seen: Reading) -> list[str]:
    """The ids of a run's events, as whoever comes later gets them."""
    async with client.stream("GET", f"{url}/v1/research/{seen.run_id}/events") as response:
        return [event_id async for event_id, _ in events(response)]


def lost_or_doubled(seen: Reading, kept: list[str]) -> int:
    """Stored events that a reader did not see, and events that one saw twice or out of order."""
    order = [tuple(map(int, each.split("-"))) for each in seen.ids]
    wrong = sum(later <= earlier for earlier, later in itertools.pairwise(order))
    return len(set(kept) - set(seen.ids)) + wrong


@dataclass
class Asking:
    """What became of requests that were sent at a steady rate, however long the answers took."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)
    lag: float = 0
    """By how many seconds the latest request was sent too late: the load generator's own fault."""
    milliseconds: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    """When each was sent, on time.monotonic()'s clock."""


async def ask_steadily(
    client: httpx2.AsyncClient,
    url: str,
    rate: float,
    query: Callable[[int], str],
    stop: asyncio.Event,
    keys: bool = False,
) -> Asking:
    """Ask so many times a second; with `keys` such that the proxy may ask another replica again."""
    seen = Asking()

    async def ask(number: int) -> None:
        began = time.monotonic()
        seen.at.append(began)
        headers = {"Idempotency-Key": uuid.uuid4().hex} if keys else {}
        try:
            reply = await client.post(f"{url}/v1/research", json={"query": query(number)}, headers=headers)
            if reply.status_code != 200:
                seen.failed.append(f"{reply.status_code} {reply.text[:200]}")
        except httpx2.TransportError as error:
            seen.failed.append(repr(error))
        seen.milliseconds.append((time.monotonic() - began) * 1000)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            due = began + seen.sent / rate
            await asyncio.sleep(max(0, due - time.monotonic()))
            seen.lag = max(seen.lag, time.monotonic() - due)
            group.create_task(ask(seen.sent))
            seen.sent += 1
    return seen


def unlike(number: int) -> str:
    """One of many different questions, so that no answer is known already."""
    return f"{SHORT[:-1]}, asked for the {number}th time, {os.getpid()}?"

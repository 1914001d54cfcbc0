"""A compose project under test: a copy of lesson 06, with names, ports and images of its own."""

import hashlib
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from course import engines
from course.errors import CourseError
from course.models import base_environment
from course.paths import ROOT, copy_sources
from course.ports import free_port


class Stack:
    """A copy of the compose project, with its own name, ports and images; removed at the end.

    `settings` are the lines of its `.env`. `agent` overrides keys of the agent's service.
    """

    mounted = ("haproxy.cfg", "prometheus.yml", "alerts.yml")  # files that a container reads when it starts

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
        # base_environment leaves the learner's keys out.
        self.env = base_environment() | engines.environment() | {"COMPOSE_PROJECT_NAME": self.name}

    def copy(self, source: Path) -> None:
        """Copy the files of the lesson at `source`, and give its images names of this project."""
        self.source = source
        copy_sources(source / "research-agent", self.folder)
        model = self.folder / "compose" / "model.yml"
        model.write_text(model.read_text().replace("offline-model:latest", f"offline-model:{self.name}"))
        # A label that changes with these files makes `up` recreate the containers that have read them.
        content = b"".join((self.folder / "compose" / name).read_bytes() for name in self.mounted)
        label = {"labels": {"configuration": hashlib.sha256(content).hexdigest()}}
        agent = {"image": f"research-agent:{self.name}-${{VERSION:-latest}}"} | self.agent
        override = {"services": {"agent": agent, "proxy": label, "prometheus": label}}
        (self.folder / "docker-compose.override.yml").write_text(yaml.safe_dump(override))

    def apply(self, source: Path) -> None:
        """Copy the files of another copy of the lesson, and rebuild the agent's image if its files differ."""
        if source != self.source:
            before = self.image_files()
            self.copy(source)
            if self.image_files() != before:
                self.compose("build", "--quiet", "agent", seconds=600)

    def image_files(self) -> dict[Path, bytes]:
        """The content of the files that the agent's image may be built from."""
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
        """Run a docker command and return its output. Raises `CourseError` with its last lines."""
        done = self.run("docker", *arguments, seconds=seconds, **env)
        if done.returncode:
            lines = done.stderr.strip().splitlines()[-25:] or [f"exit code {done.returncode}"]
            raise CourseError("\n".join([f"docker {' '.join(arguments[:4])}: {lines[-1]}", *lines]))
        return done.stdout.strip()

    def compose(self, *arguments: str, seconds: float = 120, **env: str) -> str:
        return self.docker("compose", *arguments, seconds=seconds, **env)

    def up(self, replicas: int = 1, *profiles: str) -> None:
        """Start `replicas` replicas, and wait until all is healthy and the proxy sees them."""
        named = [f"--profile={profile}" for profile in profiles]
        scale = f"agent={replicas}"
        self.compose(
            *named, "up", "--detach", "--wait", "--wait-timeout", "170", "--scale", scale, seconds=200
        )
        self.wait(lambda: self.ready() == replicas, f"the proxy sees {replicas} ready replicas")

    def ready(self) -> int:
        """How many replicas the proxy counts as ready."""
        return sum(
            line.startswith('haproxy_server_status{proxy="ready"') and 'state="UP"} 1' in line
            for line in self.from_proxy("/metrics").splitlines()
        )

    def from_proxy(self, path: str) -> str:
        """The proxy's answer on its port for metrics, which is not published."""
        asking = f"exec 3<>/dev/tcp/127.0.0.1/8405; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        return self.compose("exec", "--no-TTY", "proxy", "bash", "-c", asking)

    def replicas(self) -> list[str]:
        """The ids of the replicas' containers, the oldest first."""
        listed = self.compose("ps", "--all", "--format", "json", "agent").splitlines()
        found = [json.loads(line) for line in listed]
        return [each["ID"] for each in sorted(found, key=lambda each: int(each["Name"].rpartition("-")[2]))]

    @contextmanager
    def cut_off(self, replica: str, network: str) -> Iterator[None]:
        """Take a replica off one of its networks for the duration of the block."""
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
                raise CourseError(f"This did not become true within {seconds:g} s: {what}.\n{logs}")
            time.sleep(0.2)

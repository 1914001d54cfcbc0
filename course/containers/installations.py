"""Lesson 11 on a cluster: a copy of its manifests, each installation in a namespace of its own."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from course.containers.cluster import FOLDER, Cluster, Namespace
from course.containers.commands import run as docker
from course.errors import CourseError
from course.paths import ROOT, copy_sources
from course.processes import Processes

DAPR_AGENTS = {"progress": "tracker", "triage": "router", "debug": "debugger"}  # they need no model


def copy_manifests(source: Path, folder: Path) -> Path:
    """Copy the manifests of the lesson in `source`."""
    return copy_sources(source / FOLDER, folder / "kubernetes")


def generate_dapr_agents(manifests: Path) -> None:
    """Have lesson 10's generator write the services that the manifests in `dapr` are for."""
    generator = str(ROOT / "code/10_dapr_agents/generate_agent.py")
    for name, kind in DAPR_AGENTS.items():
        arguments = (
            "--name",
            name,
            "--type",
            kind,
            "--output-dir",
            str(manifests / "dapr" / name),
            "--force",
        )
        done = subprocess.run(
            [sys.executable, generator, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CourseError(f"The Dapr agent {name} could not be generated: {done.stderr}")


class Installation(Namespace):
    """Lesson 11 in a namespace of its own: a copy of its manifests, with an overlay for tests above `local`.

    `images` are names with tags: of the agent, the model, and the agent's next version.
    """

    def __init__(self, cluster: Cluster, source: Path, folder: Path, images: tuple[str, str, str]) -> None:
        super().__init__(cluster, "research", images[0])
        self.images = images
        self.replicas = (2, 10)  # the least and the most
        self.overlay = "local"  # the lesson's, below the one for tests
        self.folder = copy_manifests(source, folder)
        self.url = ""
        self.changed = True  # whether the cluster may have another version or setting than `apply()` gives it

    def write(self, version: str = "2.0.0", image: str = "", key: str = "offline", **settings: str) -> Path:
        """Write the overlay for tests: short drains, no rate limit, an autoscaler that soon scales down."""
        settings = {
            "APP_VERSION": version,
            "MODEL_NAME": "offline?tps=40",
            "DRAIN_DELAY_SECONDS": "4",
            "DRAIN_SECONDS": "4",
            "RATE_LIMIT_RPM": "1000000",
            "MAX_RUNS_PER_CALLER": "1000000",
            "MAX_READERS_PER_CALLER": "1000000",
            "MAX_CONCURRENCY": "64",
        } | settings
        overlay = self.folder / "overlays" / "test"
        overlay.mkdir(exist_ok=True)
        agent, model, _ = self.images
        images = {"research-agent": image or agent, "offline-model": model}
        content = {
            "namespace": self.namespace,
            "resources": [f"../{self.overlay}"],
            "images": [rename(name, image) for name, image in images.items()],
            "configMapGenerator": [
                {
                    "name": "agent-settings",
                    "behavior": "merge",
                    "literals": [f"{name}={value}" for name, value in settings.items()],
                }
            ],
            "secretGenerator": [
                {"name": "agent-keys", "behavior": "merge", "literals": [f"openai_api_key={key}"]}
            ],
            "patches": [{"target": {"kind": "HorizontalPodAutoscaler"}, "patch": self.autoscaler()}],
        }
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return overlay

    def autoscaler(self) -> str:
        """A patch that bounds the replicas, and takes them away soon after the load has ended."""
        values = {
            "minReplicas": self.replicas[0],
            "maxReplicas": self.replicas[1],
            "behavior/scaleDown/stabilizationWindowSeconds": 5,
            "behavior/scaleDown/policies": [{"type": "Pods", "value": 10, "periodSeconds": 5}],
        }
        steps = [{"op": "replace", "path": f"/spec/{path}", "value": value} for path, value in values.items()]
        return json.dumps(steps)

    def apply(self, version: str = "2.0.0", image: str = "", key: str = "offline", **settings: str) -> None:
        """Apply the overlay, without waiting."""
        self.cluster.kubectl("apply", "-k", str(self.write(version, image, key, **settings)))
        self.changed = (version, image, key, settings) != ("2.0.0", "", "offline", {})

    def wait_ready(self, *names: str) -> None:
        """Wait until rollouts are complete, and the autoscaler has its fewest agents."""
        everything = ("statefulset/redis", "deployment/model", "deployment/agent", "deployment/proxy")
        self.wait_for_rollouts(*names or everything)
        least = self.replicas[0]
        self.wait(lambda: len(self.ready_agents()) >= least, f"{least} agents are ready")

    def ready_agents(self) -> list[str]:
        return self.ready_pods("agent")

    @contextmanager
    def reachable(self, processes: Processes) -> Iterator[None]:
        """Set `url` to the proxy's: the host of the course's node has a route to Services."""
        if self.cluster.ours:
            address = self.json("service", "proxy")["spec"]["clusterIP"]
            self.url = f"http://{address}"
            yield
            return
        command = [self.cluster.kubectl_program, "--context", self.cluster.context, "-n", self.namespace]
        forward = processes.start([*command, "port-forward", "service/proxy", ":80"], output=subprocess.PIPE)
        assert forward.stdout
        found = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
        if found is None:
            raise CourseError("kubectl port-forward does not start.")
        threading.Thread(target=forward.stdout.read, daemon=True).start()
        self.url = f"http://127.0.0.1:{found[1]}"
        yield
        processes.stop(forward)


class DaprInstallation(Namespace):
    """Dapr agents of lesson 10 with their sidecars, as the lesson's folder `dapr` has them.

    `images` are their images, by the name of the agent.
    """

    apps = ("progress-agent", "triage-agent", "debug-agent", "redis")

    def __init__(self, cluster: Cluster, source: Path, folder: Path, images: dict[str, str]) -> None:
        super().__init__(cluster, "learnflow", images["progress"])
        self.images = images
        self.folder = copy_manifests(source, folder)
        generate_dapr_agents(self.folder)

    def apply(self) -> None:
        """Apply an overlay that names the agents' images, without waiting."""
        overlay = self.folder / "overlays" / "dapr-test"
        overlay.mkdir(exist_ok=True)
        content = {
            "namespace": self.namespace,
            "resources": ["../../dapr"],
            "images": [rename(f"{name}-agent", image) for name, image in self.images.items()],
        }
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(content))
        self.cluster.kubectl("apply", "-k", str(overlay))


def rename(name: str, image: str) -> dict[str, str]:
    """Kustomize's change of an image into one with another name and tag."""
    repository, _, tag = image.partition(":")
    return {"name": name, "newName": repository, "newTag": tag}


def tag_next(image: str) -> str:
    """Give a built image a second name, as the next version has one."""
    docker("tag", image, f"{image}-next")
    return f"{image}-next"

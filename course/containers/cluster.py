"""Lesson 11 on a Kubernetes cluster: a copy of its manifests in a namespace of its own, and kubectl."""

import json
import os
import re
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from course import engines
from course.containers.commands import run as docker
from course.errors import CourseError
from course.paths import ROOT
from course.polling import until
from course.processes import Processes

FOLDER = Path("code/11_kubernetes")
SECONDS = 180  # for a rollout on a busy machine
Manifests = list[dict[str, Any]]


def kubectl() -> str:
    """The path of kubectl. Raises `CourseError` when it is missing."""
    program = engines.KUBERNETES.program()
    if program is None:
        raise CourseError(engines.KUBERNETES.missing_message)
    return program


def render(folder: Path) -> Manifests:
    """What `kubectl apply -k` would send. Raises `CourseError` when Kustomize cannot build it."""
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CourseError(f"Kustomize cannot build {folder.name}: {done.stderr}")
    return list(yaml.safe_load_all(done.stdout))


def find(manifests: Manifests, kind: str, name: str) -> dict[str, Any]:
    """The one manifest of that kind and name; generated names may end with a hash."""
    found = [
        each
        for each in manifests
        if each["kind"] == kind and re.fullmatch(rf"{name}(-[0-9a-z]{{10}})?", each["metadata"]["name"])
    ]
    if len(found) != 1:
        raise CourseError(f"There is not one {kind} {name}, but {len(found)}.")
    return found[0]


class Cluster:
    """The cluster of one kubectl context. Every command names the context."""

    def __init__(self, context: str) -> None:
        self.context = context
        self.kubectl_program = kubectl()
        self.ours = context == "course"  # the node that `make engine kubernetes` builds

    def try_kubectl(
        self, *arguments: str, stdin: str | None = None, seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.kubectl_program, "--context", self.context, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = SECONDS) -> str:
        """Run kubectl and return its output. Raises `CourseError` with its error text."""
        done = self.try_kubectl(*arguments, stdin=stdin, seconds=seconds)
        if done.returncode:
            raise CourseError(f"kubectl {' '.join(arguments[:6])}: {done.stderr.strip()[-3000:]}")
        return done.stdout.strip()

    def load(self, *images: str) -> None:
        """Copy images from Docker into the cluster, by the lesson's own script."""
        script = ROOT / FOLDER / "load-images.sh"
        env = os.environ | engines.environment()
        done = subprocess.run(
            [script, self.context, *images], env=env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CourseError(f"The images could not be loaded: {done.stderr[-2000:]}")


class Installation:
    """Lesson 11 in a namespace of its own: a copy of the overlay `local`, with an overlay for tests above it.

    `images` are names with tags: of the agent, the model, and the agent's next version.
    """

    def __init__(self, cluster: Cluster, source: Path, folder: Path, images: tuple[str, str, str]) -> None:
        self.cluster, self.images = cluster, images
        self.namespace = f"research-{uuid.uuid4().hex[:8]}"
        self.replicas = (2, 10)  # the least and the most
        self.folder = folder / "kubernetes"
        shutil.copytree(source / FOLDER, self.folder)
        self.url = ""

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
        names = {"research-agent": image or agent, "offline-model": model}
        content = {
            "namespace": self.namespace,
            "resources": ["../local"],
            "images": [
                {"name": name, "newName": image.partition(":")[0], "newTag": image.partition(":")[2]}
                for name, image in names.items()
            ],
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

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = SECONDS) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, stdin=stdin, seconds=seconds)

    def try_kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.cluster.try_kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def wait_ready(self, *names: str) -> None:
        """Wait until rollouts are complete, and the autoscaler has its fewest agents."""
        for name in names or (
            "statefulset/redis",
            "deployment/model",
            "deployment/agent",
            "deployment/proxy",
        ):
            try:
                self.kubectl("rollout", "status", name, f"--timeout={SECONDS}s", seconds=SECONDS + 30)
            except CourseError as failure:
                raise CourseError(f"{failure}\n{self.what_happened()}") from None
        least = self.replicas[0]
        self.wait(lambda: len(self.ready_agents()) >= least, f"{least} agents are ready")

    def what_happened(self) -> str:
        """Pods, the last events and the agents' last lines: where to look when something is wrong."""
        commands = (
            "get pods -o wide",
            "get events --sort-by=.lastTimestamp",
            "logs -l app=agent --tail=10",
            "logs -l app=proxy --tail=5",
        )
        return "\n".join(self.try_kubectl(*each.split()).stdout[-3000:] for each in commands)

    def wait(self, claim: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
        if not (found := until(claim, seconds, pause=0.3)):
            raise CourseError(
                f"This did not become true within {seconds:g} s: {what}.\n{self.what_happened()}"
            )
        return found

    def pods(self, app: str = "agent") -> list[dict[str, Any]]:
        """The pods of an app that nobody has told to stop."""
        pods = self.json("pods", f"--selector=app={app}")["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def ready_agents(self) -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in self.pods()
            for condition in pod["status"].get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True"
        ]

    def python(self, pod: str, code: str) -> str:
        """What a program prints in a pod that has Python."""
        return self.kubectl("exec", pod, "--", "python", "-c", code)

    @contextmanager
    def stranger(self) -> Iterator[str]:
        """A pod that is not part of the lesson, in the same namespace; its name."""
        name = f"stranger-{uuid.uuid4().hex[:6]}"
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(bare_pod(name, self.images[0])))
        try:
            self.kubectl("wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={SECONDS}s")
            yield name
        finally:
            self.kubectl("delete", "pod", name, "--grace-period=1")

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

    def remove(self) -> None:
        """Have the namespace removed, without waiting for its pods to drain."""
        self.cluster.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")


def bare_pod(name: str, image: str, **security: Any) -> dict[str, Any]:
    """A pod that Pod Security `restricted` admits, unless `security` takes something back; it only waits."""
    pod = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": pod | security,
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["python", "-c", "import signal; signal.pause()"],
                    "securityContext": container,
                }
            ],
        },
    }


def tag_next(image: str) -> str:
    """Give a built image a second name, as the next version has one."""
    docker("tag", image, f"{image}-next")
    return f"{image}-next"

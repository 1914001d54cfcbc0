"""A Kubernetes cluster, and a namespace of it: kubectl, and waiting until something is true."""

import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from course import engines
from course.errors import CourseError
from course.paths import ROOT
from course.polling import until

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


class Namespace:
    """A namespace of its own for an installation of the lesson; `image` has Python."""

    apps: tuple[str, ...] = ("agent", "proxy")  # whose logs tell what happened

    def __init__(self, cluster: Cluster, name: str, image: str) -> None:
        self.cluster, self.image = cluster, image
        self.namespace = f"{name}-{uuid.uuid4().hex[:8]}"

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = SECONDS) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, stdin=stdin, seconds=seconds)

    def try_kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.cluster.try_kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def wait_for_rollouts(self, *names: str) -> None:
        """Wait until rollouts such as `deployment/agent` are complete."""
        for name in names:
            try:
                self.kubectl("rollout", "status", name, f"--timeout={SECONDS}s", seconds=SECONDS + 30)
            except CourseError as failure:
                raise CourseError(f"{failure}\n{self.what_happened()}") from None

    def wait(self, claim: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
        if not (found := until(claim, seconds, pause=0.3)):
            raise CourseError(
                f"This did not become true within {seconds:g} s: {what}.\n{self.what_happened()}"
            )
        return found

    def what_happened(self) -> str:
        """Pods, the last events and the apps' last lines: where to look when something is wrong."""
        commands = ["get pods -o wide", "get events --sort-by=.lastTimestamp"]
        commands += [f"logs -l app={app} --all-containers --tail=10" for app in self.apps]
        return "\n".join(self.try_kubectl(*each.split()).stdout[-3000:] for each in commands)

    def pods(self, app: str) -> list[dict[str, Any]]:
        """The pods of an app that nobody has told to stop."""
        pods = self.json("pods", f"--selector=app={app}")["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, app: str) -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in self.pods(app)
            for condition in pod["status"].get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True"
        ]

    def python(self, pod: str, code: str) -> str:
        """What a program prints in a pod that has Python."""
        return self.kubectl("exec", pod, "--", "python", "-c", code)

    @contextmanager
    def stranger(self, app: str = "stranger") -> Iterator[str]:
        """A pod that is not part of the lesson, with the label `app`; its name.

        A policy lets it out, so that what stops it is the policy of the pod that it tries to reach.
        """
        name = f"{app}-{uuid.uuid4().hex[:6]}"
        out = {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Egress"], "egress": [{}]}
        policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}}
        pod = bare_pod(name, self.image, app)
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([pod, policy | {"spec": out}]))
        try:
            self.kubectl("wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={SECONDS}s")
            yield name
        finally:
            self.kubectl("delete", f"pod/{name}", f"networkpolicy/{name}", "--grace-period=1")

    def remove(self) -> None:
        """Have the namespace removed, without waiting for its pods to drain."""
        self.cluster.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")


def bare_pod(name: str, image: str, app: str, **security: Any) -> dict[str, Any]:
    """A pod that Pod Security `restricted` admits, unless `security` takes something back; it only waits."""
    pod = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
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

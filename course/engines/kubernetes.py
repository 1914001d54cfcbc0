"""Kubernetes: the cluster whose context the learner names, or one node that the course builds on Debian.

KUBE_CONTEXT is the name of the context. Nothing is ever applied to a context that it does not name.
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from course.engines import debian, engine
from course.engines import docker_daemon as daemon
from course.engines.built import locked, remove, run_script
from course.engines.dapr import Dapr
from course.engines.docker import Docker
from course.engines.engine import Engine, version_of
from course.errors import CourseError
from course.paths import ROOT

TOOLS = ROOT / "tools" / "kubernetes"
CACHE = engine.CACHE / "kubernetes"
RUN = daemon.RUN / "kubernetes"
READY = RUN / "ready"  # made when the node has started
CONTEXT = "course"  # the context of the course's own node
SIZE = "8 GB of disk (nearly all of it Go's caches) and eight minutes"


def pinned_version() -> str:
    """The version that is built."""
    pinned = re.search(r"^\s*k8s\.io/kubernetes v(\S+)", (TOOLS / "cluster/go.mod").read_text(), re.MULTILINE)
    assert pinned
    return pinned[1]


PROGRAMS = CACHE / f"v{pinned_version()}"
FOLDER = CACHE / "node"  # what the scripts of tools/kubernetes find: links to the programs and images
COMMANDS = CACHE / "commands"  # the programs that a learner calls: in the PATH while the node runs


def named_context() -> str | None:
    """The context of a learner's own cluster."""
    named = os.environ.get("KUBE_CONTEXT")
    return named if named and named != CONTEXT else None


def runs() -> bool:
    """Whether the course's own node runs. A node that was killed has left its files."""
    return READY.exists() and daemon.pid_in(RUN / "pids/kube-apiserver", f"{RUN}/") is not None


class Kubernetes(Engine):
    """A cluster, and kubectl. The course's own node takes a gigabyte of memory: it runs only while used."""

    name = "kubernetes"
    purpose = "many containers on many machines"
    install_hint = (
        "kind (kind.sigs.k8s.io), k3d, minikube or any other cluster, whose context KUBE_CONTEXT names; "
        "or `make engine kubernetes` on Debian, as root, with Go"
    )
    tests = ("11",)

    def program(self) -> str | None:
        if named_context():
            return shutil.which("kubectl")
        kubectl = PROGRAMS / "bin" / "kubectl"
        return str(kubectl) if kubectl.exists() else None

    def version(self) -> str | None:
        program, context = self.program(), named_context()
        if program is None:
            return None
        if context:
            version = version_of([program, "--context", context, "get", "--raw", "/version"])
            return version and f"{version} (context {context})"
        if not debian.can_install():
            return None
        state = "runs" if runs() else "starts when it is used"
        return f"{pinned_version()} (built by the course; {state})"

    def setup_cost(self) -> str:
        return "" if self.version() else SIZE

    def set_up(self, console: Console) -> None:
        if context := named_context():
            if self.version() is None:
                raise CourseError(f"kubectl is missing, or the cluster of {context} does not answer.")
        elif not PROGRAMS.exists():
            if not debian.can_install():
                raise CourseError(self.missing_message)
            if shutil.which("go") is None:
                raise CourseError(f"{self.missing_message} Go 1.26 or newer is at go.dev/dl.")
            began = time.monotonic()
            with locked(CACHE):
                if not PROGRAMS.exists():
                    run_script(console, f"building kubernetes ({SIZE})", TOOLS / "build.sh", PROGRAMS)
            console.print(f"✓ kubernetes {self.version()} ({time.monotonic() - began:.0f} s)")
            return
        console.print(f"✓ kubernetes {self.version()}")

    def start(self, console: Console) -> None:
        """Start the course's own node, unless it runs, or the learner has named a cluster."""
        if named_context():
            return
        Dapr().make_image(console)
        if runs():
            return
        with locked(CACHE):
            debian_packages, images = CACHE / "debian-12", PROGRAMS / "images.tar"
            if not debian_packages.exists():
                run_script(console, "unpacking a node's packages", TOOLS / "programs.sh", debian_packages)
            if not images.exists():
                Docker().set_up(console)
                environment = daemon.environment()
                run_script(
                    console, "making a node's images", TOOLS / "images.sh", PROGRAMS, images, env=environment
                )
            link(FOLDER, programs=PROGRAMS, debian=debian_packages, **{"images.tar": images})
            link(COMMANDS, kubectl=PROGRAMS / "bin/kubectl", ctr=debian_packages / "usr/bin/ctr")
            if RUN.exists():  # after a crash
                self.run_script(console, "stopping the node", "stop.sh")
            try:
                self.run_script(console, "starting a node", "start.sh")
            except BaseException:
                self.run_script(console, "stopping the node", "stop.sh")
                raise
            READY.touch()

    def run_script(self, console: Console, name: str, script: str, *arguments: str) -> None:
        run_script(console, name, TOOLS / script, *arguments, env={"COURSE_KUBERNETES": str(FOLDER)})

    def show_exports(self, console: Console) -> None:
        """Print the commands with which kubectl in a learner's terminal finds the course's own node."""
        for name, value in self.environment().items():
            value = value.replace(os.environ["PATH"], "$PATH")
            console.print(f'  export {name}="{value}"', soft_wrap=True, markup=False)

    def stop(self, console: Console) -> None:
        if not RUN.exists():
            console.print("The course's own Kubernetes is not running.")
            return
        self.run_script(console, "stopping the node", "stop.sh")
        console.print("✓ kubernetes: stopped")

    def clean(self, console: Console) -> None:
        self.stop(console)
        with console.status("removing Kubernetes' programs and images ..."):
            remove(CACHE)

    def environment(self) -> dict[str, str]:
        if named_context() or not runs():
            return {}
        path = daemon.environment().get("PATH", os.environ["PATH"])  # this one replaces Docker's
        return {
            "KUBE_CONTEXT": CONTEXT,
            "KUBECONFIG": str(RUN / "config" / "admin.kubeconfig"),
            "PATH": f"{COMMANDS}{os.pathsep}{path}",
        }

    @contextmanager
    def used(self, console: Console) -> Iterator[None]:
        """Have a node for the block: the one that runs, or one that is started, and stopped at the end.

        Users take turns, because a lesson drains the node, and restarts its container runtime.
        """
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "used").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ours = not named_context() and not runs()
            self.start(console)
            os.environ.update(self.environment())
            try:
                yield
            finally:
                if ours and not os.environ.get("KEEP"):
                    self.stop(console)


def link(folder: Path, **targets: Path) -> None:
    """Make a folder of links."""
    folder.mkdir(exist_ok=True)
    for name, target in targets.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

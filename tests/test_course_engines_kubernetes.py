"""Kubernetes: the cluster that the learner names is used, or else a node that the course builds."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from course.engines import docker_daemon, kubernetes
from course.engines.kubernetes import Kubernetes
from course.errors import CourseError
from course.paths import ROOT

Calls = list[tuple[str, ...]]


def put_program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of root's, on which nothing is installed or built, and no node runs."""
    for name in ("CACHE", "PROGRAMS", "FOLDER", "COMMANDS"):
        monkeypatch.setattr(kubernetes, name, tmp_path / "cache" / name.lower())
    monkeypatch.setattr(kubernetes, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(kubernetes, "RUN", tmp_path / "run")
    monkeypatch.setattr(kubernetes, "READY", tmp_path / "run/ready")
    monkeypatch.setattr(docker_daemon, "environment", dict)
    monkeypatch.setattr(docker_daemon, "pid_of", lambda: None)
    monkeypatch.delenv("KUBE_CONTEXT", raising=False)
    monkeypatch.setenv("KUBECONFIG", "")  # so that the one which `used` sets is gone afterwards
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("course.engines.debian.can_install", lambda: True)


@pytest.fixture
def built(tmp_path: Path) -> None:
    """A node whose programs, packages and images are in the cache."""
    put_program(kubernetes.PROGRAMS / "bin/kubectl", "")
    (kubernetes.PROGRAMS / "images.tar").touch()
    (kubernetes.CACHE / "debian-12/usr/bin").mkdir(parents=True)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line looks like the API server's."""
    code = "import signal; print(flush=True); signal.pause()"
    command = [sys.executable, "-c", code, f"{tmp_path}/run/certificates/ca.crt"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, node: subprocess.Popen[bytes]) -> Calls:
    """The scripts that are run, in order; the one that starts a node makes its folder."""
    made: Calls = []

    def run(self: Kubernetes, console: Console, name: str, script: str, *arguments: str) -> None:
        made.append((script, *arguments))
        if script == "start.sh":
            (kubernetes.RUN / "pids").mkdir(parents=True)
            (kubernetes.RUN / "pids/kube-apiserver").write_text(f"{node.pid}")
        if script == "stop.sh":
            shutil.rmtree(kubernetes.RUN)

    monkeypatch.setattr(Kubernetes, "run_script", run)
    return made


def test_a_named_cluster_is_asked_for_its_version_and_no_node_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: None, calls: Calls
) -> None:
    asked = tmp_path / "asked"
    put_program(tmp_path / "bin/kubectl", f'echo "$@" > {asked}; echo \'{{"gitVersion": "v1.33.1"}}\'')
    monkeypatch.setenv("KUBE_CONTEXT", "kind-mine")
    assert Kubernetes().version() == "1.33.1 (context kind-mine)"
    assert asked.read_text() == "--context kind-mine get --raw /version\n"
    with Kubernetes().used(Console(quiet=True)):
        assert calls == [], "A node is started beside the learner's cluster."
        assert Kubernetes().environment() == {}, "The course's context replaces the learner's."


def test_a_named_cluster_that_does_not_answer_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: None
) -> None:
    put_program(tmp_path / "bin/kubectl", "exit 1")
    monkeypatch.setenv("KUBE_CONTEXT", "kind-mine")
    assert Kubernetes().version() is None, (
        "The course's own node would be used in place of the named cluster."
    )
    with pytest.raises(CourseError, match="the cluster of kind-mine does not answer"):
        Kubernetes().set_up(Console(quiet=True))


def test_no_other_context_than_the_named_one_is_used(tmp_path: Path) -> None:
    put_program(tmp_path / "bin/kubectl", 'echo \'{"gitVersion": "v1.33.1"}\'')
    assert Kubernetes().version() is None, "kubectl's current context is used, which nobody has named."


def test_a_node_is_started_for_its_use_and_stopped_at_the_end(built: None, calls: Calls) -> None:
    with Kubernetes().used(Console(quiet=True)):
        assert calls == [("start.sh",)]
        assert Kubernetes().environment()["KUBE_CONTEXT"] == "course"
        assert Kubernetes().environment()["PATH"].startswith(str(kubernetes.COMMANDS))
    assert calls == [("start.sh",), ("stop.sh",)]
    assert Kubernetes().environment() == {}


def test_a_node_that_runs_is_used_and_stays(built: None, calls: Calls) -> None:
    Kubernetes().start(Console(quiet=True))
    with Kubernetes().used(Console(quiet=True)):
        pass
    assert calls == [("start.sh",)], "The node of `make engine kubernetes` is stopped or started again."


def test_what_a_crash_has_left_is_removed_before_a_new_start(built: None, calls: Calls) -> None:
    kubernetes.RUN.mkdir(parents=True)
    Kubernetes().start(Console(quiet=True))
    assert calls == [("stop.sh",), ("start.sh",)]


def test_a_node_that_was_killed_is_started_again(
    built: None, calls: Calls, node: subprocess.Popen[bytes]
) -> None:
    Kubernetes().start(Console(quiet=True))
    node.kill()
    node.wait()
    assert "runs" not in str(Kubernetes().version()), "The node is dead, and the doctor says that it runs."
    Kubernetes().start(Console(quiet=True))
    assert calls == [("start.sh",), ("stop.sh",), ("start.sh",)]


def test_a_node_that_does_not_start_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, built: None, calls: Calls
) -> None:
    run = Kubernetes.run_script

    def fail(self: Kubernetes, console: Console, name: str, script: str) -> None:
        run(self, console, name, script)
        if script == "start.sh":
            raise CourseError("no space left")

    monkeypatch.setattr(Kubernetes, "run_script", fail)
    with pytest.raises(CourseError, match="no space left"):
        Kubernetes().start(Console(quiet=True))
    assert calls == [("start.sh",), ("stop.sh",)]


def test_without_go_a_node_cannot_be_built() -> None:
    with pytest.raises(CourseError, match=r"kubernetes is missing.*KUBE_CONTEXT.*Go 1\.26 or newer"):
        Kubernetes().set_up(Console(quiet=True))


def test_go_mod_pins_one_version_of_kubernetes() -> None:
    go = (ROOT / "tools/kubernetes/cluster/go.mod").read_text()
    assert re.findall(r"^\s*k8s\.io/kubernetes v(\S+)", go, re.MULTILINE) == [kubernetes.pinned_version()]

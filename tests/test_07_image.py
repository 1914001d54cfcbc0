"""Lesson 07 as an image: built and checked by its pipeline, and run by its compose file."""

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.container_tools import own_address, result

from course.audit.layers import PUBLIC_NAMES
from course.engines import dagger as dagger_engine
from course.engines import docker_daemon as daemon
from course.engines.docker import docker
from course.models import base_environment
from course.paths import ROOT, copy_sources
from course.ports import free_port
from course.processes import Processes

pytestmark = [pytest.mark.dagger, pytest.mark.docker, pytest.mark.timeout(600)]
LESSON = ROOT / "code/07_container_tools"
# The rights of `privileged` without those that the course's own Docker refuses; as in tools/dagger/run.sh.
PRIVILEGES = {
    "privileged": False,
    "cap_add": ["ALL"],
    "security_opt": ["seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"],
    "device_cgroup_rules": ["a *:* rwm"],
    "cgroup": "host",
}


def pipeline(folder: Path, tar: Path, log: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "ci/ci_pipeline.py", str(tar)]
    env = base_environment() | {"DAGGER_LOG": str(log)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def image(docker: None, dagger_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The lesson's image, as its pipeline exports it."""
    folder = tmp_path_factory.mktemp("image")
    done = pipeline(LESSON, folder / "image.tar", folder / "log")
    assert done.returncode == 0, (
        f"The lesson's pipeline ends with exit code {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    steps = re.findall(r"^(\w+) +[\d.]+ s to", done.stdout, re.MULTILINE)
    assert sorted(steps) == ["export", "image", "lint", "tests", "types"], (
        f"The pipeline reports the steps {steps}, not lint, types, tests, image and export."
    )
    loaded = run_docker("load", "--input", str(folder / "image.tar"))
    assert "container-tools:ci" in loaded, (
        f"`docker load` does not report an image named container-tools:ci: {loaded!r}."
    )
    own = f"container-tools:{uuid.uuid4().hex[:8]}"
    run_docker("tag", "container-tools:ci", own)
    yield own
    run_docker("rmi", "--force", own)


def run_docker(*arguments: str) -> str:
    done = docker(*arguments, seconds=300)
    assert done.returncode == 0, (
        f"`docker {arguments[0]}` ends with exit code {done.returncode}:\n{done.stderr}"
    )
    return done.stdout


@pytest.mark.parametrize(
    ("file", "fault", "says"),
    [
        ("modules/config.py", "import json\n", "imported but unused"),
        ("modules/config.py", "port: int = 'x'\n", "Incompatible types in assignment"),
        ("modules/scripts/hello_script.py", "sys.exit(1)\n", "test_a_script_returns_what_its_tool_declares"),
    ],
    ids=["lint", "types", "tests"],
)
@pytest.mark.usefixtures("dagger_engine")
def test_the_pipeline_fails_with_the_step_and_its_output(
    tmp_path: Path, file: str, fault: str, says: str
) -> None:
    folder = copy_sources(LESSON, tmp_path / "lesson")
    path = folder / file
    path.write_text(path.read_text() + fault)
    done = pipeline(folder, tmp_path / "image.tar", tmp_path / "log")
    assert done.returncode == 1, (
        f"The lesson has a fault, and the pipeline ends with exit code {done.returncode}, not 1."
    )
    assert says in done.stderr, (
        f"The pipeline's stderr does not say {says!r}; it ends with {done.stderr[-500:]!r}."
    )
    assert "This step failed" in done.stderr, (
        f"The pipeline does not say 'This step failed'; its stderr ends with {done.stderr[-500:]!r}."
    )
    assert not (tmp_path / "image.tar").exists(), "The pipeline failed, and there is an image."


def test_the_image_has_the_version_of_dagger_that_the_sdk_needs(image: str) -> None:
    version = run_docker("run", "--rm", "--entrypoint", "dagger", image, "version")
    assert f"v{dagger_engine.VERSION}" in version, (
        f"The SDK needs Dagger v{dagger_engine.VERSION}, and the image's program says {version!r}."
    )
    for file in ("Dockerfile", "docker-compose.yml"):
        named = re.findall(r"registry\.dagger\.io/engine:v(\S+)", (LESSON / file).read_text())
        assert named == [dagger_engine.VERSION], f"{file} names another version than the SDK's."


def test_the_image_runs_as_a_numeric_user_and_holds_no_secret(image: str) -> None:
    config = json.loads(run_docker("inspect", image))[0]["Config"]
    assert config["User"] == "10001:10001", f"The image runs as user {config['User']!r}, not as 10001:10001."
    names = {each.partition("=")[0] for each in config["Env"]} - PUBLIC_NAMES
    secrets = [name for name in names if "KEY" in name or "TOKEN" in name]
    assert not secrets, f"Variables in the image's environment look like secrets: {secrets}."


@pytest.fixture
def engine_here(tmp_path: Path, processes: Processes) -> dict[str, Any]:
    """Settings that the compose file's engine also needs on a machine that has the course's own Docker.

    It pulls images from the course's registry, which a read-only server shows to containers.
    """
    if daemon.pid_of() is None:
        return {}
    mirror = f"{own_address()}:{free_port()}"
    program, storage = daemon.PROGRAMS / "usr/bin/docker-registry", str(daemon.REGISTRY)
    env = os.environ | {
        "REGISTRY_HTTP_ADDR": mirror,
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": storage,
        "REGISTRY_STORAGE_MAINTENANCE_READONLY": "{enabled: true}",
    }
    processes.start([str(program), "serve", str(daemon.TOOLS / "registry.yml")], env=env)
    config = tmp_path / "engine.json"
    registries = {"docker.io": {"mirrors": [mirror]}, mirror: {"http": True}}
    config.write_text(json.dumps({"registries": registries}))
    volumes = ["/sys/fs/cgroup:/sys/fs/cgroup:rw", f"{config}:/etc/dagger/engine.json:ro"]
    return PRIVILEGES | {"volumes": volumes}


def test_the_compose_file_runs_the_app_with_its_tools(
    image: str, engine_here: dict[str, Any], tmp_path: Path
) -> None:
    override = tmp_path / "override.json"
    override.write_text(json.dumps({"services": {"app": {"image": image}, "engine": engine_here}}))
    port = free_port()
    env = os.environ | {
        "HTTP_PORT": str(port),
        "OPENAI_API_KEY": "not-the-real-one",
        "COMPOSE_PROGRESS": "quiet",
    }
    files = ["-f", str(LESSON / "docker-compose.yml"), "-f", str(override)]
    compose = ["docker", "compose", "--project-name", f"tools-{uuid.uuid4().hex[:8]}", *files]
    try:
        done = subprocess.run(
            [*compose, "up", "--detach", "--wait"], env=env, capture_output=True, text=True, check=False
        )
        logs = subprocess.run([*compose, "logs", "--tail", "30"], env=env, capture_output=True, text=True)
        assert done.returncode == 0, (
            f"`docker compose up` ends with exit code {done.returncode}:\n{done.stderr}{logs.stdout}"
        )
        url = f"http://127.0.0.1:{port}"
        greeting = result(url, "hello", name="Ada")["greeting"]
        assert greeting == "Hello, Ada!", f"The name Ada was sent, and the greeting is {greeting!r}."
        status = httpx2.get(f"{url}/ready", timeout=10).status_code
        assert status == 200, f"The app has called a tool, and /ready says {status}, not 200."
    finally:
        subprocess.run([*compose, "down", "--volumes"], env=env, capture_output=True, check=True)


def test_every_setting_is_in_the_example_file() -> None:
    named = set(re.findall(r"^([A-Z_]+)=", (LESSON / ".env.example").read_text(), re.MULTILINE))
    fields = re.findall(
        r"^    (\w+): .*= |^    (\w+): SecretStr$", (LESSON / "modules/config.py").read_text(), re.M
    )
    settings = {(a or b).upper() for a, b in fields} - {"MODEL_CONFIG", "MODEL_NAME"} | {"LLM_MODEL"}
    differing = (named - {"DAGGER_CLOUD_TOKEN"}) ^ settings
    assert not differing, (
        f"The settings of .env.example and modules/config.py do not match: {sorted(differing)}."
    )

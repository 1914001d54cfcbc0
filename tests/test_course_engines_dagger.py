"""The Dagger engine: SDK and engine have one version, and the SDK finds the engine by the environment."""

import re
import time
from pathlib import Path

import dagger
import pytest
from dagger._engine._version import CLI_VERSION
from rich.console import Console

from course import engines
from course.engines import dagger as dagger_engine
from course.engines import docker_daemon
from course.engines.dagger import Dagger
from course.engines.docker import docker
from course.errors import CourseError
from course.paths import ROOT

FAKE_DOCKER = '#!/bin/sh\n[ "$1" = version ] && echo 99.1 || exit 1\n'


@pytest.fixture
def own_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a Docker of its own, and without the course's daemon and engine."""
    monkeypatch.setattr(docker_daemon, "RUN", tmp_path)
    monkeypatch.setattr(dagger_engine, "SOCKET", tmp_path / "engine.sock")
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_module_that_is_built_has_the_version_of_the_sdk() -> None:
    required = set(
        re.findall(r"dagger\.?\S* v(\S+)$", (ROOT / "tools/dagger/go.mod").read_text(), re.MULTILINE)
    )
    required -= {"0.19.9"}  # a module of constants that is replaced by a folder
    assert required == {dagger_engine.VERSION}
    assert dagger_engine.VERSION == CLI_VERSION


@pytest.mark.usefixtures("own_docker")
def test_with_a_docker_of_its_own_a_machine_builds_nothing() -> None:
    engine = Dagger()
    with (console := Console(width=200)).capture() as said:
        engine.set_up(console)
    assert said.get().startswith(f"✓ dagger {dagger_engine.VERSION} (fetched by the SDK)")
    assert engine.environment() == {}, "The SDK would look for an engine that the course does not run."


@pytest.mark.usefixtures("own_docker")
def test_a_machine_without_docker_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert Dagger().version() is None
    with pytest.raises(CourseError, match=r"dagger is missing.*docs\.docker\.com/get-docker"):
        Dagger().set_up(Console(quiet=True))


@pytest.mark.usefixtures("own_docker")
def test_without_go_the_engine_cannot_be_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(CourseError, match=r"Go 1\.26 or newer is needed"):
        dagger_engine.build(Console(quiet=True))


def test_dagger_is_stopped_before_docker_in_which_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    for kind in {type(engine) for engine in engines.ALL}:  # all, because another worker's test may use one
        monkeypatch.setattr(kind, "stop", lambda engine, console: stopped.append(engine.name))
    engines.stop(Console(quiet=True))
    assert sorted(stopped) == sorted(engine.name for engine in engines.ALL)
    assert stopped.index("dagger") < stopped.index("docker")


@pytest.mark.dagger
@pytest.mark.usefixtures("dagger_engine")
async def test_the_sdk_runs_a_container_of_the_base_image_on_this_engine() -> None:
    async with dagger.Connection() as client:
        python = client.container().from_("python:3.13-slim")
        said = await python.with_exec(["python", "-c", "print(6 * 7)"]).stdout()
        assert await client.version() == f"v{dagger_engine.VERSION}"
    assert said == "42\n"


@pytest.mark.dagger
@pytest.mark.usefixtures("dagger_engine")
def test_an_engine_that_runs_is_not_started_again() -> None:
    before = docker("inspect", "--format", "{{.Id}}", dagger_engine.CONTAINER).stdout
    began = time.monotonic()
    engines.set_up(Console(quiet=True), ["dagger"])
    assert docker("inspect", "--format", "{{.Id}}", dagger_engine.CONTAINER).stdout == before
    assert time.monotonic() - began < 20, "The engine is built or started again although it runs."


@pytest.mark.dagger
@pytest.mark.usefixtures("dagger_engine")
def test_doctor_tells_which_engine_is_used() -> None:
    with (console := Console(width=250)).capture() as said:
        engines.doctor(console, {"07 Container tools": ["dagger"]})
    version = rf"{re.escape(dagger_engine.VERSION)} \((built by the course|fetched by the SDK)\)"
    assert re.search(rf"✓ dagger +{version} ", said.get())


@pytest.mark.serial
@pytest.mark.dagger
@pytest.mark.usefixtures("dagger_engine")
def test_an_engine_that_refuses_its_cache_gets_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if docker_daemon.pid_of() is None:
        pytest.skip("Here the SDK starts the engine, and its cache is not the course's.")
    spoiled = tmp_path / "state" / "worker" / "workerid"
    with (console := Console()).capture() as said:
        Dagger().stop(console)
        monkeypatch.setattr(dagger_engine, "STATE", tmp_path / "state")
        try:
            Dagger().start(console)
            Dagger().stop(console)
            spoiled.unlink()
            spoiled.mkdir()
            Dagger().start(console)
            assert dagger_engine.answers()
        finally:
            Dagger().stop(console)
            monkeypatch.undo()
            Dagger().start(console)
    assert "! Dagger's engine did not start with its cache. The course removes the cache." in said.get()
    assert spoiled.is_file()

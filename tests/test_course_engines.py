"""Engines: what is missing is said with the way to get it, and what is there is a real server."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support.engines import require

from course import engines
from course.engines import docker, docker_daemon
from course.engines.chromium import CHROMIUM
from course.engines.redis import REDIS, RedisServer
from course.errors import CourseError
from course.paths import ROOT


def engine(path: str, *names: str) -> tuple[int, str]:
    """Run `make engine`'s command with that search path for programs."""
    done = subprocess.run(
        [sys.executable, "-m", "course", "engine", *names],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def program(folder: Path, name: str, script: str) -> None:
    """Put a program into a folder that a test makes its search path."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_missing_engine_that_cannot_be_installed_is_reported_with_its_package(tmp_path: Path) -> None:
    code, said = engine(str(tmp_path), "redis", "chromium")  # where there is no apt-get either
    assert code == 1
    assert "redis is missing. Get it: `make engine redis` on Debian" in said
    assert "sudo apt-get install redis-server" in said
    assert "sudo apt-get install chromium" in said, "The first engine that is missing hides the others."


def test_only_the_named_engine_is_set_up(tmp_path: Path) -> None:
    code, said = engine(str(tmp_path), "redis")
    assert code == 1
    assert "chromium" not in said
    assert "docker" not in said


def test_an_unknown_engine_is_refused_with_the_list_of_engines(tmp_path: Path) -> None:
    names = "docker, dagger, redis, chromium, dapr, kafka, postgresql, kubernetes"
    assert engine(str(tmp_path), "dokcer") == (1, f"✗ There is no engine dokcer. There are: {names}.\n")


def test_an_engine_that_works_is_not_installed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path, "redis-server", "echo 7.1.2")
    program(tmp_path, "google-chrome", "echo 101.2")
    program(tmp_path, "apt-get", f": > {tmp_path}/called; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (console := Console()).capture() as said:
        engines.set_up(console, ["redis", "chromium"])
    assert said.get() == "✓ redis 7.1.2\n✓ chromium 101.2\n"
    assert not (tmp_path / "called").exists(), "Packages are installed although the engine is there."


def test_disk_and_time_are_printed_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("course.engines.debian.can_install", lambda: True)
    monkeypatch.setattr("course.engines.debian.POLICY", tmp_path / "policy")
    script = "echo '#!/bin/sh' > $here; echo echo 7.1.2 >> $here; /bin/chmod +x $here"
    program(tmp_path, "apt-get", f"here={tmp_path}/redis-server; {script}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (console := Console(width=200)).capture() as said:
        engines.set_up(console, ["redis"])
    lines = said.get().splitlines()
    assert re.match(r"redis will take \d+ MB of disk", lines[0]), "What it takes is not the first thing said."
    assert re.match(r"Free on this disk: \d+ GB", lines[1])
    assert lines.index("✓ redis 7.1.2") > lines.index(
        "$ apt-get install --yes --quiet --no-install-recommends redis-server"
    )


def test_an_engine_that_is_installed_and_does_not_answer_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("course.engines.debian.can_install", lambda: True)
    monkeypatch.setattr("course.engines.debian.POLICY", tmp_path / "policy")
    program(tmp_path, "apt-get", "exit 0")
    program(tmp_path, "redis-server", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        CourseError, match="redis is installed, but `redis --version` fails or prints no version"
    ):
        engines.set_up(Console(quiet=True), ["redis"])


def test_the_disk_space_announced_for_docker_was_measured() -> None:
    values = json.loads((ROOT / "docs/figures/engine_cold.json").read_text())["values"]
    for name in ("gigabytes", "gigabytes_with_lessons"):
        assert f" {values[name]:.1f} GB" in f" {docker.SIZE}", "What is announced was not measured."


@pytest.mark.parametrize("page", ["05-images", "06-compose"])
def test_the_page_has_the_exports_that_docker_prints(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    for line in docker.exports():
        assert f"\n    {line}\n" in text, f"{page}.md does not say how a terminal finds the course's Docker."


def test_a_shell_with_these_exports_finds_the_courses_docker() -> None:
    script = "; ".join(docker.exports()) + '; echo "$DOCKER_HOST $DOCKER_CONFIG $PATH"'
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == list(docker_daemon.settings("/usr/bin").values())


def named(pattern: str, *files: str) -> set[str]:
    """What a pattern finds in the files of the course that these globs name."""
    paths = [path for each in files for path in ROOT.glob(each)]
    assert paths
    return {name for path in paths for name in re.findall(pattern, path.read_text("utf-8"), re.MULTILINE)}


def test_stand_in_images_are_exactly_those_that_lessons_use() -> None:
    used = named(
        r"^FROM (\w+:\S+)", "code/Dockerfile*", "offline-model/Dockerfile*", "research-agent/Dockerfile*"
    )
    used |= named(r"^ +image: ([\w/]+:\S+)", "research-agent/*.yml", "research-agent/compose/*.yml")
    used |= named(r"^ARG PYTHON_IMAGE=([\w:.-]+)$", "exercises/*.toml")
    used -= {"research-agent:latest", "offline-model:latest"}
    made = named(r'"([\w/.-]+:[\w.-]+)"', "tools/docker/images/docker-bake.hcl")
    assert made == used


@pytest.mark.parametrize(
    ("goals", "names"), [([], ""), (["docker"], "docker"), (["redis", "chromium"], "redis chromium")]
)
def test_make_passes_the_names_to_the_engine_command(goals: list[str], names: str) -> None:
    done = make("engine", *goals)
    assert f"-m course engine {names}".rstrip() in [
        line.strip().removeprefix(".venv/bin/python ") for line in done
    ]


def test_make_runs_targets_that_follow_engine() -> None:
    done = " ".join(make("engine", "redis", "doctor", "lesson-01"))
    assert "course engine redis" in done
    assert "course doctor" in done, "`make engine redis doctor` takes a target for an engine."
    assert "course lesson 01" in done
    assert "engine redis doctor" not in done


def make(*goals: str) -> list[str]:
    """The commands that make would run."""
    done = subprocess.run(
        ["make", "--dry-run", "--old-file=.venv/lessons.done", *goals],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"`make {' '.join(goals)}` is refused: {done.stderr}"
    assert "warning" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def test_doctor_lists_each_engine_with_its_version_and_lessons(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("bash", "curl"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    program(tmp_path, "redis-server", "echo 7.1.2")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (console := Console(width=200)).capture() as said:
        assert not engines.doctor(console, {"06 Many": ["chromium"], "07 More": ["redis"]})
    lines = [" ".join(line.split()) for line in said.get().splitlines()]
    assert f"✓ redis 7.1.2 {REDIS.purpose} 07, 04 (tests), 08 (tests)" in lines
    assert f"✗ chromium - {CHROMIUM.purpose} 06, 04 (tests) {CHROMIUM.install_hint}" in lines
    assert "✗ 06 Many: needs chromium" in lines
    assert "✓ 07 More" in lines


def test_a_test_without_its_engine_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="redis is missing"):
        require("redis")


def test_redis_keeps_its_data_when_it_is_killed(redis_server: RedisServer) -> None:
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.set("cargo", "bananas")
        redis_server.kill()
        assert not redis_server.answers()
        redis_server.start()
        assert client.get("cargo") == b"bananas"
        client.delete("cargo")

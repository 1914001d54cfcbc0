"""Dapr, Kafka and PostgreSQL: the machine's own are used, and else the ones that the course builds."""

import re
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from course import engines
from course.engines import dapr, postgresql
from course.engines.dapr import Dapr
from course.engines.kafka import Kafka
from course.engines.postgresql import POSTGRESQL
from course.errors import CourseError
from course.paths import ROOT


def put_program(path: Path, prints: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {prints}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which nothing is installed or built."""
    for engine in (Dapr, Kafka):
        monkeypatch.setattr(engine, "cached", tmp_path / "cache" / engine.name / "v1")
        monkeypatch.delenv(engine.variable, raising=False)
    monkeypatch.setattr(postgresql, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("course.engines.debian.can_install", lambda: False)


def test_the_programs_of_dapr_init_are_used_and_nothing_is_built(tmp_path: Path) -> None:
    daprd = put_program(tmp_path / "home/.dapr/bin/daprd", "1.17.3")
    put_program(Dapr.cached / ".dapr/bin/daprd", "1.18.1")
    with (console := Console(width=200)).capture() as said:
        Dapr().set_up(console)
    assert said.get() == "✓ dapr 1.17.3\n"
    assert Dapr().program() == str(daprd)
    assert Dapr().environment() == {}, "Lessons are sent to other programs than those of `dapr init`."


def test_dapr_is_built_once_into_a_folder_that_lessons_find(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = put_program(tmp_path / "build.sh", "")
    script.write_text(
        '#!/bin/sh\n/bin/mkdir -p "$1/.dapr/bin"; echo built >> "$1/../log"\n'
        'printf "#!/bin/sh\\necho 1.18.1\\n" > "$1/.dapr/bin/daprd"; /bin/chmod +x "$1/.dapr/bin/daprd"\n'
    )
    monkeypatch.setattr(Dapr, "script", script)
    put_program(tmp_path / "bin/go", "")
    assert Dapr().setup_cost() == Dapr.size
    for _ in range(2):
        Dapr().set_up(Console(quiet=True))
    assert (Dapr.cached.parent / "log").read_text() == "built\n", "Dapr is built although it is there."
    assert Dapr().setup_cost() == ""
    assert Dapr().environment() == {"DAPR_RUNTIME_PATH": str(Dapr.cached)}


def test_a_build_that_fails_is_reported_with_its_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = put_program(tmp_path / "build.sh", "no space left; exit 1")
    monkeypatch.setattr(Dapr, "script", script)
    put_program(tmp_path / "bin/go", "")
    with pytest.raises(CourseError, match=r"building dapr .* failed:\nno space left"):
        Dapr().set_up(Console(quiet=True))


def test_without_go_dapr_cannot_be_built() -> None:
    with pytest.raises(CourseError, match=r"dapr is missing.*`dapr init`.*Go 1\.26 or newer"):
        Dapr().set_up(Console(quiet=True))


@pytest.mark.parametrize(("java", "version"), [("17.0.15", "4.1.1"), ("11.0.2", None)])
def test_kafka_is_found_by_its_folder_and_needs_java_17(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, java: str, version: str | None
) -> None:
    put_program(tmp_path / "kafka/libs/kafka_2.13-4.1.1.jar", "")
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "kafka"))
    assert Kafka().version() is None, "Kafka counts as there although Java is missing."
    put_program(tmp_path / "bin/java", f"openjdk {java} 2025-04-15")
    assert Kafka().version() == version
    assert Kafka().environment() == {}


def test_a_machine_without_kafka_is_told_how_to_get_it() -> None:
    with pytest.raises(CourseError, match=r"kafka is missing.*KAFKA_HOME"):
        Kafka().set_up(Console(quiet=True))


def test_the_newest_postgresql_of_debian_is_found_outside_the_search_path(tmp_path: Path) -> None:
    assert POSTGRESQL.version() is None
    for version in ("9", "15"):
        put_program(tmp_path / f"debian/{version}/bin/postgres", f"'postgres (PostgreSQL) {version}.18'")
    assert POSTGRESQL.version() == "15.18"


def test_engine_dapr_sets_up_kafka_and_postgresql_too(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up: list[str] = []
    for engine in engines.ENGINES.values():
        monkeypatch.setattr(type(engine), "set_up", lambda engine, console: set_up.append(engine.name))
    engines.set_up(Console(quiet=True), ["dapr"])
    assert set_up == ["dapr", "kafka", "postgresql"]


def test_clean_removes_what_was_built() -> None:
    put_program(Dapr.cached / ".dapr/bin/daprd", "1.18.1")
    Dapr().clean(Console(quiet=True))
    assert list(Dapr.cached.parent.parent.iterdir()) == []


def test_go_mod_and_pom_pin_one_version_each() -> None:
    go = (ROOT / "tools/dapr/go.mod").read_text()
    assert len(re.findall(r"^\s*github\.com/dapr/dapr v", go, re.MULTILINE)) == 1
    assert (ROOT / "tools/kafka/pom.xml").read_text().count("<artifactId>kafka_") == 1


@pytest.mark.parametrize(
    ("built", "own_docker", "there", "made"),
    [
        (True, True, False, ["daprio/daprd:1.18.1"]),
        (True, True, True, []),
        (True, False, False, []),
        (False, True, False, []),
    ],
    ids=["made", "there-already", "machine's-own-docker", "no-sidecar"],
)
def test_the_sidecars_image_is_made_where_none_can_be_pulled(
    monkeypatch: pytest.MonkeyPatch, built: bool, own_docker: bool, there: bool, made: list[str]
) -> None:
    if built:
        put_program(Dapr.cached / ".dapr/bin/daprd", "1.18.1")
    monkeypatch.setattr("course.engines.docker_daemon.pid_of", lambda: 1 if own_docker else None)
    answer: subprocess.CompletedProcess[str] = subprocess.CompletedProcess((), 0 if there else 1)
    monkeypatch.setattr(dapr, "docker", lambda *arguments: answer)
    scripts: list[str] = []
    monkeypatch.setattr(dapr, "run_script", lambda *arguments, env: scripts.append(arguments[-1]))
    Dapr().make_image(Console(quiet=True))
    assert scripts == made

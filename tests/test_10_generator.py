"""Lesson 10's generator: the field's own tools check what it writes, and it refuses bad input."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.services import FOLDER, TYPES, generate, load_file

BIN = Path(sys.executable).parent
MANIFESTS = ("deployment.yaml", "service.yaml", "hpa.yaml", "networkpolicy.yaml")
FILES = {
    *("app.py", "agent.py", "config.py", "requirements.txt", "Dockerfile", "dapr-component.yaml"),
    *MANIFESTS,
    "tests/test_agent.py",
}


@pytest.fixture(scope="module")
def services(lesson_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all five services."""
    folder = tmp_path_factory.mktemp("services")
    done = generate(lesson_root, "--all", folder)
    assert done.returncode == 0, f"The generator fails: {done.stderr}"
    return folder


def run(folder: Path, *command: str | Path) -> None:
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    told = f"{Path(command[0]).name} fails in {folder.name}: {done.stdout}{done.stderr}"
    assert done.returncode == 0, told


def check_service(folder: Path) -> None:
    """Everything but mypy and the tests, which take longer."""
    missing = FILES - {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert not missing, f"The generator does not write {missing}."
    run(folder, BIN / "ruff", "check", "--no-cache", "--quiet", ".")
    run(folder, BIN / "ruff", "format", "--no-cache", "--check", "--quiet", ".")
    run(folder, BIN / "hadolint", "--no-color", "Dockerfile")
    run(folder, BIN / "kubernetes-validate", "--strict", "--quiet", *MANIFESTS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TYPES)
def test_a_service_passes_its_own_tests_and_the_linters(services: Path, name: str) -> None:
    check_service(services / name)
    run(services / name, BIN / "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:langsmith_plugin")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TYPES)
def test_the_types_of_a_service_are_right(lesson_root: Path, services: Path, name: str) -> None:
    # Two services have modules of the same names, which a cache for both would mix up.
    cache = lesson_root / ".mypy_cache" / name
    run(services / name, BIN / "mypy", "--no-error-summary", "--cache-dir", cache, ".")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["null", "y", "no", "a", "x1", "class", "import", "a-" * 19 + "ab"])
def test_names_that_mean_something_else_in_yaml_or_python_are_only_names(
    lesson_root: Path, tmp_path: Path, name: str
) -> None:
    model = "offline?tps=20&ttft=0.5"
    options = ["--name", name, "--type", "tracker", "--port", "5050", "--openai-model", model]
    done = generate(lesson_root, *options, "--output-dir", tmp_path / "service")
    assert done.returncode == 0, done.stderr
    check_service(tmp_path / "service")
    manifest = yaml.safe_load((tmp_path / "service" / "deployment.yaml").read_text())
    found = manifest["metadata"]["name"]
    assert found == f"{name}-agent", f"The Deployment has the name {found!r}, not {name}-agent."
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "MODEL_NAME", "value": model} in container["env"], (
        f"The Deployment does not set MODEL_NAME to {model}: {container['env']}"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "Triage", "--type", "router"], "lower-case letters"),
        (["--name", "../up", "--type", "router"], "lower-case letters"),
        (["--name", 'a"\nimport os#', "--type", "router"], "lower-case letters"),
        (["--name", "a" * 41, "--type", "router"], "at most 40"),
        (["--name", "a\n", "--type", "router"], "lower-case letters"),
        (["--name", "ok", "--type", "poet"], "'router', 'explainer', 'debugger', 'generator', 'tracker'"),
        (["--name", "ok", "--type", "router", "--port", "80"], "1024 to 65535"),
        (["--name", "ok", "--type", "router", "--port", "x"], "--port"),
        (["--name", "ok", "--type", "router", "--port", "3500"], "both 3500"),
        (["--name", "ok", "--type", "router", "--openai-model", 'x"\n'], "no name of a model"),
        (["--name", "ok"], "--type"),
        ([], "--name"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    lesson_root: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = generate(lesson_root, *arguments, "--output-dir", tmp_path / "service")
    assert done.returncode == 2, f"Bad input gives exit code {done.returncode}, not 2."
    assert says in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "service").exists(), "It refused, and wrote files all the same."


def test_nothing_is_overwritten_without_force(lesson_root: Path, tmp_path: Path) -> None:
    options: list[str | Path] = ["--name", "ok", "--type", "tracker", "--output-dir", tmp_path]
    (tmp_path / "agent.py").write_text("mine")
    refused = generate(lesson_root, *options)
    assert (refused.returncode, "--force" in refused.stderr) == (2, True), (
        "The folder has an agent.py, and the generator does not exit with 2 and name --force: "
        f"{refused.returncode}, {refused.stderr!r}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["agent.py"], "Some files were written."
    dry = generate(lesson_root, *options, "--force", "--dry-run")
    assert dry.returncode == 0 and f"would write {tmp_path}/app.py" in dry.stdout, (
        f"--dry-run fails, or does not list app.py: exit code {dry.returncode}, {dry.stdout}{dry.stderr}"
    )
    assert (tmp_path / "agent.py").read_text() == "mine", "--dry-run has written."
    forced = generate(lesson_root, *options, "--force")
    assert forced.returncode == 0, f"The generator fails with --force: {forced.stderr}"
    assert (tmp_path / "agent.py").read_text() != "mine", "--force has not overwritten agent.py."


def test_the_same_service_is_the_same_files(services: Path, lesson_root: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    done = generate(lesson_root, "--all", tmp_path)
    assert done.returncode == 0, f"The generator fails: {done.stderr}"
    assert time.monotonic() - began < 30, "Five services took longer than half a minute."
    paths = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(paths) > 60, f"The generator writes only {len(paths)} files for five services."
    for path in paths:
        same = (services / path).read_bytes() == (tmp_path / path).read_bytes()
        assert same, f"The generator ran twice, and {path} differs."


def test_the_run_file_names_each_service_with_ports_of_its_own(services: Path) -> None:
    apps = yaml.safe_load((services / "dapr.yaml").read_text())["apps"]
    ids = [app["appID"] for app in apps]
    assert ids == [f"{name}-agent" for name in TYPES], (
        f"The run file names {ids}, not the five agents in their order."
    )
    ports = [app[name] for app in apps for name in ("appPort", "daprHTTPPort")]
    assert len(set(ports)) == len(ports), f"The run file uses a port twice: {ports}"
    assert all((services / app["appDirPath"] / "app.py").exists() for app in apps), (
        "The run file names a folder without an app.py."
    )
    names = {
        yaml.safe_load(path.read_text())["metadata"]["name"] for path in (services / "components").iterdir()
    }
    assert names == {"statestore", "pubsub", "learnflow"}, (
        f"The resources in components/ are named {names}, not statestore, pubsub and learnflow."
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=60))
def test_any_name_is_either_refused_or_safe(lesson_root: Path, name: str) -> None:
    generator = load_file(lesson_root / FOLDER / "generate_agent.py")
    try:
        service = generator.Service(name, generator.AgentType.tracker)
    except generator.Refused:
        return
    assert service.name.isascii() and service.name == service.name.lower(), (
        f"The generator accepts the name {service.name!r}, which is not ASCII or has a capital letter."
    )
    assert not set(service.name) - set("abcdefghijklmnopqrstuvwxyz0123456789-"), (
        f"The generator accepts the name {service.name!r}, which has other signs than a-z, 0-9 and -."
    )

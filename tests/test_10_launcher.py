"""Lesson 10's launcher: it starts real sidecars, Kafka and PostgreSQL from dapr.yaml, and stops them all."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
import yaml
from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]
from support.launcher import FOLDER, Launcher, publish

from course.engines.dapr import Dapr
from course.paths import ROOT
from course.polling import until
from course.ports import free_port, port_owner
from course.processes import Processes

SUBSCRIBER = ROOT / "tests" / "support" / "subscriber.py"
COMPONENTS = str(ROOT / FOLDER / "components")
pytestmark = pytest.mark.timeout(600)


def write_run_file(folder: Path, *apps: dict[str, Any], **common: Any) -> Path:
    """A dapr.yaml with these apps; each has a folder of its own, and by default the test's subscriber."""
    for app in apps:
        app.setdefault("appDirPath", app.get("appID", "app"))
        app.setdefault("command", ["python", str(SUBSCRIBER)])
        (folder / app["appDirPath"]).mkdir(exist_ok=True)
    shared = {"resourcesPaths": [COMPONENTS]} | common
    path = folder / "dapr.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "common": shared, "apps": list(apps)}))
    return path


@dataclass
class System:
    """Two apps, `first` and `second`, their sidecars, and the launcher that has started them."""

    launcher: Launcher
    folder: Path
    topic: str
    http_port: int  # of the sidecar of `first`
    app_port: int
    postgres: str

    def stored(self, prefix: str) -> set[str]:
        """The keys that start with the prefix and that PostgreSQL has for the first app."""
        with psycopg.connect(self.postgres) as connection:
            rows = connection.execute("SELECT key FROM state WHERE key LIKE %s", [f"first||{prefix}%"])
            return {str(key).removeprefix("first||") for (key,) in rows}


@pytest.fixture(scope="module")
def system(
    processes: Processes, dapr: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("system")
    topic = f"topic-{uuid.uuid4().hex}"
    app_port, http_port = free_port(), free_port()
    env = {"TOPIC": topic, "SOURCE": "app"}
    run_file = write_run_file(
        folder,
        {"appID": "first", "appPort": app_port, "daprHTTPPort": http_port, "env": env},
        {
            "appID": "second",
            "appPort": free_port(),
            "env": {"TOPIC": f"{topic}-second"},
            "command": ["sh", "-c", f"sleep 3600 & exec python {SUBSCRIBER}"],
        },
        env={"SOURCE": "common", "NUMBER": 7},
    )
    launcher = Launcher(processes, run_file, "--restart", **dapr).wait_ready()
    yield System(launcher, folder, topic, http_port, app_port, dapr["POSTGRES_URL"])
    code = launcher.stop()
    assert code == 0, f"The launcher was told to stop, and its exit code is {code}, not 0."


@pytest.mark.dapr
def test_an_event_goes_through_kafka_to_the_app_whose_state_postgresql_keeps(
    system: System, dapr: dict[str, str]
) -> None:
    key = uuid.uuid4().hex
    publish(system.http_port, system.topic, {"key": key, "cargo": "bananas"})
    assert until(lambda: key in system.stored(key), 60), "PostgreSQL has no state from the event."
    events = events_in_kafka(dapr["KAFKA_BROKERS"], system.topic, key)
    assert events == [{"key": key, "cargo": "bananas"}], (
        f"A plain consumer reads {events} from Kafka, not the one event that was published."
    )


def events_in_kafka(brokers: str, topic: str, key: str) -> list[Any]:
    """The data of the events with that key that a plain consumer reads from the topic."""

    async def read() -> list[Any]:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest")
        async with consumer:
            batches = await consumer.getmany(timeout_ms=20_000)
            return [json.loads(record.value)["data"] for batch in batches.values() for record in batch]

    return [data for data in asyncio.run(read()) if data["key"] == key]


@pytest.mark.dapr
def test_an_app_gets_the_variables_that_dapr_run_gives_it(system: System) -> None:
    env = httpx2.get(f"http://127.0.0.1:{system.app_port}/environment", timeout=30).json()
    given = {name: env[name] for name in ("APP_ID", "APP_PORT", "DAPR_HTTP_PORT")}
    stated = {"APP_ID": "first", "APP_PORT": str(system.app_port), "DAPR_HTTP_PORT": str(system.http_port)}
    assert given == stated, f"The app gets the variables {given}, and the run file states {stated}."
    assert env["DAPR_GRPC_PORT"].isdigit(), f"DAPR_GRPC_PORT is {env['DAPR_GRPC_PORT']!r}, not a port."
    assert env["SOURCE"] == "app", "A variable of `common` wins over the app's own."
    assert env["NUMBER"] == "7", f"NUMBER is {env['NUMBER']!r}, not the 7 that `common` gives all apps."


@pytest.mark.dapr
def test_a_sidecar_finds_another_app_by_its_name(system: System) -> None:
    url = f"http://127.0.0.1:{system.http_port}/v1.0/invoke/second/method/environment"
    answer = httpx2.get(url, timeout=60)
    assert answer.is_success, answer.text
    called = answer.json()["APP_ID"]
    assert called == "second", f"The sidecar was asked for the app second, and called {called!r}."


@pytest.mark.dapr
def test_a_sidecar_starts_when_the_one_before_it_has_its_components(system: System) -> None:
    logs = {name: system.folder / f"{name}/.dapr/logs/{name}_daprd.log" for name in ("first", "second")}
    lines = {name: log.read_text().splitlines() for name, log in logs.items()}
    loaded = next(line for line in lines["first"] if "Component loaded: statestore" in line)
    assert loaded < lines["second"][0], (  # a line begins with its time
        "Two sidecars may make Dapr's tables in a new database at the same time, and one of them fails."
    )


@pytest.mark.dapr
def test_the_sidecar_has_the_version_that_make_engine_reports(system: System) -> None:
    metadata = httpx2.get(f"http://127.0.0.1:{system.http_port}/v1.0/metadata", timeout=30).json()
    running, reported = metadata["runtimeVersion"], Dapr().version()
    assert running == reported, f"The sidecar has version {running}, and `make engine` reports {reported}."
    names = {each["name"] for each in metadata["components"]}
    assert names >= {"pubsub", "statestore"}, f"The sidecar lacks pubsub or statestore: it has {names}."


@pytest.mark.dapr
def test_sidecars_and_apps_listen_on_this_machine_only(system: System) -> None:
    for name in ("first", "first-dapr", "second", "second-dapr"):
        for connection in psutil.Process(system.launcher.pid_of(name)).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1", f"{name} listens on {connection.laddr}"


@pytest.mark.dapr
def test_each_line_of_an_app_has_its_name(system: System) -> None:
    system.launcher.wait_for(r"^first \| the app starts$")
    system.launcher.wait_for(r"^second \| the app starts$")


@pytest.mark.dapr
@pytest.mark.parametrize("victim", ["first", "first-dapr"])
def test_events_under_way_survive_kill_9_of_app_and_sidecar(system: System, victim: str) -> None:
    prefix = uuid.uuid4().hex
    published: set[str] = set()

    def publish_all() -> None:
        for number in range(60):
            key = f"{prefix}-{number}"
            # A publisher whose sidecar dies gets no answer, and publishes again.
            until(partial(published_once, key), 120)

    def published_once(key: str) -> bool:
        try:
            publish(system.http_port, system.topic, {"key": key})
        except httpx2.HTTPError:
            return False
        published.add(key)
        return True

    publishing = threading.Thread(target=publish_all)
    publishing.start()
    assert until(lambda: system.stored(prefix), 60), "No event arrives before the kill."
    system.launcher.kill(victim)
    publishing.join()
    assert len(published) == 60, f"Only {len(published)} of 60 events could be published."
    lost = until(lambda: system.stored(prefix) >= published, 120) or published - system.stored(prefix)
    assert lost is True, f"{len(lost)} events are lost when {victim} is killed."


@pytest.mark.dapr
def test_a_killed_process_leaves_nothing_of_its_group(system: System) -> None:
    children = psutil.Process(system.launcher.pid_of("second")).children()
    names = [child.name() for child in children]
    assert names == ["sleep"], f"Before the kill the app has the child processes {names}, not one sleep."
    system.launcher.kill("second")
    assert until(lambda: not runs(children[0])), "A child of the killed app still runs."


@pytest.mark.dapr
def test_without_restart_a_dead_app_is_reported_and_the_rest_runs_on(
    processes: Processes, dapr: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    app = {"appID": "mortal", "appPort": free_port(), "daprHTTPPort": port, "env": {"TOPIC": "none"}}
    launcher = Launcher(processes, write_run_file(tmp_path, app), **dapr).wait_ready()
    os.kill(launcher.pid_of("mortal"), signal.SIGKILL)
    launcher.wait_for(r"^✗ mortal was killed by SIGKILL\.$")
    health = httpx2.get(f"http://127.0.0.1:{port}/v1.0/healthz/outbound", timeout=30)
    assert health.is_success, (
        f"The app was killed, and its sidecar's health check gives {health.status_code}."
    )
    code = launcher.stop(signal.SIGTERM)
    assert code == 0, f"The launcher was told to stop, and its exit code is {code}, not 0."


@pytest.mark.dapr
def test_an_app_that_ends_at_its_start_stops_the_launcher_with_its_last_lines(
    processes: Processes, dapr: dict[str, str], tmp_path: Path
) -> None:
    command = ["python", "-c", "print('no such table'); raise SystemExit(3)"]
    run_file = write_run_file(tmp_path, {"appID": "ill", "appPort": free_port(), "command": command})
    launcher = Launcher(processes, run_file, **dapr)
    code = launcher.ended()
    assert code == 1, f"An app ended at its start, and the launcher's exit code is {code}, not 1."
    launcher.wait_for(r"^✗ ill ended with exit code 3 before it was healthy\.$")
    shown, last = launcher.lines[-2:]
    assert shown == "ill | no such table", f"The launcher shows {shown!r}, not the app's last line."
    output = Path(last.removeprefix("All of its output is in ")).read_text()
    assert output == "no such table\n", f"The app's log has {output!r}, not what the app printed."


@pytest.mark.dapr
def test_ctrl_c_stops_sidecars_then_apps_then_stores_and_leaves_nothing(
    processes: Processes, dapr: dict[str, str], tmp_path: Path
) -> None:
    run_file = write_run_file(tmp_path, {"appID": "app", "appPort": free_port(), "env": {"TOPIC": "orders"}})
    launcher = Launcher(processes, run_file).wait_ready()  # starts all services itself
    started = psutil.Process(launcher.process.pid).children(recursive=True)
    ports = {port for each in started for port in listening(each)}
    folder = run_folder(launcher)
    names = {each.name() for each in started}
    assert {"java", "postgres", "placement", "scheduler", "daprd"} <= names, (
        f"The launcher does not run all that the app needs: it runs {names}."
    )
    code = launcher.stop()
    assert code == 0, f"The launcher was told to stop, and its exit code is {code}, not 0."
    assert_gone(started, folder)
    assert not [port for port in ports if port_owner(port)], "A port is still taken."
    stopped = [line.split()[0] for line in launcher.lines if line.endswith(" has stopped")]
    assert stopped[:2] == ["app-dapr", "app"], "The app is stopped while its sidecar still delivers events."
    # Placement sometimes ends by itself when the last sidecar leaves it.
    assert set(stopped[2:-2]) <= {"placement", "scheduler"}, (
        f"Between the app and the last two, {stopped[2:-2]} stop, not only placement and scheduler."
    )
    assert set(stopped[-2:]) == {"kafka", "postgresql"}, (
        f"The launcher stops {stopped[-2:]} last, not kafka and postgresql."
    )


@pytest.mark.dapr
def test_kill_9_of_the_launcher_leaves_nothing(
    processes: Processes, dapr: dict[str, str], tmp_path: Path
) -> None:
    run_file = write_run_file(tmp_path, {"appID": "app", "appPort": free_port(), "env": {"TOPIC": "orders"}})
    launcher = Launcher(processes, run_file, **dapr).wait_ready()
    started = psutil.Process(launcher.process.pid).children(recursive=True)
    folder = run_folder(launcher)
    launcher.process.kill()
    launcher.ended()
    assert_gone(started, folder)


@pytest.mark.dapr
def test_without_its_reaper_the_launcher_ends_and_leaves_no_process(
    processes: Processes, dapr: dict[str, str], tmp_path: Path
) -> None:
    run_file = write_run_file(tmp_path, {"appID": "app", "appPort": free_port(), "env": {"TOPIC": "orders"}})
    launcher = Launcher(processes, run_file, "--restart", **dapr).wait_ready()
    started = psutil.Process(launcher.process.pid).children(recursive=True)
    next(each for each in started if each.name() == "sh").kill()
    os.kill(launcher.pid_of("app"), signal.SIGKILL)  # the launcher would tell the reaper
    code = launcher.ended()
    assert code == 1, f"The launcher lost its reaper, and its exit code is {code}, not 1."
    launcher.wait_for(r"^✗ The shell that would remove \S+ has ended\.$")
    assert until(lambda: not any(map(runs, started)), 60), "The launcher has left processes behind."
    shutil.rmtree(launcher.wait_for(r"remove (\S+) has")[1])


def run_folder(launcher: Launcher) -> Path:
    """The temporary folder of the launcher's run, which its sidecars' options name."""
    sidecar = psutil.Process(launcher.pid_of("app-dapr")).cmdline()
    config = next(each for each in sidecar if each.startswith("--config="))
    return Path(config.removeprefix("--config=")).parent


def listening(process: psutil.Process) -> list[int]:
    connections = process.net_connections("tcp")
    return [each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN]


def runs(process: psutil.Process) -> bool:
    """Whether a process runs. A zombie has ended, and only its parent has not asked for its exit code yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(started: list[psutil.Process], folder: Path) -> None:
    ended = until(lambda: not any(map(runs, started)), 60)
    assert ended, f"Still running: {list(filter(runs, started))}"
    assert until(lambda: not folder.exists(), 30), "The folder of the run is left behind."


# --- Errors, for which no engine is needed ---


def refused(processes: Processes, *arguments: str | Path, **env: str) -> str:
    """The only line of a launcher that refuses to start."""
    launcher = Launcher(processes, *arguments, **env)
    code = launcher.ended()
    assert code == 1, f"The launcher should refuse to start with exit code 1, and ends with {code}."
    assert len(launcher.lines) == 1, "\n".join(launcher.lines)
    return launcher.lines[0]


@pytest.mark.parametrize("property_name", ["appPort", "daprHTTPPort"])
def test_a_busy_port_is_one_line_with_its_owner(
    processes: Processes, tmp_path: Path, property_name: str, taken_port: int
) -> None:
    run_file = write_run_file(tmp_path, {"appID": "app", property_name: taken_port})
    line = refused(processes, run_file)
    assert line == (
        f"✗ Port {taken_port} ({property_name} of app) is taken by {psutil.Process().name()} "
        f"(pid {os.getpid()}). Stop it, or change the port."
    ), f"The launcher does not name the busy port, its property, its owner and the way out: {line}"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1", "apps: Field required"),
        ("version: 1\napps: []", "apps: List should have at least 1 item after validation, not 0"),
        ("version: 2\napps: [{appDirPath: .}]", "version: Input should be 1"),
        ("version: 1\napps: [{appID: a}]", "apps.0.appDirPath: Field required"),
        ("version: 1\napps: [{appDirPath: nowhere}]", r"nowhere: .*/nowhere does not exist"),
        (
            "version: 1\napps: [{appDirPath: ., appPort: a}]",
            "apps.0.appPort: Input should be a valid integer",
        ),
        ("version: 1\napps: [{appDirPath: ., appPort: 70000}]", "apps.0.appPort: Input should be less than"),
        (
            "version: 1\napps: [{appDirPath: ., apPort: 5000}]",
            "apps.0.apPort: Extra inputs are not",
        ),
        (
            "version: 1\napps: [{appDirPath: ., appID: a}, {appDirPath: ., appID: a}]",
            "two apps have the appID",
        ),
        (
            "version: 1\napps: [{appDirPath: ., appID: a, appPort: 5000, command: [a]}, "
            "{appDirPath: ., appID: b, daprHTTPPort: 5000}]",
            "Port 5000 is stated twice: appPort of a, daprHTTPPort of b",
        ),
        ("version: 1\ncommon: {resourcesPath: none}\napps: [{appDirPath: .}]", r"/none does not exist"),
        ("version: [1", "is no YAML"),
        ("- 1", "Input should be a valid dictionary"),
        ("", "Input should be a valid dictionary"),
    ],
)
def test_a_bad_run_file_is_one_line(processes: Processes, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dapr.yaml").write_text(text)
    line = refused(processes, tmp_path / "dapr.yaml")
    assert re.search(message, line), f"The launcher says of the run file {line!r}, not {message!r}."


def test_a_missing_run_file_is_one_line(processes: Processes, tmp_path: Path) -> None:
    line = refused(processes, tmp_path / "dapr.yaml")
    assert "dapr.yaml cannot be read: No such file" in line, (
        f"The launcher does not say that dapr.yaml cannot be read, and why: {line}"
    )


def test_a_missing_daprd_is_one_line_with_the_way_to_get_it(processes: Processes, tmp_path: Path) -> None:
    run_file = write_run_file(tmp_path, {"appID": "app", "command": [sys.executable, "-c", "pass"]})
    services = ("KAFKA_BROKERS", "POSTGRES_URL", "DAPR_PLACEMENT_HOST_ADDRESS", "DAPR_SCHEDULER_HOST_ADDRESS")
    env = dict.fromkeys(services, "127.0.0.1:9") | {"DAPR_RUNTIME_PATH": str(tmp_path)}
    line = refused(processes, run_file, **env)
    assert line.endswith("/.dapr/bin/daprd is missing: run `dapr init --slim`, or `make engine dapr`."), (
        f"The launcher does not say which program is missing, and how to get it: {line}"
    )

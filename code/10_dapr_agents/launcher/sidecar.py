"""An app and its sidecar: the processes and the options of both, from the app's properties."""

import json
import os
import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import yaml

from launcher.infrastructure import PLACEMENT, SCHEDULER, dapr_program
from launcher.ports import answers, free_port, listens, require_free
from launcher.processes import Failure, Service
from launcher.run_file import App

STAGE_OF_APPS, STAGE_OF_SIDECARS = 3, 4  # a sidecar stops first, and its app gets no more events
PORTS = ("daprHTTPPort", "daprGRPCPort", "daprInternalGRPCPort", "metricsPort")
# These properties are no options of daprd, or are handed over in another way.
OTHER = {"appDirPath", "command", "env", "resourcesPath", "resourcesPaths", "configFilePath"}
OTHER |= {"appLogDestination", "daprdLogDestination"}
LOCAL = ("dapr-listen-addresses", "dapr-internal-grpc-listen-address", "metrics-listen-address")


def require_stated_ports(apps: list[App]) -> None:
    """Raise `Failure` when a port of the run file is stated twice, or taken."""
    stated: dict[int, str] = {}
    for app in apps:
        # An app without a command runs already, and has its port.
        for name in (*(["appPort"] if app.command else []), *PORTS):
            if port := getattr(app, name):
                purpose = f"{name} of {app.appID}"
                if port in stated:
                    raise Failure(f"Port {port} is stated twice: {stated[port]}, {purpose}.")
                stated[port] = purpose
    for port, purpose in stated.items():
        require_free(port, purpose)


def services_of(app: App, addresses: Mapping[str, str], folder: Path) -> list[Service]:
    """The processes of an app: itself, unless it has no command, and its sidecar."""
    for name in PORTS:
        setattr(app, name, getattr(app, name) or free_port())
    app.placementHostAddress = app.placementHostAddress or addresses[PLACEMENT]
    app.schedulerHostAddress = app.schedulerHostAddress or addresses[SCHEDULER]
    return [*([app_process(app)] if app.command else []), sidecar(app, addresses, folder)]


def start_one_by_one(services: list[Service], apps: list[App]) -> None:
    """Let each sidecar wait for the components of the one before it.

    The first sidecar makes Dapr's tables. When two make them at the same time, one of the two fails and ends.
    """
    sidecars = [each for each in services if each.stage == STAGE_OF_SIDECARS]
    for before, each in zip(apps, sidecars[1:], strict=False):
        each.after = partial(answers, f"http://127.0.0.1:{before.daprHTTPPort}/v1.0/healthz/outbound")


def app_process(app: App) -> Service:
    env = {
        "APP_ID": app.appID,
        "APP_PORT": str(app.appPort or ""),
        "APP_PROTOCOL": app.appProtocol or "http",
        "DAPR_HTTP_PORT": str(app.daprHTTPPort),
        "DAPR_GRPC_PORT": str(app.daprGRPCPort),
        # A command such as ["python", "app.py"] gets the Python that runs this launcher.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    destination = app.appLogDestination or "fileAndConsole"
    return Service(
        app.appID,
        app.command,
        partial(is_up, app),
        STAGE_OF_APPS,
        env=env | app.env,
        folder=app.appDirPath,
        log=log_file(app, "app", destination),
        shown=destination != "file",
    )


def sidecar(app: App, addresses: Mapping[str, str], folder: Path) -> Service:
    command = [dapr_program("daprd"), *(f"--{name}=127.0.0.1" for name in LOCAL)]
    for name, value in app.model_dump(exclude=OTHER, exclude_none=True).items():
        command.append(f"{option(name)}={json.dumps(value) if isinstance(value, bool) else value}")
    command += [f"--resources-path={path}" for path in app.resourcesPaths]
    command.append(f"--config={configuration(app, folder)}")
    destination = app.daprdLogDestination or "file"
    return Service(
        f"{app.appID}-dapr",
        command,
        partial(answers, f"http://127.0.0.1:{app.daprHTTPPort}/v1.0/healthz"),
        STAGE_OF_SIDECARS,
        env={**addresses, "DAPR_HOST_IP": "127.0.0.1"},
        folder=app.appDirPath,
        log=log_file(app, "daprd", destination),
        shown=destination != "file",
    )


def option(name: str) -> str:
    """The option of daprd for a property: --dapr-http-port for daprHTTPPort."""
    return "--" + re.sub("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def configuration(app: App, folder: Path) -> Path:
    """The app's Dapr configuration, with a database of this run to find the other apps by their names.

    Dapr's default is mDNS, which containers and some networks lack, and which finds the apps of other runs.
    """
    config = yaml.safe_load(app.configFilePath.read_text("utf-8")) if app.configFilePath else {}
    kind = {"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "metadata": {"name": "local"}}
    names = {"connectionString": str(folder / "names.db")}
    # By default a sidecar renews its name every 4 seconds, and when it fails to, nobody finds its app. Here
    # an address stays the same for the whole run.
    names |= {"updateInterval": "24h", "timeout": "10s", "busyTimeout": "5s"}
    names |= {"cleanupInterval": "0s"}  # Dapr 1.18 would remove the names in use, and end after an hour
    resolver = {"component": "sqlite", "version": "v1", "configuration": names}
    config["spec"] = (config.get("spec") or {}) | {"nameResolution": resolver}
    path = folder / f"{app.appID}.yaml"
    path.write_text(yaml.safe_dump(kind | config), "utf-8")
    return path


def log_file(app: App, process: str, destination: str) -> Path | None:
    """Where `dapr run` writes logs too: .dapr/logs in the app's folder."""
    if destination == "console":
        return None
    path = app.appDirPath / ".dapr" / "logs" / f"{app.appID}_{process}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


async def is_up(app: App) -> bool:
    """Whether an app answers on its health path, or accepts connections; one without a port is up at once."""
    if app.appPort is None:
        return True
    if app.enableAppHealthCheck and app.appHealthCheckPath:
        return await answers(f"http://127.0.0.1:{app.appPort}{app.appHealthCheckPath}")
    return await listens(app.appPort)

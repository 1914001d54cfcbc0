"""Read `dapr.yaml`, Dapr's multi-app run file, by the rules of `dapr run -f`.

Paths in `common` are relative to the file, those of an app to its `appDirPath`. What an app does not set
comes from `common`. All properties: docs.dapr.io, "How to: Use the Multi-App Run template file".
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from launcher.processes import Failure

Destination = Literal["console", "file", "fileAndConsole"]
Port = Field(default=None, ge=1, le=65_535)


class Shared(BaseModel):
    """The properties that `common` and each app may have."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    env: dict[str, str] = {}
    resourcesPath: Path | None = None
    resourcesPaths: list[Path] = []
    configFilePath: Path | None = None
    appLogDestination: Destination | None = None
    daprdLogDestination: Destination | None = None
    appProtocol: Literal["http", "grpc", "https", "grpcs", "h2c"] | None = None
    appMaxConcurrency: int | None = None
    enableAppHealthCheck: bool | None = None
    appHealthCheckPath: str | None = None
    appHealthProbeInterval: int | None = None
    appHealthProbeTimeout: int | None = None
    appHealthThreshold: int | None = None
    enableApiLogging: bool | None = None
    logLevel: str | None = None
    maxBodySize: str | None = None
    readBufferSize: str | None = None
    placementHostAddress: str | None = None
    schedulerHostAddress: str | None = None


class App(Shared):
    """An app: its own properties, and after `read_run_file` those of `common`."""

    appDirPath: Path
    appID: str = ""  # by default the folder's name
    appPort: int | None = Port
    daprHTTPPort: int | None = Port
    daprGRPCPort: int | None = Port
    daprInternalGRPCPort: int | None = Port
    metricsPort: int | None = Port
    command: list[str] = []


class RunFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    name: str = ""
    common: Shared = Shared()
    apps: list[App] = Field(min_length=1)


def read_run_file(path: Path) -> list[App]:
    """The apps of the file. Raises `Failure` with one line when something in it is wrong."""
    try:
        found = RunFile.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise Failure(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise Failure(f"{path}: {where}: {first['msg']}") from error
    resolve(found.common, path.parent.resolve())
    apps = [merge(app, found.common, path.parent.resolve()) for app in found.apps]
    for app in apps:
        for folder in (app.appDirPath, *app.resourcesPaths, *filter(None, [app.configFilePath])):
            if not folder.exists():
                raise Failure(f"{path}: {app.appID}: {folder} does not exist")
    ids = [app.appID for app in apps]
    if twice := {each for each in ids if ids.count(each) > 1}:
        raise Failure(f"{path}: two apps have the appID {twice.pop()}")
    return apps


def merge(app: App, common: Shared, folder: Path) -> App:
    app.appDirPath = folder / app.appDirPath
    resolve(app, app.appDirPath)
    app.appID = app.appID or app.appDirPath.resolve().name
    missing = {name: value for name, value in common if not getattr(app, name)}
    return app.model_copy(update=missing | {"env": common.env | app.env})


def resolve(settings: Shared, folder: Path) -> None:
    """Make paths absolute, and put `resourcesPath`, which is deprecated, into `resourcesPaths`."""
    paths = [*settings.resourcesPaths, *filter(None, [settings.resourcesPath])]
    settings.resourcesPaths = [folder / path for path in paths]
    if settings.configFilePath:
        settings.configFilePath = folder / settings.configFilePath

"""Dagger: the engine that the SDK fetches by Docker; beside the course's own Docker, one that is built here.

The version of the SDK decides which engine is used. It stands in pyproject.toml, in the group `dagger`.
"""

import fcntl
import shutil
import socket
import time
import tomllib
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from course.engines import debian, engine
from course.engines import docker_daemon as daemon
from course.engines.built import remove
from course.engines.docker import Docker, docker, works
from course.engines.engine import Engine
from course.errors import CourseError
from course.paths import ROOT


def pinned_version() -> str:
    """The version of the Dagger SDK that pyproject.toml pins."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    return str(groups["dagger"][0]).removeprefix("dagger-io==")


VERSION = pinned_version()
TOOLS = ROOT / "tools" / "dagger"
CACHE = engine.CACHE / "dagger"
BINARIES = CACHE / f"v{VERSION}"
STATE = CACHE / "state"  # the engine's own cache, which survives its restart
RUN = daemon.RUN / "dagger"
SOCKET = RUN / "engine.sock"
CLIENT = RUN / "dagger"  # a link to the program of the user who has started the engine
CONTAINER = "dagger-engine"
IMAGE = f"registry.dagger.io/engine:v{VERSION}"  # the name of the original, for which this one stands in
SIZE = "4 GB of disk (3 GB of them Go's caches) and seven minutes"
QUIET = {"DO_NOT_TRACK": "1", "DAGGER_NO_NAG": "1", "DAGGER_NO_UPDATE_CHECK": "1"}


class Dagger(Engine):
    """Dagger's engine, in the version that the SDK needs."""

    name = "dagger"
    purpose = "tools and pipelines that run in containers"
    install_hint = "with Docker, the SDK fetches it; beside the course's own Docker `make engine dagger`"

    def program(self) -> str | None:
        if fetched_by_sdk():
            return Docker().program()
        return next((str(path) for path in (CLIENT, BINARIES / "dagger") if path.exists()), None)

    def version(self) -> str | None:
        if answers():
            return f"{VERSION} (built by the course)"
        return f"{VERSION} (fetched by the SDK)" if fetched_by_sdk() and works() else None

    def setup_cost(self) -> str:
        if self.version():
            return ""
        return "a few seconds, because its programs are cached" if BINARIES.exists() else SIZE

    def set_up(self, console: Console) -> None:
        if not works():
            if not debian.can_install():
                raise CourseError(
                    f"{self.missing_message} Docker Desktop and Docker Engine are at "
                    "docs.docker.com/get-docker; the course can build an engine only on Debian, and as root."
                )
            Docker().set_up(console)
        if fetched_by_sdk():
            console.print(f"✓ dagger {self.version()} when a lesson connects for the first time")
            return
        began = time.monotonic()
        self.start(console)
        console.print(f"✓ dagger {self.version()}: started ({time.monotonic() - began:.0f} s)")
        console.print("In your own terminal, besides the lines for Docker:")
        for name, value in self.environment().items():
            console.print(f'  export {name}="{value}"', soft_wrap=True, markup=False)

    def start(self, console: Console) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if answers():
                return
            if not BINARIES.exists():
                build(console)
            make_image(console)
            run(console, STATE)
            CLIENT.unlink(missing_ok=True)
            CLIENT.symlink_to(BINARIES / "dagger")

    def stop(self, console: Console) -> None:
        if daemon.pid_of() is None or docker("container", "inspect", CONTAINER).returncode:
            console.print("The course's own Dagger is not running.")
            return
        docker("stop", "--time", "60", CONTAINER, seconds=90)  # killed in a write, it may lose its cache
        docker("rm", "--force", CONTAINER)
        shutil.rmtree(RUN, ignore_errors=True)
        console.print("✓ dagger: stopped")

    def clean(self, console: Console) -> None:
        self.stop(console)
        with console.status("removing Dagger's programs and cache ..."):
            remove(CACHE)

    def environment(self) -> dict[str, str]:
        if not answers():
            return {}
        return QUIET | {
            "_EXPERIMENTAL_DAGGER_RUNNER_HOST": f"unix://{SOCKET}",
            "_EXPERIMENTAL_DAGGER_CLI_BIN": str(CLIENT),
        }


def fetched_by_sdk() -> bool:
    """Whether this machine has a Docker of its own, with which the SDK starts the engine."""
    return daemon.pid_of() is None


def answers() -> bool:
    """Whether the engine that the course started accepts connections."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(2)
        asking.connect(str(SOCKET))
        return True
    return False


def build(console: Console) -> None:
    """Build the engine and the command-line program from the Go module that go.mod pins."""
    if shutil.which("go") is None:
        raise CourseError("Go 1.26 or newer is needed to build Dagger's engine: go.dev/dl")
    daemon.run_script(console, "building Dagger's engine (about six minutes)", TOOLS / "build.sh", BINARIES)


def make_image(console: Console) -> None:
    """Build the engine's image and push it to the registry, in seconds, because Docker caches the steps."""
    context = ["--build-context", f"binaries={BINARIES}", str(TOOLS)]
    pushed = IMAGE.replace("registry.dagger.io", daemon.MIRROR)
    with console.status("making the image of Dagger's engine ..."):
        for command in (
            ["build", "--quiet", "--tag", IMAGE, "--tag", pushed, *context],
            ["push", "--quiet", pushed],
        ):
            if (done := docker(*command, seconds=600)).returncode:
                raise CourseError(f"The image of Dagger's engine could not be made:\n{done.stderr[-2000:]}")


def run(console: Console, state: Path) -> None:
    """Start the engine. When it refuses its cache, which a power cut can spoil, it gets an empty one."""
    had_cache = state.exists()
    daemon.run_script(console, "starting Dagger's engine", TOOLS / "run.sh", CONTAINER, IMAGE, state, RUN)
    try:
        wait_until_it_answers()
    except CourseError:
        if not had_cache:
            raise
        console.print("! Dagger's engine did not start with its cache. The course removes the cache.")
        docker("rm", "--force", CONTAINER)
        remove(state)
        run(console, state)


def wait_until_it_answers() -> None:
    deadline = time.monotonic() + 60
    while not answers():
        running = docker("inspect", "--format", "{{.State.Running}}", CONTAINER).stdout.strip() == "true"
        if not running or time.monotonic() > deadline:
            logs = docker("logs", "--tail", "30", CONTAINER)
            raise CourseError(f"Dagger's engine did not start:\n{(logs.stdout + logs.stderr)[-2000:]}")
        time.sleep(0.1)

"""Docker: the daemon of this machine; on Debian without one, and as root, a daemon that the course starts."""

import os
import shutil
import subprocess
import time

from rich.console import Console

from course.engines import debian
from course.engines import docker_daemon as daemon
from course.engines.built import remove
from course.engines.engine import Engine
from course.errors import CourseError

BASE = "python:3.13-slim"
# Measured by bench/engine_cold.py.
SIZE = "0.9 GB of disk (with the images of lessons 05 and 06 2.7 GB) and two minutes"


def docker(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a docker command with the course's engine; the caller has to check the exit code."""
    env = os.environ | daemon.environment()
    program = shutil.which("docker", path=env["PATH"])
    if program is None:
        return subprocess.CompletedProcess(arguments, 127, "", "docker is not installed")
    try:
        return subprocess.run(
            [program, *arguments], env=env, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 124, "", f"no answer within {seconds:.0f} s")


def works() -> bool:
    """Whether a Docker daemon answers."""
    return docker("version", "--format", "{{.Server.Version}}").returncode == 0


def has_images() -> bool:
    """Whether Docker has the base image, or can pull it."""
    here = docker("image", "inspect", BASE).returncode == 0
    return here or docker("manifest", "inspect", BASE).returncode == 0


class Docker(Engine):
    """A Docker daemon that has the course's base images, or can pull them."""

    name = "docker"
    purpose = "images and containers"
    install_hint = "docs.docker.com/get-docker, or on Debian `make engine docker`"

    def program(self) -> str | None:
        return shutil.which("docker", path=(os.environ | self.environment())["PATH"])

    def version(self) -> str | None:
        answer = docker("version", "--format", "{{.Server.Version}}", seconds=30)
        return answer.stdout.strip() if answer.returncode == 0 else None

    def setup_cost(self) -> str:
        if self.version():
            return ""
        if daemon.PACKAGES_FOLDER.exists():
            return "a few seconds, because its programs and images are cached"
        return SIZE

    def set_up(self, console: Console) -> None:
        if daemon.pid_of() is None and works():
            if not has_images():  # a learner's own Docker gets no stand-in images under these names
                raise CourseError(
                    f"This machine's Docker works, but cannot pull {BASE}. Try: docker pull {BASE}"
                )
            console.print(f"✓ docker {self.version()}: this machine's own works")
            return
        if not debian.can_install():
            raise CourseError(
                "This machine cannot reach a Docker daemon. Get Docker Desktop or Docker Engine at "
                "docs.docker.com/get-docker; `make engine` can bring one only on Debian, and as root."
            )
        began = time.monotonic()
        self.start(console)
        seconds = time.monotonic() - began
        console.print(f"✓ docker {self.version()}: started the course's own daemon ({seconds:.0f} s)")
        console.print("In your own terminal:")
        for line in exports():
            console.print(f"  {line}", soft_wrap=True, markup=False)

    def start(self, console: Console) -> None:
        with daemon.setup_lock():
            filled = daemon.DATA.exists()
            daemon.start(console, works)
            try:
                daemon.make_images(console)
            except CourseError as failure:
                if not filled:
                    raise
                # A power cut can damage the store of images. All of them can be made again.
                console.print(f"{failure}\nTrying again with an empty store of images:", markup=False)
                daemon.stop_all()
                for store in (daemon.DATA, daemon.REGISTRY):
                    remove(store)
                daemon.start(console, works)
                daemon.make_images(console)

    def stop(self, console: Console) -> None:
        if not daemon.PROGRAMS.exists():
            console.print("The course's own Docker is not running.")
            return
        daemon.start(
            console, works
        )  # a daemon that was killed left containers running, which only a new one can stop
        for container in docker("ps", "--quiet").stdout.split():
            docker("stop", "--time", "10", container)
        with console.status("stopping the daemon ..."):
            daemon.stop_all()
        daemon.remove_network()
        shutil.rmtree(daemon.RUN)
        console.print("✓ docker: stopped")

    def clean(self, console: Console) -> None:
        self.stop(console)
        with console.status("removing Docker's programs and images ..."):
            remove(daemon.CACHE)

    def environment(self) -> dict[str, str]:
        return daemon.environment()


def exports() -> list[str]:
    """Shell commands with which `docker` in a learner's terminal finds the course's daemon."""
    settings = daemon.settings("$PATH")
    return [f'export {name}="{value}"' for name, value in settings.items()]

"""A Docker for machines that have none: on Debian, as root, beside the system; elsewhere what to install.

Programs and data live in the cache folder, so the second start takes seconds; /run records what runs.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from course.pages import ROOT
from course.processes import Failed

TOOLS = ROOT / "tools" / "docker"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agents-in-containers" / "docker"
PROGRAMS = CACHE / "26.1"  # a folder a version
RUN = Path("/run/agents-in-containers")  # emptied by a reboot, as the record of what runs must be
SOCKET, PID, LOG = RUN / "docker.sock", RUN / "docker.pid", CACHE / "dockerd.log"
NETWORK = RUN / "ip_forward"
BASE = "python:3.13-slim"


def environment() -> dict[str, str]:
    """The variables by which a process finds the engine that `up` started; none when it does not run."""
    if daemon() is None:
        return {}
    return {
        "DOCKER_HOST": f"unix://{SOCKET}",
        "DOCKER_CONFIG": str(PROGRAMS / "config"),
        "PATH": f"{PROGRAMS}/usr/bin{os.pathsep}{os.environ['PATH']}",
    }


def daemon() -> int | None:
    """The process id of the daemon that `up` started, while it runs."""
    try:
        pid = int(PID.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if f"unix://{SOCKET}".encode() in command else None


def docker(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run docker with the engine that the course uses; it is for the caller to look at the exit code."""
    env = os.environ | environment()
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
    """Whether the base image is there, or can be pulled."""
    here = docker("image", "inspect", BASE).returncode == 0
    return here or docker("manifest", "inspect", BASE).returncode == 0


def up(console: Console) -> None:
    """See to a working Docker that has the course's base images; where there is one, change nothing."""
    if daemon() is None and works() and has_images():
        console.print("✓ docker: this machine's own works")
        return
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("apt-get"):
        lacking = f"pull {BASE}" if works() else "reach a Docker daemon"
        raise Failed(
            f"This machine cannot {lacking}. Get Docker Desktop or Docker Engine at "
            "docs.docker.com/get-docker; `make engine` can bring one only on Debian, and as root."
        )
    began = time.monotonic()
    with one_at_a_time():
        if not PROGRAMS.exists():
            step(console, "unpacking Docker's packages", TOOLS / "programs.sh", PROGRAMS)
            plugins = PROGRAMS / "config" / "cli-plugins"
            plugins.mkdir(parents=True)
            for plugin in (PROGRAMS / "usr/libexec/docker/cli-plugins").iterdir():
                (plugins / plugin.name).symlink_to(plugin)
        if daemon() is None and not works():
            with console.status("starting the daemon ..."):
                start()
        step(console, "making the stand-in base images", TOOLS / "images.sh", PROGRAMS)
    console.print(f"✓ docker: a daemon of the course's own runs ({time.monotonic() - began:.0f} s)")
    if daemon():
        shown = {name: value.replace(os.environ["PATH"], "$PATH") for name, value in environment().items()}
        console.print("In your own terminal:")
        for name, value in shown.items():
            console.print(f'  export {name}="{value}"', soft_wrap=True)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Others who want the engine at this moment wait for it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def step(console: Console, name: str, script: Path, *arguments: Path) -> None:
    with console.status(f"{name} ..."):
        done = subprocess.run(
            [script, *arguments],
            env=os.environ | environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise Failed(f"{name} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def start() -> None:
    """Start dockerd, which starts containerd, and wait until it answers."""
    RUN.mkdir(parents=True, exist_ok=True)
    PID.unlink(missing_ok=True)
    NETWORK.write_text(Path("/proc/sys/net/ipv4/ip_forward").read_text())
    libraries = next((PROGRAMS / "usr/lib").glob("*-linux-gnu"))
    env = os.environ | {
        "PATH": f"{PROGRAMS}/usr/bin:{PROGRAMS}/usr/sbin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(libraries),
        "XTABLES_LIBDIR": str(libraries / "xtables"),
    }
    command = ["dockerd", "-H", f"unix://{SOCKET}", "-p", str(PID), "-G", "root"]
    folders = ["--data-root", str(CACHE / "data"), "--exec-root", str(RUN / "exec")]
    with LOG.open("w") as log:
        process = subprocess.Popen(
            [PROGRAMS / "usr/sbin" / command[0], *command[1:], *folders],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 60
    while daemon() is None or not works():
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            raise Failed(f"The Docker daemon did not start:\n{LOG.read_text()[-2000:]}")
        time.sleep(0.1)


def down(console: Console) -> None:
    """Stop the daemon that `up` started, its containers with it, and take its rules out of the network."""
    pid = daemon()
    if pid is None:
        console.print("No Docker of the course's own is running.")
        return
    for container in docker("ps", "--quiet").stdout.split():
        docker("stop", "--time", "10", container)
    with console.status("stopping the daemon ..."):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while daemon() is not None:
            if time.monotonic() > deadline:
                raise Failed(f"The Docker daemon (pid {pid}) does not stop; its log is {LOG}.")
            time.sleep(0.1)
    forget_network()
    shutil.rmtree(RUN)
    console.print(f"✓ docker: stopped. Programs and images stay in {CACHE} for the next start.")


def forget_network() -> None:
    """Docker leaves its bridge and its rules behind when it stops; the machine gets back what it had."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text(NETWORK.read_text())
    subprocess.run([TOOLS / "forget-network.sh", PROGRAMS], check=True)

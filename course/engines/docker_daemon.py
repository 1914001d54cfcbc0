"""The course's own Docker daemon, for Debian without one, and a registry in place of Docker Hub.

Programs and data are in the cache folder, so that a second start takes seconds. /run has the process ids.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from course.engines import built, engine
from course.errors import CourseError

TOOLS = Path(__file__).parents[2] / "tools" / "docker"
CACHE = engine.CACHE / "docker"
DATA, REGISTRY = CACHE / "data", CACHE / "registry"  # the daemon's images and the registry's
PACKAGES_FOLDER = CACHE / "docker-28.5-registry-2.8"  # one folder for each set of versions
RUN = Path("/run/agents-in-containers")  # a reboot empties it, and ends the daemons
PROGRAMS = (
    RUN / "programs"
)  # a link to the programs of the running daemon, in the cache of the user who started it
SOCKET = RUN / "docker.sock"
IP_FORWARD_BACKUP = RUN / "ip_forward"  # the value from before the daemon started
MIRROR = "127.0.0.1:5055"  # the registry in place of Docker Hub


def environment() -> dict[str, str]:
    """The environment variables with which a process finds the daemon; none when it does not run."""
    return settings(os.environ["PATH"]) if pid_of() else {}


def settings(path: str) -> dict[str, str]:
    """The same variables, whether or not it runs, for a process whose PATH is `path`."""
    return {
        "DOCKER_HOST": f"unix://{SOCKET}",
        "DOCKER_CONFIG": str(PROGRAMS / "config"),
        "PATH": f"{PROGRAMS}/usr/bin{os.pathsep}{path}",
    }


def pid_of(name: str = "dockerd") -> int | None:
    """The process id of "dockerd" or "docker-registry"; None when it does not run."""
    return pid_in(RUN / f"{name}.pid", f"/{name}\0")


def pid_in(file: Path, part: str) -> int | None:
    """The process id in a file, if `part` is in its command line: after a crash, the id may be another's."""
    try:
        pid = int(file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if part.encode() in command else None


def make_images(console: Console) -> None:
    run_script(console, "making the stand-in base images", TOOLS / "images.sh", PROGRAMS, MIRROR)


@contextmanager
def setup_lock() -> Iterator[None]:
    """Hold the lock, so that only one process at a time sets the engine up."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_script(console: Console, name: str, script: Path, *arguments: Path | str) -> None:
    """Run a script of `tools/`, which finds the daemon."""
    built.run_script(console, name, script, *arguments, env=environment())


def start(console: Console, answers: Callable[[], bool]) -> None:
    """Start the registry, and dockerd, which starts containerd; wait until the daemon `answers`."""
    if pid_of() is not None:
        return
    if not PACKAGES_FOLDER.exists():
        run_script(console, "unpacking Docker's packages", TOOLS / "programs.sh", PACKAGES_FOLDER)
    RUN.mkdir(parents=True, exist_ok=True)
    PROGRAMS.unlink(missing_ok=True)
    PROGRAMS.symlink_to(PACKAGES_FOLDER)
    if not IP_FORWARD_BACKUP.exists():  # after a crash, the file has the value from before the daemon
        IP_FORWARD_BACKUP.write_text(Path("/proc/sys/net/ipv4/ip_forward").read_text())
    if pid_of("docker-registry") is None:  # it may have outlived dockerd
        if mirror_works():
            raise CourseError(f"Another program listens on {MIRROR}, which the course needs. Stop it.")
        registry = ["docker-registry", "serve", str(TOOLS / "registry.yml")]
        launch(registry, mirror_works, REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=str(REGISTRY))
    (RUN / "docker.pid").unlink(missing_ok=True)  # left by a daemon that was killed
    dockerd = ["dockerd", "-H", f"unix://{SOCKET}", "-G", "root", "--registry-mirror", f"http://{MIRROR}"]
    folders = [
        "--config-file",
        str(TOOLS / "daemon.json"),
        "-p",
        str(RUN / "docker.pid"),
        "--data-root",
        str(DATA),
        "--exec-root",
        str(RUN / "exec"),
    ]
    launch([*dockerd, *folders], answers)


def launch(command: list[str], answers: Callable[[], bool], **extra: str) -> None:
    """Start a program in the background. Raises `CourseError` with its log when it does not answer."""
    libraries = next((PROGRAMS / "usr/lib").glob("*-linux-gnu"))
    path = f"{PROGRAMS}/usr/bin:{PROGRAMS}/usr/sbin:{os.environ['PATH']}"
    extra |= {
        "LD_LIBRARY_PATH": str(libraries),
        "XTABLES_LIBDIR": str(libraries / "xtables"),
        "PATH": path,
    }
    log = CACHE / f"{command[0]}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(shutil.which(command[0], path=path)), *command[1:]],
            env=os.environ | extra,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    (RUN / f"{command[0]}.pid").write_text(str(process.pid))
    deadline = time.monotonic() + 60
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            stop(command[0])
            raise CourseError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def mirror_works() -> bool:
    """Whether the registry answers."""
    with suppress(OSError), urllib.request.urlopen(f"http://{MIRROR}/v2/", timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def stop(name: str) -> None:
    """Stop one of the daemons, and wait until it has ended."""
    if (pid := pid_of(name)) is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while pid_of(name) is not None:
        if time.monotonic() > deadline:
            raise CourseError(f"{name} (pid {pid}) does not stop. Its log is {CACHE / name}.log.")
        time.sleep(0.1)


def stop_all() -> None:
    """Stop both daemons, and unmount what dockerd leaves mounted.

    A daemon that was killed leaves the file systems of its containers mounted. Every daemon that ran a
    container on the host's network leaves a mount for that network.
    """
    stop("dockerd")
    stop("docker-registry")
    stores = (f"{PROGRAMS.resolve().parent / DATA.name}/", f"{RUN}/")
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if f"{mount}/".startswith(stores):
            subprocess.run(["umount", "--lazy", mount], check=True)


def remove_network() -> None:
    """Remove the bridge and the rules that Docker leaves behind, and restore IP forwarding."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text(IP_FORWARD_BACKUP.read_text())
    subprocess.run([TOOLS / "forget-network.sh", PROGRAMS], check=True)

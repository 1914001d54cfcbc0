"""Engines that tests need, and images that they build."""

import dataclasses
import uuid
from pathlib import Path

import psutil
import pytest

from course import engines
from course.containers import images
from course.engines import kubernetes
from support.locks import file_lock


def require(name: str) -> str:
    """The path of an engine's program. Without it the test is skipped with one line."""
    engine = engines.find(name)
    if engine.version() and (program := engine.program()):
        return program
    pytest.skip(engine.missing_message)


def leftovers() -> list[str]:
    """What a stopped node has left on this machine: processes, mounts, networks and control groups."""
    ours = (str(kubernetes.RUN), str(kubernetes.CACHE))
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    networks = [*Path("/run/netns").glob("cni-*"), Path("/run/netns/course-node")]
    found = [command for command in commands if ours[0] in command]
    found += [mount for mount in mounts if mount.startswith(ours)]
    paths = [kubernetes.RUN, Path("/sys/class/net/course-host"), *networks, Path("/var/lib/kubelet")]
    paths += [*Path("/sys/fs/cgroup").glob("kubepods"), *Path("/sys/fs/cgroup").glob("*/kubepods")]
    return found + [str(path) for path in paths if path.exists()]


def build_own(image: images.Image, root: Path) -> str:
    """Build an image under a name that only this process uses; returns the name.

    Other workers can then neither replace nor remove it during a test. Builds take turns, so that later ones
    find all steps in the cache.
    """
    own = dataclasses.replace(image, tag=f"{image.tag}-{uuid.uuid4().hex[:8]}")
    with file_lock("images"):
        images.build(own, root=root)
    return own.tag

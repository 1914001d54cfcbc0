"""Lesson 11 on a cluster, to measure."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from course import engines
from course.containers import images
from course.containers.cluster import Cluster
from course.containers.commands import run as docker
from course.containers.installations import Installation
from course.paths import ROOT
from course.processes import Processes

AGENT, NEXT = "research-agent:bench", "research-agent:bench-next"


@contextmanager
def installed(folder: Path, least: int = 2, most: int = 10, **settings: str) -> Iterator[Installation]:
    """The lesson on a cluster, with bounds of its replicas and settings of the agent; removed at the end."""
    with engines.KUBERNETES.used(Console()), Processes() as processes:
        for image in (images.AGENTS[-1], images.MODEL):
            images.build(image)
        for name in (AGENT, NEXT):
            docker("tag", images.AGENTS[-1].tag, name)
        cluster = Cluster(os.environ["KUBE_CONTEXT"])
        cluster.load(AGENT, NEXT, images.MODEL.tag, "redis:8", "haproxy:3.0")
        made = Installation(cluster, ROOT, folder, (AGENT, images.MODEL.tag, NEXT))
        made.replicas = (least, most)
        try:
            made.apply(**settings)
            made.wait_ready()
            with made.reachable(processes):
                yield made
        finally:
            made.remove()
            docker("rmi", AGENT, NEXT)

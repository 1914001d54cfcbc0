"""How long from nothing to a ready pod? `python bench/lesson_11_node.py`, two minutes.

It starts the course's own node, loads the images, and applies the lesson. It needs Docker, and a node that is
built and does not run.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from bench.cluster import AGENT, NEXT
from bench.records import measured, save
from course import engines
from course.containers import images
from course.containers.cluster import Cluster
from course.containers.commands import run as docker
from course.containers.installations import Installation
from course.engines.kubernetes import READY, pinned_version
from course.paths import ROOT

ROUNDS = 3
STEPS = ("node", "images in the node", "all pods ready")


def once() -> list[float]:
    """The seconds from nothing until each step is done."""
    began, done = time.monotonic(), list[float]()
    with engines.KUBERNETES.used(Console(quiet=True)), tempfile.TemporaryDirectory() as folder:
        done.append(time.monotonic() - began)
        cluster = Cluster(os.environ["KUBE_CONTEXT"])
        cluster.load(AGENT, images.MODEL.tag, "redis:8", "haproxy:3.0")
        done.append(time.monotonic() - began)
        made = Installation(cluster, ROOT, Path(folder), (AGENT, images.MODEL.tag, NEXT))
        made.apply()
        made.wait_ready()
        done.append(time.monotonic() - began)
        made.remove()
    return done


def main() -> None:
    if READY.exists():
        sys.exit("A node runs already: make engine-down")
    for image in (images.AGENTS[-1], images.MODEL):
        images.build(image)
    docker("tag", images.AGENTS[-1].tag, AGENT)
    rounds = [once() for _ in range(ROUNDS)]
    docker("rmi", AGENT)
    columns = list(zip(*rounds, strict=True))
    how = (
        f"the course's own node, its programs built, the images in Docker; {ROUNDS} rounds, median and spread"
    )
    save(
        "lesson_11_node",
        {
            "title": "From nothing to ready pods",
            "kind": "bars",
            "alt": "Seconds from nothing to a ready node, to its images, and to ready pods.",
            "measured": measured(how, Kubernetes=pinned_version()),
            "unit": "seconds",
            "groups": list(STEPS),
            "series": [
                {
                    "name": "until",
                    "values": [round(statistics.median(column), 1) for column in columns],
                    "low": [round(min(column), 1) for column in columns],
                    "high": [round(max(column), 1) for column in columns],
                }
            ],
            "target": {"label": "aim", "values": [60, 60, 60]},
        },
    )


if __name__ == "__main__":
    main()

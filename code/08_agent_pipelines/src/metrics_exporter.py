"""Exports what Redis knows about the queue: tasks that wait, that agents hold, and that are done or dead.

REDIS_URL=redis://127.0.0.1:6379 python metrics_exporter.py
"""

import os
import signal
from collections.abc import Iterator

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis

from task_queue import DEAD_LETTERS, RESULTS, TASKS


class QueueCollector(Collector):
    """Asks Redis at each scrape, so that a value is never older than the scrape."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def collect(self) -> Iterator[GaugeMetricFamily]:
        group, *_ = self.redis.xinfo_groups(TASKS)
        counts = {
            "waiting": group["lag"],
            "held": group["pending"],
            "done": self.redis.xlen(RESULTS),
            "dead": self.redis.xlen(DEAD_LETTERS),
        }
        tasks = GaugeMetricFamily("queue_tasks", "Tasks by state", labels=["state"])
        for state, count in counts.items():
            tasks.add_metric([state], count)
        yield tasks


if __name__ == "__main__":
    REGISTRY.register(QueueCollector(Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)))
    start_http_server(int(os.environ.get("METRICS_PORT", "9100")))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})

"""Monitoring: a Prometheus service that scrapes a deployment, and its answers as a summary and a chart."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import dagger
from dagger import dag

from agent_ops import METRICS_PORT, Deployment

PROMETHEUS = "prom/prometheus:v2.53.3"
QUERIES = {
    "tasks": 'sum by (agent) (agent_tasks_total{outcome="done"})',
    "seconds": "sum by (agent) (agent_task_seconds_sum) / sum by (agent) (agent_task_seconds_count)",
    "takeovers": "sum by (agent) (agent_takeovers_total)",
}
COLOURS = {"waiting": "gray", "held": "darkorange", "done": "seagreen"}
Samples = list[dict[str, Any]]


class Prometheus:
    """A Prometheus in the engine, which scrapes the agents and the queue of a deployment."""

    def __init__(self, source: dagger.Directory, deployment: Deployment) -> None:
        command = ["python", "metrics_exporter.py"]
        exporter = deployment.programs.with_exposed_port(METRICS_PORT).as_service(args=command)
        targets = deployment.agents | {"queue": exporter}
        addresses = [{"targets": [f"{name}:{METRICS_PORT}" for name in targets]}]
        server = (
            dag.container()
            .from_(PROMETHEUS)
            .with_file("/etc/prometheus/prometheus.yml", source.file("config/prometheus.yml"))
            .with_new_file("/etc/prometheus/targets.json", json.dumps(addresses))
            .with_exposed_port(9090)
        )
        for name, service in targets.items():
            server = server.with_service_binding(name, service)
        self.service = server.as_service(use_entrypoint=True)
        self.targets = len(targets)

    async def start(self) -> None:
        """Start it, and wait until it has scraped every target: what it has not seen yet, it cannot tell."""
        await self.service.start()
        await self.wait_for("sum(up)", self.targets)

    async def ask(self, path: str, **query: str | float) -> Samples:
        """Ask Prometheus's HTTP API. The engine caches downloads by URL, so each URL has a time in it."""
        url = await self.service.endpoint(port=9090, scheme="http")
        text = await dag.http(
            f"{url}/api/v1/{path}?{urlencode(query)}", experimental_service_host=self.service
        ).contents()
        found: Samples = json.loads(text)["data"]["result"]
        return found

    async def query(self, query: str) -> dict[str, float]:
        """The value of each agent now; the key is "" where a query has no agents."""
        samples = await self.ask("query", query=query, time=time.time())
        return {sample["metric"].get("agent", ""): float(sample["value"][1]) for sample in samples}

    async def wait_for(self, query: str, value: float, seconds: float = 30) -> None:
        """Wait until a query gives `value`: Prometheus learns of a task at its next scrape."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    if (await self.query(query)).get("") == value:
                        return
                except dagger.QueryError as error:
                    if "503" not in str(error):  # until it has loaded its store
                        raise
                await asyncio.sleep(0.3)

    async def history(self, query: str, since: float) -> list[float]:
        """The values of a query, one a second; the last one is that of now."""
        now = time.time()
        start = now - int(now - since)
        samples = await self.ask("query_range", query=query, start=start, end=now, step=1)
        return [float(value) for _, value in samples[0]["values"]] if samples else []

    async def report(self, since: float) -> dagger.Directory:
        """summary.txt has a row for each agent; chart.svg shows the queue in each second."""
        found = {name: await self.query(query) for name, query in QUERIES.items()}
        lines = [f"{'agent':10}{'tasks':>6}{'seconds each':>14}{'taken over':>12}"]
        for agent, tasks in sorted(found["tasks"].items()):
            seconds, taken = found["seconds"][agent], found["takeovers"].get(agent, 0)
            lines.append(f"{agent:10}{tasks:6.0f}{seconds:14.2f}{taken:12.0f}  {'█' * round(tasks)}")
        histories = {s: await self.history(f'queue_tasks{{state="{s}"}}', since) for s in COLOURS}
        lines += [f"{state:10}at most {max(values, default=0):.0f}" for state, values in histories.items()]
        summary = dag.directory().with_new_file("summary.txt", "\n".join(lines))
        return summary.with_new_file("chart.svg", chart(histories))


def chart(histories: dict[str, list[float]]) -> str:
    """The tasks in each state, second by second, as the lines of an SVG."""
    top = max([1, *(value for values in histories.values() for value in values)])
    seconds = max([2, *(len(values) for values in histories.values())]) - 1
    parts = [f'<text x="10" y="30">{top:.0f} tasks</text><text x="580" y="245">{seconds} s</text>']
    for place, (state, values) in enumerate(histories.items()):
        points = [f"{80 + 520 * x / seconds:.0f},{220 - 200 * y / top:.0f}" for x, y in enumerate(values)]
        line = f'<polyline points="{" ".join(points)}" fill="none" stroke-width="3"/>'
        label = f'<text x="{80 + 80 * place}" y="245" stroke="none">{state}</text>'
        parts.append(f'<g stroke="{COLOURS[state]}" fill="{COLOURS[state]}">{line}{label}</g>')
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 260">{"".join(parts)}</svg>'


def timeline(results: Sequence[dict[str, Any]], began: float) -> str:
    """When each task ran, and at which agent; a row of 40 characters stands for the whole run."""
    end = max((result["ended"] for result in results), default=began)
    scale = 40 / max(end - began, 0.001)
    work = sum(result["ended"] - result["started"] for result in results)
    lines = [f"{len(results)} tasks in {end - began:.1f} s, with {work:.1f} s of work"]
    for result in sorted(results, key=lambda each: each["started"]):
        start, stop = result["started"] - began, result["ended"] - began
        bar = " " * int(start * scale) + "█" * max(1, round((stop - start) * scale))
        text = " ".join((result["error"] or result["prompt"]).split())[:40]
        lines.append(f"{result['agent']:9}|{bar:41}| {start:4.1f}-{stop:4.1f} s  {text}")
    return "\n".join(lines)

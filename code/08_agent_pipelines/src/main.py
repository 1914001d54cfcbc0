"""Agent pipelines: deploy agents, run workflows of tasks, test their coordination, collect their metrics.

As a Dagger module:   dagger call --model tcp://127.0.0.1:9000 deploy-agents --agent-count 3
As a plain script:    python src/main.py deploy-agents --agent-count 3
"""

import argparse
import asyncio
import enum
import inspect
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import urlsplit

import dagger
from dagger import DefaultPath, Doc, dag, enum_type, function, object_type

from agent_ops import Deployment, agent_names, deployed
from monitoring import Prometheus, timeline

LESSON = Path(__file__).resolve().parents[1]
PIPELINES = ["deploy-agents", "orchestrate-workflow", "test-agent-coordination", "collect-pipeline-metrics"]
Method = TypeVar("Method", bound=Callable[..., Any])
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def uncached(method: Method) -> Method:
    """A function that runs at each call, because it has effects. The SDK's types lack `cache`."""
    return cast(Method, cast(Any, function)(cache="never")(method))


@enum_type
class Composition(enum.Enum):
    """How the tasks of a workflow depend on each other."""

    FAN_OUT = "fan-out"
    SEQUENTIAL = "sequential"
    CONDITIONAL = "conditional"
    EVENT_DRIVEN = "event-driven"


@object_type
@dataclass(kw_only=True)  # object_type makes one, too, but type checkers do not see it
class AgentPipelines:
    """Pipelines of agents that share their work through a Redis stream."""

    source: Annotated[dagger.Directory, DefaultPath("."), Doc("The folder of this module")]
    model: Annotated[dagger.Service | None, Doc("A model server, such as tcp://127.0.0.1:9000")] = None
    model_port: Annotated[int, Doc("The port of that service")] = 9000
    model_name: str = "offline"
    base_url: Annotated[str, Doc("The address of a public API; empty for OpenAI's")] = ""
    api_key: Annotated[dagger.Secret | None, Doc("The key of the model, such as env://OPENAI_API_KEY")] = None

    def with_model(self, container: dagger.Container) -> dagger.Container:
        """The container with the variables that the OpenAI client reads. A real key stays a secret."""
        url = self.base_url
        if self.model:
            container = container.with_service_binding("model", self.model)
            url = f"http://model:{self.model_port}/v1"
        if url:
            container = container.with_env_variable("OPENAI_BASE_URL", url)
        container = container.with_env_variable("MODEL_NAME", self.model_name)
        if self.api_key:
            return container.with_secret_variable("OPENAI_API_KEY", self.api_key)
        return container.with_env_variable("OPENAI_API_KEY", "none")

    def deployed(self, agent_count: int, **settings: str) -> AbstractAsyncContextManager[Deployment]:
        return deployed(self.source, self.with_model, agent_count, **settings)

    @uncached
    async def deploy_agents(self, agent_count: int = 3) -> str:
        """Start Redis and agents, give each agent a task, and stop them."""
        async with self.deployed(agent_count) as deployment:
            prompts = [f"What is a container? (question {number})" for number in range(agent_count)]
            done = await deployment.run("fan-out", *prompts)
        return f"{agent_count} agents are ready.\n{timeline(done['results'], done['began'])}"

    @uncached
    async def orchestrate_workflow(
        self,
        composition: Composition = Composition.FAN_OUT,
        prompts: list[str] | None = None,
        agent_count: int = 3,
        as_json: bool = False,
    ) -> str:
        """Run a workflow, and show when each of its tasks ran. An event-driven one is given an event."""
        async with self.deployed(agent_count) as deployment:
            work = deployment.run(composition.value, *(prompts or []))
            if composition is Composition.EVENT_DRIVEN:
                report = "Container 7 was killed with exit code 137."
                done, _ = await asyncio.gather(work, deployment.run("publish", report))
            else:
                done = await work
        return json.dumps(done) if as_json else timeline(done["results"], done["began"])

    @uncached
    async def test_agent_coordination(self, agent_count: int = 3, task_count: int = 9) -> str:
        """Let an agent die in the middle of a task. Fails unless every task takes effect exactly once."""
        if agent_count < 2:
            raise ValueError("An agent that dies needs another that takes its task: --agent-count 2 or more.")
        prompt, times = "What is a container?", ("--name", "check", "--times", str(task_count))
        victim, *others = agent_names(agent_count)
        async with self.deployed(0) as deployment:
            await deployment.start_agents(victim, CRASH_ON=prompt)
            await deployment.run("submit", prompt, *times)
            await deployment.run("held", victim)
            await deployment.start_agents(*others)
            results = (await deployment.run("collect", *times))["results"]
            effects = (await deployment.run("effects"))["effects"]
        first = results[0]  # which the victim took, because it was alone
        checks = {
            f"{task_count} tasks have a result": len(results) == task_count,
            "each took effect once": list(effects.values()) == [1] * task_count,
            "another agent has done the task of the one that died": first["agent"] in others,
        }
        report = "\n".join(f"{'✓' if right else '✗'} {check}" for check, right in checks.items())
        if not all(checks.values()):
            raise RuntimeError(f"The agents do not coordinate:\n{report}")
        return report

    @uncached
    async def collect_pipeline_metrics(self, agent_count: int = 3, task_count: int = 9) -> dagger.Directory:
        """Let Prometheus watch the agents while they work; returns summary.txt and chart.svg."""
        async with self.deployed(agent_count) as deployment:
            prometheus = Prometheus(self.source, deployment)
            await prometheus.start()
            began, times = time.time(), ("--name", "watched", "--times", str(task_count))
            await deployment.run("submit", "What is a container?", *times)
            await deployment.run("collect", *times)
            await prometheus.wait_for('sum(agent_tasks_total{outcome="done"})', task_count)
            await prometheus.wait_for('sum(queue_tasks{state="done"})', task_count)
            report = await prometheus.report(began)
            await prometheus.service.stop()
        return report


def from_environment() -> AgentPipelines:
    """The pipelines with the model that OPENAI_BASE_URL and MODEL_NAME name.

    A container cannot reach this machine's 127.0.0.1, so a model that listens there becomes a service.
    """
    pipelines = AgentPipelines(
        source=dag.host().directory(str(LESSON), include=["src", "config", "requirements.txt"]),
        model_name=os.environ.get("MODEL_NAME", "offline"),
        base_url=os.environ.get("OPENAI_BASE_URL", ""),
        api_key=dag.secret("env://OPENAI_API_KEY") if os.environ.get("OPENAI_API_KEY") else None,
    )
    address = urlsplit(pipelines.base_url)
    if address.hostname in LOOPBACK:
        port = pipelines.model_port = address.port or 80
        forward = dagger.PortForward(backend=port, frontend=port)
        pipelines.model = dag.host().service([forward], host=address.hostname)
    return pipelines


def parse_arguments() -> dict[str, Any]:
    """The options that are given; the others have the defaults of the pipeline."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    parser.add_argument("--verbose", action="store_true", help="show what the engine does")
    parser.add_argument("pipeline", choices=PIPELINES)
    parser.add_argument("--agent-count", type=int)
    parser.add_argument("--task-count", type=int)
    parser.add_argument("--composition", type=Composition, help=", ".join(c.value for c in Composition))
    parser.add_argument("--prompts", action="append", help="may be given several times")
    parser.add_argument("--as-json", action="store_true")
    parser.add_argument("--report", default=str(LESSON / "report"), help="the folder for the metrics")
    return vars(parser.parse_args())


@asynccontextmanager
async def connected(verbose: bool = False) -> AsyncIterator[AgentPipelines]:
    """The pipelines of a script, with a session of the engine; `verbose` shows what the engine does.

    The log always gets a file. Without one, the SDK makes a pipe that nobody reads, and a full pipe stops
    the session for ever.
    """
    with Path(os.devnull).open("w") as nowhere:  # noqa: ASYNC230  # it does not block
        async with dagger.connection(dagger.Config(log_output=sys.stderr if verbose else nowhere)):
            yield from_environment()


async def main() -> None:
    options = parse_arguments()
    failure, verbose, folder = "", options.pop("verbose", False), options.pop("report")
    method = getattr(AgentPipelines, options.pop("pipeline").replace("-", "_"))
    if unknown := options.keys() - inspect.signature(method).parameters.keys():
        sys.exit(f"This pipeline has no option --{unknown.pop().replace('_', '-')}.")
    async with connected(verbose) as pipelines:
        try:  # an error that left the session would be reported as one of the session
            report = await method(pipelines, **options)
            if isinstance(report, dagger.Directory):
                print(await report.file("summary.txt").contents())
                report = f"The chart is {await report.export(folder)}/chart.svg"
            print(report)
        except (dagger.DaggerError, RuntimeError, TimeoutError, ValueError) as error:
            failure = f"{error}\n{getattr(error, 'stderr', '')}".strip()
    if failure:
        sys.exit(failure)


if __name__ == "__main__":
    asyncio.run(main())

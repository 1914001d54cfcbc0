"""Agent pipelines: deploy agents, run workflows of tasks, test their coordination, collect their metrics.

As a Dagger module:   dagger call --model tcp://127.0.0.1:9000 deploy-agents --agent-count 3
As a plain script:    python src/main.py deploy-agents --agent-count 3
"""

import argparse
import asyncio
import enum
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import urlsplit

import dagger
from dagger import DefaultPath, Doc, dag, enum_type, function, object_type

from agent_ops import Model, agent_names, deployed
from monitoring import Prometheus, timeline

LESSON = Path(__file__).resolve().parents[1]
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

    def access(self) -> Model:
        return Model(self.model_name, self.model, self.model_port, self.base_url, self.api_key)

    @uncached
    async def deploy_agents(self, agent_count: int = 3) -> str:
        """Start Redis and agents, give each agent a task, and stop them."""
        async with deployed(self.source, self.access(), agent_count) as deployment:
            prompts = [f"What is a container? (question {number})" for number in range(agent_count)]
            done = await deployment.run("coordination.py", "fan-out", *prompts)
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
        async with deployed(self.source, self.access(), agent_count) as deployment:
            work = deployment.run("coordination.py", composition.value, *(prompts or []))
            if composition is Composition.EVENT_DRIVEN:
                report = "Container 7 was killed with exit code 137."
                done, _ = await asyncio.gather(work, deployment.run("coordination.py", "publish", report))
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
        async with deployed(self.source, self.access(), 0) as deployment:
            await deployment.start_agents(victim, CRASH_ON=prompt)
            await deployment.run("coordination.py", "submit", prompt, *times)
            await deployment.run("coordination.py", "held", victim)
            await deployment.start_agents(*others)
            done = await deployment.run("coordination.py", "collect", *times)
            effects = (await deployment.run("coordination.py", "effects"))["effects"]
        results = done["results"]
        takers = [result["agent"] for result in results if result["deliveries"] > 1]
        checks = {
            f"{task_count} tasks have a result": len(results) == task_count,
            "each took effect once": list(effects.values()) == [1] * task_count,
            "one task was taken over": len(takers) == 1,
            "by another agent than the one that died": set(takers) <= set(others),
        }
        report = "\n".join(f"{'✓' if right else '✗'} {check}" for check, right in checks.items())
        if not all(checks.values()):
            raise RuntimeError(f"The agents do not coordinate:\n{report}")
        return report

    @uncached
    async def collect_pipeline_metrics(self, agent_count: int = 3, task_count: int = 12) -> str:
        """Let Prometheus watch the agents while they work; returns a summary with charts."""
        async with deployed(self.source, self.access(), agent_count) as deployment:
            prometheus = Prometheus(self.source, deployment)
            await prometheus.start()
            began, times = time.time(), ("--name", "watched", "--times", str(task_count))
            await deployment.run("coordination.py", "submit", "What is a container?", *times)
            await deployment.run("coordination.py", "collect", *times)
            await prometheus.wait_for('sum(agent_tasks_total{outcome="done"})', task_count)
            report = await prometheus.report(began)
            await prometheus.service.stop()
        return report


def from_environment() -> AgentPipelines:
    """The pipelines with the model that OPENAI_BASE_URL and MODEL_NAME name.

    A container cannot reach this machine's 127.0.0.1, so a model that listens there becomes a service.
    """
    source = dag.host().directory(str(LESSON), include=["src", "config", "requirements.txt"])
    name, base_url = os.environ.get("MODEL_NAME", "offline"), os.environ.get("OPENAI_BASE_URL", "")
    key = dag.secret("env://OPENAI_API_KEY") if os.environ.get("OPENAI_API_KEY") else None
    address = urlsplit(base_url)
    if address.hostname in LOOPBACK:
        port = address.port or 80
        service = dag.host().service([dagger.PortForward(backend=port, frontend=port)], host=address.hostname)
        return AgentPipelines(source=source, model=service, model_port=port, model_name=name, api_key=key)
    return AgentPipelines(source=source, model_name=name, base_url=base_url, api_key=key)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--verbose", action="store_true", help="show what the engine does")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in (
        "deploy-agents",
        "orchestrate-workflow",
        "test-agent-coordination",
        "collect-pipeline-metrics",
    ):
        command = commands.add_parser(name)
        command.add_argument("--agent-count", type=int, default=3)
        if name == "orchestrate-workflow":
            command.add_argument("--composition", type=Composition, default=Composition.FAN_OUT)
            command.add_argument("--prompts", action="append")
            command.add_argument("--as-json", action="store_true")
        elif name != "deploy-agents":
            command.add_argument("--task-count", type=int, default=9)
    return parser.parse_args()


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
    options = vars(parse_arguments())
    method, verbose = options.pop("command").replace("-", "_"), options.pop("verbose")
    report = failure = ""
    async with connected(verbose) as pipelines:
        call: Awaitable[str] = getattr(pipelines, method)(**options)
        try:  # an error that left the session would be reported as one of the session
            report = await call
        except dagger.ExecError as error:
            failure = f"{error}\n{error.stderr}"
        except (dagger.DaggerError, RuntimeError, TimeoutError, ValueError) as error:
            failure = str(error)
    if failure:
        sys.exit(failure)
    print(report)


if __name__ == "__main__":
    asyncio.run(main())

"""Agents as Dagger services: Redis, the agents that are bound to it, and programs that run beside them."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import dagger
from dagger import dag

PYTHON, REDIS = "python:3.13-slim", "redis:8"
PROGRAMS = ["agent.py", "coordination.py", "metrics_exporter.py", "task_queue.py"]
METRICS_PORT = 9100
WithModel = Callable[[dagger.Container], dagger.Container]  # lets a container reach the model


@dataclass
class Deployment:
    """Redis, the agents that are bound to it, and a container for programs beside them."""

    redis: dagger.Service
    agent: dagger.Container
    programs: dagger.Container
    agents: dict[str, dagger.Service] = field(default_factory=dict)

    async def start_agents(self, *names: str, **settings: str) -> None:
        """Start agents as services, and wait until each is ready. `settings` are environment variables."""
        agent = self.agent
        for variable, value in settings.items():
            agent = agent.with_env_variable(variable, value)
        for name in names:
            named = agent.with_env_variable("AGENT_ID", name)
            self.agents[name] = named.as_service(args=["python", "agent.py"])
        await asyncio.gather(*(self.agents[name].start() for name in names))

    async def run(self, *command: str) -> Any:
        """Run a command of coordination.py beside Redis; returns the JSON that it prints.

        The engine answers a command that it has run before from its cache. The variable makes each call new.
        """
        container = self.programs.with_env_variable("CALL", uuid.uuid4().hex)
        return json.loads(await container.with_exec(["python", "coordination.py", *command]).stdout())

    async def stop(self) -> None:
        """Stop the agents and Redis at once: the results that somebody wanted are there."""
        await asyncio.gather(*(each.stop(kill=True) for each in (*self.agents.values(), self.redis)))


def python_container(source: dagger.Directory) -> dagger.Container:
    """Python with the lesson's packages and programs. An edit of a program leaves the packages cached."""
    return (
        dag.container()
        .from_(PYTHON)
        .with_mounted_cache("/root/.cache/pip", dag.cache_volume("agent-pipelines-pip"))
        .with_file("/build/requirements.txt", source.file("requirements.txt"))
        .with_exec(["pip", "install", "--quiet", "--require-hashes", "-r", "/build/requirements.txt"])
        .without_mount("/root/.cache/pip")
        .with_directory("/app", source.directory("src"), include=PROGRAMS)
        .with_workdir("/app")
        .with_env_variable("PYTHONUNBUFFERED", "1")
        .with_user("10001:10001")
    )


def agent_names(count: int) -> list[str]:
    return [f"agent-{number}" for number in range(count)]


@asynccontextmanager
async def deployed(
    source: dagger.Directory, with_model: WithModel, agent_count: int, **settings: str
) -> AsyncIterator[Deployment]:
    """Redis and agents that run until the end of the `with` block."""
    # Equal services are one service. The id gives each deployment a Redis of its own.
    redis = dag.container().from_(REDIS).with_env_variable("DEPLOYMENT", uuid.uuid4().hex)
    service = redis.with_exposed_port(6379).as_service(use_entrypoint=True)
    programs = python_container(source).with_service_binding("redis", service)
    programs = programs.with_env_variable("REDIS_URL", "redis://redis:6379")
    agent = with_model(programs).with_exposed_port(METRICS_PORT)  # which an agent opens when it is ready
    deployment = Deployment(service, agent, programs)
    await service.start()
    try:
        await deployment.start_agents(*agent_names(agent_count), **settings)
        yield deployment
    finally:
        await deployment.stop()

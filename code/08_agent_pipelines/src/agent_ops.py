"""Agents as Dagger services: Redis, the agents that are bound to it, and programs that run beside them."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import dagger
from dagger import dag

PYTHON, REDIS = "python:3.13-slim", "redis:8"
PROGRAMS = ["agent.py", "coordination.py", "metrics_exporter.py", "task_queue.py"]
METRICS_PORT = 9100


@dataclass(frozen=True)
class Model:
    """The model that the agents ask: a service, such as one of this machine, or a public API with a key."""

    name: str = "offline"
    service: dagger.Service | None = None
    port: int = 9000
    base_url: str = ""
    api_key: dagger.Secret | None = None

    def bind(self, container: dagger.Container) -> dagger.Container:
        """The container with the variables that the OpenAI client reads. A real key stays a secret."""
        url = self.base_url
        if self.service:
            container, url = (
                container.with_service_binding("model", self.service),
                f"http://model:{self.port}/v1",
            )
        container = container.with_env_variable("MODEL_NAME", self.name)
        container = container.with_env_variable("OPENAI_BASE_URL", url) if url else container
        if self.api_key is None:
            return container.with_env_variable("OPENAI_API_KEY", "none")
        return container.with_secret_variable("OPENAI_API_KEY", self.api_key)


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
        """Run a program of the lesson beside Redis; returns the JSON that it prints.

        The engine answers a command that it has run before from its cache. The variable makes each call new.
        """
        container = self.programs.with_env_variable("CALL", uuid.uuid4().hex)
        return json.loads(await container.with_exec(["python", *command]).stdout())

    async def stop(self) -> None:
        """Stop the agents, which finish the tasks in their hands, and then Redis."""
        await asyncio.gather(*(agent.stop() for agent in self.agents.values()))
        await self.redis.stop(kill=True)


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
    source: dagger.Directory, model: Model, agent_count: int, **settings: str
) -> AsyncIterator[Deployment]:
    """Redis and agents that run until the end of the `with` block."""
    # Equal services are one service. The id gives each deployment a Redis of its own.
    redis = dag.container().from_(REDIS).with_env_variable("DEPLOYMENT", uuid.uuid4().hex)
    service = redis.with_exposed_port(6379).as_service(use_entrypoint=True)
    programs = python_container(source).with_service_binding("redis", service)
    programs = programs.with_env_variable("REDIS_URL", "redis://redis:6379")
    agent = model.bind(programs).with_exposed_port(METRICS_PORT)  # which an agent opens when it is ready
    deployment = Deployment(service, agent, programs)
    await service.start()
    try:
        await deployment.start_agents(*agent_names(agent_count), **settings)
        yield deployment
    finally:
        await deployment.stop()

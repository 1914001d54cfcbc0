"""Dagger: a container by the SDK. The image's steps are cached; the variation's step never is.

What it lacks: limits of memory, processors, processes and the work folder; a read-only root; a network
without the outside. Settings that ask for one of them are refused. Output comes by the gateway, because the
SDK gives it only at the end.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import dagger
import httpx
import structlog

from parallel_agents.config import Settings
from parallel_agents.engines.base import EngineDown, Exit, Job, Output
from parallel_agents.gateway import Gateway
from parallel_agents.repositories import container_user

log = structlog.stdlib.get_logger("parallel-agents")
FORWARD = Path(__file__).with_name("forward.py")
CONNECT_SECONDS = 600  # the engine's first start downloads an image
FAILURES = (dagger.DaggerError, httpx.HTTPError, OSError, TimeoutError)


class DaggerEngine:
    work_mb = None

    def __init__(self, settings: Settings, gateway: Gateway) -> None:
        self.settings, self.gateway = settings, gateway
        self.session = contextlib.AsyncExitStack()
        self.client: dagger.Client | None = None
        self.connecting = asyncio.Lock()
        self.checking: asyncio.Task[dagger.Client] | None = None

    async def gateway_host(self) -> str:
        return "127.0.0.1"  # the session forwards it into containers

    async def sweep(self) -> dict[str, int]:
        """No-op: the engine ends the containers of a session when its client dies."""
        return {}

    async def connect(self) -> dagger.Client:
        """The client of a session that works."""
        async with self.connecting:
            try:
                client = self.client
                if client is None:
                    # Without a file for its log, the session would fill a pipe that nobody reads, and hang.
                    output = self.session.enter_context((self.settings.data_dir / "dagger.log").open("a"))
                    config = dagger.Config(log_output=output, retry=dagger.Retry(execute=False))
                    async with asyncio.timeout(CONNECT_SECONDS):
                        connection = self.session.enter_async_context(dagger.Connection(config))
                        connected: dagger.Client = await connection
                    self.client = client = connected
                await client.version()
                return client
            except FAILURES as error:
                log.error("Dagger's engine cannot be reached", error=type(error).__name__)
                await self.close()
                raise EngineDown from None

    async def check(self) -> None:
        """Connect, in a task that goes on when a probe gives up: the first start takes minutes."""
        self.checking = self.checking or asyncio.create_task(self.connect())
        try:
            await asyncio.shield(self.checking)
        finally:
            if self.checking.done():
                self.checking = None

    async def close(self) -> None:
        session, self.session, self.client = self.session, contextlib.AsyncExitStack(), None
        with contextlib.suppress(dagger.DaggerError):  # the process of a session that died has an exit code
            await session.aclose()

    async def start(self, job: Job) -> "RunningStep":
        return RunningStep(await self.connect(), self.settings, self.gateway, job)


class RunningStep:
    def __init__(self, client: dagger.Client, settings: Settings, gateway: Gateway, job: Job) -> None:
        self.job, self.pieces = job, gateway.grants[job.token].output
        owner = "{}:{}".format(*container_user())
        source = client.host().directory(
            str(settings.agent_source.resolve()), include=["Dockerfile.agent", "agent"]
        )
        forward = dagger.PortForward(backend=gateway.port, frontend=8080)
        # A secret, so that no log has the token. Its name is new each time, because names are cache keys.
        secret = client.set_secret(f"token-{uuid.uuid4().hex}", job.token)
        container = (
            source.docker_build(dockerfile="Dockerfile.agent")  # the engine caches each step
            .with_directory("/work", client.host().directory(str(job.work), no_cache=True), owner=owner)
            .with_new_file("/forward.py", FORWARD.read_text())
            .with_service_binding("gateway", client.host().service([forward], host="127.0.0.1"))
            .with_secret_variable("OPENAI_API_KEY", secret)
            .with_env_variable("OPENAI_BASE_URL", "http://gateway:8080/v1")
            .with_env_variable("RUN", f"{job.run_id}-{job.n}")  # another cache key for each variation
            .with_workdir("/work")
            .with_user(owner)
        )
        for name, value in job.environment.items():
            container = container.with_env_variable(name, value)
        command = ["python", "/forward.py", "python", "/agent/agent.py"]
        self.container = container.with_exec(command, expect=dagger.ReturnType.ANY)
        self.ending = asyncio.create_task(self.run())

    async def run(self) -> int:
        code = await self.container.exit_code()
        await self.container.directory("/work").export(str(self.job.work), wipe=True)
        return code

    async def output(self) -> AsyncGenerator[Output]:
        """Each piece is one byte for the stream, and what was printed."""
        while True:
            taking = asyncio.create_task(self.pieces.get())
            await asyncio.wait({taking, self.ending}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                return
            piece = taking.result()
            yield ("stdout" if piece[:1] == b"1" else "stderr"), piece[1:]

    async def wait(self) -> Exit:
        try:
            return Exit(await asyncio.shield(self.ending))
        except FAILURES as error:
            log.error("the step failed", error=type(error).__name__)
            raise EngineDown from None

    async def remove(self) -> None:
        """Cancel the request: the engine then kills the container."""
        self.ending.cancel()
        await asyncio.wait([self.ending])

"""Docker: a container with every limit, on an internal network whose only other member is the relay.

The networks have no address on the host (`inhibit_ipv4`), so a container reaches neither this machine nor
another variation. A network is made once for each slot and used by one variation after the other.
"""

import asyncio
import hashlib
import ipaddress
import json
import random
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
import structlog
from aiodocker.containers import DockerContainer
from aiodocker.networks import DockerNetwork

from parallel_agents.config import Settings
from parallel_agents.engines.base import EngineDown, Exit, Job, Output
from parallel_agents.gateway import Gateway
from parallel_agents.repositories import container_user

log = structlog.stdlib.get_logger("parallel-agents")
LABEL = "parallel-agents"
SUBNETS = list(ipaddress.IPv4Network("10.224.0.0/13").subnets(new_prefix=29))  # Docker's own pools are small
MEMORY_MB, CPUS, PIDS, WORK_MB, TMP_MB = 256, 1.0, 64, 64, 32
FAILURES = (aiodocker.DockerError, aiohttp.ClientError, OSError, TimeoutError)
RELAY_SECONDS = 30


class DockerEngine:
    def __init__(self, settings: Settings, gateway: Gateway) -> None:
        self.settings, self.gateway = settings, gateway
        self.work_mb = settings.work_mb or WORK_MB
        folder = str(settings.data_dir.resolve())
        self.instance = hashlib.sha256(folder.encode()).hexdigest()[:16]  # one server for each data folder
        self.labels = {LABEL: self.instance}
        self.docker: aiodocker.Docker | None = None
        self.relay: DockerContainer | None = None
        self.free: list[DockerNetwork] = []  # networks that no variation uses
        self.connected: set[str] = set()  # ids of the networks that have the relay
        self.preparing = asyncio.Lock()

    @property
    def client(self) -> aiodocker.Docker:
        if self.docker is None:
            try:
                self.docker = aiodocker.Docker()
            except (ValueError, OSError) as error:
                raise EngineDown(type(error).__name__) from None
        return self.docker

    async def check(self) -> None:
        """Docker answers, and has the image."""
        try:
            await self.client.images.inspect(self.settings.agent_container_image)
        except FAILURES as error:
            log.warning("docker is not ready", error=describe(error))
            raise EngineDown(describe(error)) from None

    async def gateway_host(self) -> str:
        """The address at which containers on the default bridge reach this process."""
        try:
            told = await (await self.client.networks.get("bridge")).show()
        except FAILURES as error:
            raise EngineDown(describe(error)) from None
        address = str(told["IPAM"]["Config"][0].get("Gateway", "127.0.0.1"))
        with suppress(OSError), socket.socket() as probe:
            probe.bind((address, 0))
            return address
        return "127.0.0.1"  # Docker Desktop, which forwards host.docker.internal to here

    async def sweep(self) -> dict[str, int]:
        filters = {"label": [f"{LABEL}={self.instance}"]}
        try:
            containers = await self.client.containers.list(all=True, filters=filters)
            await asyncio.gather(*(self.delete(each) for each in containers))
            networks = await self.client.networks.list(filters=filters)
            for each in networks:
                await (await self.client.networks.get(each["Id"])).delete()
        except FAILURES as error:
            raise EngineDown(describe(error)) from None
        return {"containers": len(containers), "networks": len(networks)}

    async def close(self) -> None:
        if self.docker:
            await self.docker.close()

    async def delete(self, container: DockerContainer) -> None:
        """Kill and remove a container. Docker answers when its processes are gone."""
        try:
            await container.delete(force=True, v=True)
        except aiodocker.DockerError as error:
            if error.status not in (404, 409):  # it is gone, or is being removed
                raise
            with suppress(*FAILURES):
                await container.wait(condition="removed")

    # --- The relay and its networks ---

    async def start_relay(self) -> DockerContainer:
        host = await self.gateway_host()
        more: dict[str, Any] = {
            "Sysctls": {"net.ipv4.ip_forward": "0"},
            "RestartPolicy": {"Name": "on-failure"},
        }
        if host == "127.0.0.1":
            host, more["ExtraHosts"] = "host.docker.internal", ["host.docker.internal:host-gateway"]
        code = Path(__file__).with_name("relay.py").read_text()
        config: dict[str, Any] = {
            "Image": self.settings.agent_container_image,
            "Cmd": ["python", "-c", code, host, str(self.gateway.port)],
            "Entrypoint": [],
            "User": "65534:65534",
            "Labels": self.labels,
            "HostConfig": restrictions(self.settings) | more,
        }
        relay = await self.client.containers.create(config, name=f"{LABEL}-{self.instance}-relay")
        try:
            async with asyncio.timeout(RELAY_SECONDS), relay.attach(stdout=True) as stream:
                await relay.start()
                message = await stream.read_out()
                if message is None or b"ready" not in message.data:
                    raise OSError("the relay did not start")
        except FAILURES:
            await self.delete(relay)
            raise
        return relay

    async def relay_runs(self) -> bool:
        """Whether there is a relay. One that has ended, as after a restart of Docker, is removed."""
        if self.relay:
            with suppress(aiodocker.DockerError):  # somebody has removed it
                if (await self.relay.show())["State"]["Running"]:
                    return True
            await self.delete(self.relay)
        return False

    async def take_network(self) -> DockerNetwork:
        """A network that no other variation uses, with the relay in it."""
        async with self.preparing:
            if self.relay is None or not await self.relay_runs():
                self.relay = None
                self.relay, self.connected = await self.start_relay(), set()
            network = self.free.pop() if self.free else await self.create_network()
            if network.id not in self.connected:
                endpoint = {"Container": self.relay.id, "EndpointConfig": {"Aliases": ["gateway"]}}
                await network.connect(endpoint)
                self.connected.add(network.id)
            return network

    async def create_network(self) -> DockerNetwork:
        while True:
            subnet = random.choice(SUBNETS)  # noqa: S311
            config: dict[str, Any] = {
                "Name": f"{LABEL}-{self.instance}-{subnet.network_address}",
                "Internal": True,
                "Options": {"com.docker.network.bridge.inhibit_ipv4": "true"},
                "IPAM": {"Config": [{"Subnet": str(subnet)}]},
                "Labels": self.labels,
            }
            try:
                return await self.client.networks.create(config)
            except aiodocker.DockerError as error:
                if "overlap" not in str(error).lower():  # with another network
                    raise

    # --- Variations ---

    async def start(self, job: Job) -> "RunningContainer":
        network: DockerNetwork | None = None
        container: DockerContainer | None = None
        try:
            network = await self.take_network()
            limits = restrictions(self.settings) | {"NetworkMode": network.id}
            limits["Mounts"] = [{"Type": "bind", "Source": str(job.work), "Target": "/work"}]
            env = job.environment | {"OPENAI_BASE_URL": "http://gateway:8080/v1", "OPENAI_API_KEY": job.token}
            config: dict[str, Any] = {
                "Image": self.settings.agent_container_image,
                "Cmd": ["python", "/agent/agent.py"],
                "Entrypoint": [],
                "WorkingDir": "/work",
                "User": "{}:{}".format(*container_user()),
                "Env": [f"{name}={value}" for name, value in env.items()],
                "Labels": self.labels | {f"{LABEL}.run": job.run_id, f"{LABEL}.variation": str(job.n)},
                "HostConfig": limits,
            }
            container = await self.client.containers.create(config, name=f"{LABEL}-{job.run_id}-{job.n}")
            stream = container.attach(stdout=True, stderr=True)
            await stream._init()  # before the start, so that no output is lost
            await container.start()
            return RunningContainer(self, container, network, stream)
        except FAILURES as error:
            if container:
                await self.delete(container)
            if network:
                self.free.append(network)
            log.error("the container did not start", error=describe(error))
            raise EngineDown from None


class RunningContainer:
    def __init__(
        self, engine: DockerEngine, container: DockerContainer, network: DockerNetwork, stream: Any
    ) -> None:
        self.engine, self.container, self.network, self.stream = engine, container, network, stream
        self.removing: asyncio.Task[None] | None = None

    async def output(self) -> AsyncGenerator[Output]:
        while message := await self.stream.read_out():
            yield ("stdout" if message.stream == 1 else "stderr"), message.data

    async def wait(self) -> Exit:
        try:
            await self.container.wait()
            state = (await self.container.show())["State"]
        except FAILURES as error:
            log.error("the container was lost", error=describe(error))
            raise EngineDown from None
        return Exit(int(state["ExitCode"]), bool(state["OOMKilled"]))

    async def remove(self) -> None:
        if self.removing is None:
            self.removing = asyncio.create_task(self.remove_once())
        await asyncio.shield(self.removing)

    async def remove_once(self) -> None:
        try:
            await self.engine.delete(self.container)
            self.engine.free.append(self.network)
        finally:
            await self.stream.close()


def restrictions(settings: Settings) -> dict[str, Any]:
    """What a container may do and use. seccomp's default profile applies, because nothing turns it off."""
    memory = (settings.memory_mb or MEMORY_MB) * 2**20
    file_bytes = (settings.work_mb or WORK_MB) * 2**20
    return {
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,size={TMP_MB}m,mode=1777"},  # noqa: S108  # the container's
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "IpcMode": "none",  # no /dev/shm
        "Memory": memory,
        "MemorySwap": memory,  # no swap besides
        "NanoCpus": int((settings.cpus or CPUS) * 1e9),
        "PidsLimit": settings.pids or PIDS,
        "Ulimits": [
            {"Name": "nofile", "Soft": 1024, "Hard": 1024},
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "fsize", "Soft": file_bytes, "Hard": file_bytes},
        ],
        "Init": True,  # reaps the processes that the agent's commands leave
        "LogConfig": {"Type": "none"},  # the output is read live, and the server keeps and bounds it
    }


def describe(error: BaseException) -> str:
    text = json.dumps(error.message) if isinstance(error, aiodocker.DockerError) else type(error).__name__
    return text[:300]

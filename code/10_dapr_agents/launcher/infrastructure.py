"""What all apps share: Kafka, PostgreSQL, and Dapr's placement and scheduler, each on a free port.

A service whose variable is set already is not started. The data is in the run's folder, and goes with it.
"""

import asyncio
import base64
import os
import secrets
import shutil
import uuid
from functools import partial
from pathlib import Path

from launcher.ports import answers, free_port, listens
from launcher.processes import Failure, Processes, Service, together

KAFKA, POSTGRES = "KAFKA_BROKERS", "POSTGRES_URL"  # the components in components/ read these two
PLACEMENT, SCHEDULER = "DAPR_PLACEMENT_HOST_ADDRESS", "DAPR_SCHEDULER_HOST_ADDRESS"
STAGE_OF_STORES, STAGE_OF_DAPR = 1, 2

KAFKA_SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/log
num.partitions=3
offsets.topic.replication.factor=1
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""
LOG_SETTINGS = """
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=Console
appender.console.type=Console
appender.console.name=Console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%p %c{1}: %m%n
"""


async def start(processes: Processes) -> dict[str, str]:
    """Start what no variable names; returns the four variables."""
    starts = {KAFKA: kafka, POSTGRES: postgresql, PLACEMENT: placement, SCHEDULER: scheduler}
    addresses = {name: os.environ.get(name, "") for name in starts}

    async def fill(name: str) -> None:
        addresses[name] = await starts[name](processes)

    await together(*(fill(name) for name, address in addresses.items() if not address))
    return addresses


async def kafka(processes: Processes) -> str:
    """One node that is broker and controller, without ZooKeeper (KRaft)."""
    folder = processes.folder / "kafka"
    folder.mkdir()
    if not (home := os.environ.get("KAFKA_HOME")) or not shutil.which("java"):
        raise Failure("Kafka is missing: install Java and set KAFKA_HOME, or set KAFKA_BROKERS.")
    port, controller = free_port(), free_port()
    settings, logging = folder / "server.properties", folder / "log4j2.properties"
    settings.write_text(KAFKA_SETTINGS.format(port=port, controller=controller, folder=folder))
    logging.write_text(LOG_SETTINGS)
    cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    # Kafka starts with half the work when Java compiles less. A broker that runs for days is better without.
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    java = ["java", "-Xmx512m", *quick, f"-Dlog4j2.configurationFile={logging}", "-cp", f"{home}/libs/*"]
    format_log = ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(settings)]
    await processes.run("kafka's formatter", *java, *format_log)
    command = [*java, "kafka.Kafka", str(settings)]
    service = Service("kafka", command, partial(listens, port), STAGE_OF_STORES, shown=False)
    await processes.start(service)
    return f"127.0.0.1:{port}"


async def postgresql(processes: Processes) -> str:
    """A cluster of this run. Its server refuses to be root, and is then the user `postgres`."""
    initdb, postgres, pg_isready = map(postgresql_program, ("initdb", "postgres", "pg_isready"))
    folder, password = processes.folder / "postgresql", processes.folder / "password"
    folder.mkdir(mode=0o700)
    password.write_text(secrets.token_hex(16))
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        for each in (folder, password):
            shutil.chown(each, user, user)
    login = ["--username=learnflow", f"--pwfile={password}", "--auth=scram-sha-256"]
    create = [initdb, "--no-sync", "--encoding=UTF8", "--locale=C", *login, f"--pgdata={folder}"]
    await processes.run("initdb", *create, user=user)
    port = free_port()
    options = ["-p", str(port), "-h", "127.0.0.1", "-c", "unix_socket_directories="]
    command = [postgres, "-D", str(folder), *options]

    async def ready() -> bool:
        asking = await asyncio.create_subprocess_exec(
            pg_isready, "--quiet", "--host=127.0.0.1", f"--port={port}"
        )
        return await asking.wait() == 0

    await processes.start(Service("postgresql", command, ready, STAGE_OF_STORES, user=user, shown=False))
    return f"postgresql://learnflow:{password.read_text()}@127.0.0.1:{port}/postgres"


async def placement(processes: Processes) -> str:
    """Knows which sidecar has which actors; workflows are actors."""
    raft = f"--initial-cluster=dapr-placement-0=127.0.0.1:{free_port()}"
    return await dapr_service(processes, "placement", [raft])


async def scheduler(processes: Processes) -> str:
    """Stores the timers of workflows in an etcd of its own."""
    peers = f"dapr-scheduler-server-0=http://127.0.0.1:{free_port()}"
    etcd = [f"--etcd-data-dir={processes.folder}/scheduler", f"--etcd-client-port={free_port()}"]
    return await dapr_service(processes, "scheduler", [*etcd, f"--etcd-initial-cluster={peers}"])


async def dapr_service(processes: Processes, name: str, options: list[str]) -> str:
    port, health = free_port(), free_port()
    addresses = [f"--port={port}", "--listen-address=127.0.0.1", f"--healthz-port={health}"]
    addresses += ["--healthz-listen-address=127.0.0.1"]
    addresses += [f"--metrics-port={free_port()}", "--metrics-listen-address=127.0.0.1"]
    command = [dapr_program(name), *addresses, *options]
    healthy = partial(answers, f"http://127.0.0.1:{health}/healthz")
    await processes.start(Service(name, command, healthy, STAGE_OF_DAPR, shown=False))
    return f"127.0.0.1:{port}"


def postgresql_program(name: str) -> str:
    """The path of one of PostgreSQL's programs; Debian has them in no search path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    path = os.pathsep.join([os.environ["PATH"], *map(str, reversed(debian))])
    if program := shutil.which(name, path=path):
        return program
    raise Failure(f"PostgreSQL's {name} is missing: install PostgreSQL, or set POSTGRES_URL.")


def dapr_program(name: str) -> str:
    """The path of one of Dapr's programs, where `dapr init` puts them."""
    program = Path(os.environ.get("DAPR_RUNTIME_PATH") or Path.home()) / ".dapr" / "bin" / name
    if not program.exists():
        raise Failure(f"{program} is missing: run `dapr init --slim`, or `make engine dapr`.")
    return str(program)

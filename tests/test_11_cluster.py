"""Lesson 11 on a real cluster: pods are updated, killed, drained and scaled while callers use the agent."""

import asyncio
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from support.research import ask, unique_question
from support.under_load import assert_nobody_noticed, under_load

from course.clients.load import LONG, numbered_question, send_at_constant_rate
from course.clients.readers import ReceivedEvents, count_missing_or_duplicate, new_client, read, stored
from course.containers.cluster import FOLDER, Cluster, bare_pod, find, render
from course.containers.installations import Installation
from course.engines.kubernetes import FOLDER as NODE_FOLDER
from course.engines.kubernetes import RUN, TOOLS
from course.polling import until

pytestmark = [pytest.mark.kubernetes, pytest.mark.serial, pytest.mark.timeout(600)]
ABSENT = "research-agent:does-not-exist"


@pytest.fixture
def running(installation: Installation) -> Installation:
    """The installation, as version 2.0.0, with two ready agents."""
    if installation.changed:
        installation.apply()
        installation.wait_ready("deployment/agent")
    installation.wait(lambda: len(installation.ready_agents()) == 2, "two agents are ready")
    assert until(lambda: version(installation) == "2.0.0", 60), "The proxy does not lead to version 2.0.0."
    return installation


def version(installation: Installation) -> str:
    try:
        reply = httpx2.get(f"{installation.url}/health")
    except httpx2.TransportError as error:
        return repr(error)
    return str(reply.json()["version"]) if reply.status_code == 200 else reply.text


# --- First contact ---


def test_a_pod_by_hand_lives_is_not_ready_and_stays_gone(running: Installation, lesson_root: Path) -> None:
    manifest = (lesson_root / FOLDER / "first-pod.yaml").read_text()
    running.kubectl("apply", "-f", "-", stdin=manifest.replace("research-agent:2.0.0", running.images[0]))

    def state() -> tuple[bool, bool]:
        found = running.json("pod", "first")["status"].get("containerStatuses", [{}])[0]
        return "running" in found.get("state", {}), found.get("ready", True)

    running.wait(lambda: state() == (True, False), "the pod by hand runs, and is not ready")
    running.kubectl("delete", "pod", "first", "--grace-period=1")
    left = [pod["metadata"]["name"] for pod in running.json("pods", "--selector=app=first")["items"]]
    assert left == [], f"The pod by hand was deleted, and there are still pods with its label: {left}"


def test_the_smoke_job_passes_inside_the_cluster(running: Installation) -> None:
    folder = running.folder / "smoke"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    image, _, tag = running.images[0].partition(":")
    kustomization |= {
        "namespace": running.namespace,
        "images": [{"name": "research-agent", "newName": image, "newTag": tag}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    running.kubectl("apply", "-k", str(folder))
    running.wait(
        lambda: (
            {"Complete", "Failed"}
            & {c["type"] for c in running.json("job", "smoke")["status"].get("conditions", [])}
        ),
        "the smoke Job ends",
    )
    log = running.kubectl("logs", "job/smoke")
    assert re.search(r"ready: True\nanswered: .+\nstreamed: \d+ events", log), f"The smoke Job fails: {log}"


# --- Pod Security ---


def test_every_pod_of_the_lesson_is_admitted(cluster: Cluster, lesson_root: Path, tmp_path: Path) -> None:
    made = Installation(cluster, lesson_root, tmp_path, ("agent:1", "model:1", "agent:2"))
    manifests = [*render(made.write()), *render(made.folder / "smoke")]
    try:
        made.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(find(manifests, "Namespace", made.namespace)))
        for each in manifests:
            if "template" not in each.get("spec", {}):
                continue
            name, spec = each["metadata"]["name"], each["spec"]["template"]["spec"]
            claims = [claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])]
            spec["volumes"] = [*spec.get("volumes", []), *({"name": c, "emptyDir": {}} for c in claims)]
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"try-{name}"}, "spec": spec}
            done = made.try_kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))
            assert done.returncode == 0, f"Pod Security refuses the pod of {name}: {reason(done)}"
    finally:
        made.remove()


def test_a_pod_that_runs_as_root_is_refused(running: Installation) -> None:
    root: dict[str, Any] = {"runAsNonRoot": False, "runAsUser": 0}
    pod = yaml.safe_dump(bare_pod("root", running.images[0], "root", **root))
    done = running.try_kubectl("create", "--dry-run=server", "-f", "-", stdin=pod)
    assert "violates PodSecurity" in done.stderr, "The namespace admits a pod that runs as root."


def reason(done: subprocess.CompletedProcess[str]) -> str:
    found = re.search(r'violates PodSecurity "restricted:latest": (.*)', done.stderr)
    return found[1] if found else done.stderr


# --- Network policies, from inside ---

TRY = """
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        print(place, "open")
    except OSError as error:
        print(place, "closed", error)
"""


def reach(installation: Installation, pod: str, *places: str) -> dict[str, bool]:
    """Which of these HOST:PORT a pod can connect to."""
    lines = installation.kubectl("exec", pod, "--", "python", "-c", TRY, *places).splitlines()
    return {line.split()[0]: line.split()[1] == "open" for line in lines}


def test_only_the_proxy_reaches_the_agent(running: Installation) -> None:
    places = ("agent:8000", "agent-alive:8000", "model:9000", "redis:6379")
    address = running.pods("agent")[0]["status"]["podIP"]
    with running.stranger() as stranger:
        running.wait(lambda: reach(running, stranger, "proxy:80")["proxy:80"], "the stranger is let out")
        found = reach(running, stranger, *places, f"{address}:8000")
    assert not any(found.values()), (
        f"Another pod of the namespace reaches {', '.join(place for place in found if found[place])}: "
        "no policy forbids it."
    )
    assert httpx2.get(f"{running.url}/health").status_code == 200, "The proxy does not reach the agent."


def test_the_agent_reaches_its_model_and_redis_and_nothing_else(running: Installation) -> None:
    agent, other = (pod["metadata"]["name"] for pod in running.pods("agent")[:2])
    address = running.json("pod", other)["status"]["podIP"]
    api = running.cluster.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
    found = reach(running, agent, "model:9000", "redis:6379", f"{address}:8000", f"{api}:443", "proxy:80")
    assert found.pop("model:9000") and found.pop("redis:6379"), "The agent cannot reach what it needs."
    assert not any(found.values()), f"An intruder in the agent reaches {found}."


# --- Updates ---


async def test_an_update_and_its_rollback_under_load_fail_no_request(running: Installation) -> None:
    old = running.ready_agents()

    def shows(wanted: str) -> Callable[[], bool]:
        """Whether the proxy leads to that version; for a moment it still leads to pods that drain."""
        return lambda: version(running) == wanted

    async def there_and_back() -> None:
        await asyncio.to_thread(running.apply, "2.1.0", running.images[2])
        await asyncio.to_thread(running.wait_ready, "deployment/agent")
        assert await asyncio.to_thread(until, shows("2.1.0"), 60), "The old version still answers."
        assert not set(old) & set(running.ready_agents()), "After the update an old replica is still there."
        await asyncio.to_thread(running.kubectl, "rollout", "undo", "deployment/agent")
        await asyncio.to_thread(running.wait_ready, "deployment/agent")
        assert await asyncio.to_thread(until, shows("2.0.0"), 60), "The new version still answers."

    assert_nobody_noticed(*await under_load(running.url, there_and_back, readers=4))


def test_an_image_that_does_not_exist_takes_no_traffic(running: Installation) -> None:
    before = set(running.ready_agents())
    running.changed = True
    running.kubectl("set", "image", "deployment/agent", f"agent={ABSENT}")

    def waiting() -> str:
        states = [s for pod in running.pods("agent") for s in pod["status"].get("containerStatuses", [])]
        return " ".join(each["state"].get("waiting", {}).get("reason", "") for each in states)

    running.wait(lambda: re.search("ErrImage|ImagePullBackOff", waiting()), "the image cannot be pulled")
    assert set(running.ready_agents()) == before, "A replica was stopped for an image that does not exist."
    status = ask(running.url, unique_question("What is a container?")).status_code
    assert status == 200, (
        f"An update cannot get its image, and a question is answered with {status}, not 200."
    )
    running.kubectl("rollout", "undo", "deployment/agent")
    running.wait_ready("deployment/agent")
    assert set(running.ready_agents()) == before, "The rollback replaced replicas that were well."


def test_a_version_that_is_never_ready_takes_no_traffic(running: Installation) -> None:
    before = set(running.ready_agents())
    running.apply("3.0.0", OPENAI_BASE_URL="http://model:9999/v1")

    def started() -> bool:
        new = [pod for pod in running.pods("agent") if pod["metadata"]["name"] not in before]
        return any(s.get("started") for pod in new for s in pod["status"].get("containerStatuses", []))

    running.wait(started, "the new version runs")
    shown = {version(running) for _ in range(30)}
    assert shown == {"2.0.0"}, f"A version that is not ready takes traffic: {shown}."
    assert before <= set(running.ready_agents()), "A replica was stopped for a version that is never ready."
    running.kubectl("rollout", "undo", "deployment/agent")
    running.wait_ready("deployment/agent")
    assert version(running) == "2.0.0", "After the rollback the agent has another version than before."


async def test_a_new_key_reaches_all_pods_and_fails_no_request(running: Installation) -> None:
    read_key = "print(open('/run/secrets/openai_api_key').read())"

    async def rotate() -> None:
        await asyncio.to_thread(running.apply, key="rotated")
        await asyncio.to_thread(running.wait_ready, "deployment/agent")

    assert_nobody_noticed(*await under_load(running.url, rotate, readers=2))
    for pod in running.ready_agents():
        assert running.python(pod, read_key) == "rotated", "A replica still has the old key."
        assert "rotated" not in running.kubectl("exec", pod, "--", "env"), "The key is in the environment."


# --- Faults ---


async def test_streams_of_a_killed_pod_are_complete_at_another(running: Installation) -> None:
    readings = [ReceivedEvents() for _ in range(6)]
    async with new_client() as client:
        async with asyncio.TaskGroup() as group:
            for seen in readings:
                group.create_task(read(client, running.url, unique_question(LONG), seen))
            await asyncio.to_thread(until, lambda: all(len(seen.ids) > 5 for seen in readings), 60)
            victim = running.ready_agents()[0]
            await asyncio.to_thread(running.kubectl, "delete", "pod", victim, "--force", "--grace-period=0")
        for seen in readings:
            assert seen.types[-1] == "done", f"A stream ended with {seen.types[-1]}: {seen.failed}"
            assert count_missing_or_duplicate(seen, await stored(client, running.url, seen)) == 0, (
                "A reader did not see each event once."
            )
    assert any(seen.cuts for seen in readings), "No stream was at the pod that was killed."
    running.wait(lambda: len(running.ready_agents()) == 2, "the pod is replaced")


def test_a_leaking_pod_is_killed_and_replaced_and_others_answer(running: Installation) -> None:
    pod = running.ready_agents()[0]
    # Twenty processes take 32 MB each. The kernel kills the agent first, because its score is the highest.
    leak = """
import os, signal
open("/proc/1/oom_score_adj", "w").write("1000")
for _ in range(20):
    if os.fork() == 0:
        leak = b"x" * 2**25
        break
signal.pause()
"""
    done = running.try_kubectl("exec", pod, "--", "python", "-c", leak)
    assert done.returncode != 0, "A container takes more memory than its limit."

    def last_state() -> dict[str, Any]:
        status: dict[str, Any] = running.json("pod", pod)["status"]["containerStatuses"][0]
        ended: dict[str, Any] = status.get("lastState", {}).get("terminated", {})
        return ended

    ended = running.wait(last_state, "the container has ended")
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137), f"It ended otherwise: {ended}"
    status = ask(running.url, unique_question("What is a container?")).status_code
    assert status == 200, f"One replica was OOM-killed, and a question is answered with {status}, not 200."
    running.wait(lambda: pod in running.ready_agents(), "the container is started again, in the same pod")


def test_a_drain_leaves_one_replica(running: Installation) -> None:
    node = running.pods("agent")[0]["spec"]["nodeName"]
    selected = f"--pod-selector=app=agent,pod-template-hash={hash_of(running)}"
    drain = ("drain", node, selected, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=10s")
    try:
        done = running.cluster.try_kubectl(*drain)
        assert done.returncode != 0, "The drain took every replica."
        assert "disruption budget" in done.stderr, f"Something else stopped the drain: {done.stderr}"
        assert len(running.ready_agents()) == 1, "The drain did not leave one replica."
        status = ask(running.url, unique_question("What is a container?")).status_code
        assert status == 200, (
            f"A drain leaves one replica, and a question is answered with {status}, not 200."
        )
    finally:
        running.cluster.kubectl("uncordon", node)
    running.wait_ready("deployment/agent")


def hash_of(installation: Installation) -> str:
    return str(installation.pods("agent")[0]["metadata"]["labels"]["pod-template-hash"])


def test_pods_serve_while_the_container_runtime_restarts(running: Installation, cluster: Cluster) -> None:
    if not cluster.ours:
        pytest.skip("only the course's own node has a container runtime that the test may kill")

    def restarts() -> dict[str, int]:
        pods = running.pods("agent")
        return {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["restartCount"] for p in pods}

    before, ready = restarts(), running.ready_agents()
    pid = int((RUN / "pids" / "containerd").read_text())
    subprocess.run(["kill", "-9", str(pid)], check=True)
    try:
        for _ in range(10):
            assert ask(running.url, unique_question("What is a container?")).status_code == 200, (
                "Without a container runtime the pods that run do not answer."
            )
    finally:
        subprocess.run(
            [TOOLS / "service.sh", "containerd"],
            env={"COURSE_KUBERNETES": str(NODE_FOLDER), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            check=True,
        )
    with running.stranger():  # the runtime starts pods again
        running.wait(lambda: running.ready_agents() == ready, "the same pods are ready")
    assert restarts() == before, "With the container runtime, containers were started again."


# --- Scaling ---


async def test_the_autoscaler_adds_replicas_under_load_and_takes_them_away(running: Installation) -> None:
    def replicas() -> int:
        return int(running.json("deployment", "agent")["spec"]["replicas"])

    if not running.cluster.ours and running.cluster.try_kubectl("top", "nodes").returncode:
        pytest.skip("this cluster has no metrics-server, so its autoscaler sees no load")
    assert replicas() == 2, f"There are {replicas()} replicas before the load, not two."
    stop = asyncio.Event()
    async with new_client() as client, asyncio.TaskGroup() as group:
        asking = group.create_task(
            send_at_constant_rate(client, running.url, 8, numbered_question, stop, keys=True)
        )
        try:
            more = await asyncio.to_thread(until, lambda: replicas() > 2, 120, 1)
        finally:
            stop.set()
    assert more, "Under load there are no more replicas."
    assert asking.result().sent > 0, "No request was sent, so this test proves nothing."
    running.wait(lambda: replicas() == 2, "the replicas are taken away again")

"""Lesson 10's agents on a cluster: pods with a sidecar that is written out, and Redis."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engines import require

from course.containers import images
from course.containers.cluster import Cluster
from course.containers.installations import DAPR_AGENTS, DaprInstallation
from course.engines.dapr import pinned_version
from course.engines.docker import docker as run_docker

pytestmark = [pytest.mark.kubernetes, pytest.mark.serial, pytest.mark.timeout(600)]
APP, SIDECAR = "progress-agent", f"daprio/daprd:{pinned_version()}"

# Run in the agent's container, which the sidecar shares a network with.
REQUEST = """
import sys, httpx2
path, kind, body = sys.argv[1:]
url, headers = "http://127.0.0.1:3500/v1.0" + path, {"content-type": kind}
answer = httpx2.post(url, content=body, headers=headers, timeout=30)
print(answer.status_code, answer.text)
"""


@pytest.fixture(scope="session")
def agents(
    docker: None, cluster: Cluster, lesson_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DaprInstallation]:
    """The agents of the lesson under test, with their sidecars, applied and ready."""
    require("dapr")
    tag = uuid.uuid4().hex[:8]
    own = {name: f"{name}-agent:{tag}" for name in DAPR_AGENTS}
    made = DaprInstallation(cluster, lesson_root, tmp_path_factory.mktemp("dapr"), own)
    for name, image in own.items():
        images.build(images.Image(image, name), root=made.folder / "dapr")
    if run_docker("image", "inspect", SIDECAR).returncode:
        assert run_docker("pull", SIDECAR, seconds=300).returncode == 0, f"{SIDECAR} cannot be pulled."
    cluster.load(*own.values(), SIDECAR, "redis:8")
    try:
        made.apply()
        made.wait_for_rollouts("statefulset/redis", *(f"deployment/{name}-agent" for name in own))
        made.wait(lambda: len(made.ready_pods(APP)) == 2, "the autoscaler has two agents")
        yield made
    finally:
        made.remove()
        run_docker("rmi", "--force", *own.values())


def post(
    agents: DaprInstallation, path: str, body: dict[str, Any], kind: str = "application/json"
) -> tuple[int, str]:
    """Ask the sidecar of a pod, from the container beside it."""
    command = ("exec", f"deployment/{APP}", "--container=fastapi", "--", "python", "-c", REQUEST)
    status, _, text = agents.kubectl(*command, path, kind, json.dumps(body)).partition(" ")
    return int(status), text


def publish(
    agents: DaprInstallation, event_id: str, data: dict[str, Any], topic: str = "progress.requests"
) -> None:
    event: dict[str, Any] = {"specversion": "1.0", "id": event_id, "source": "test", "type": "attempt"}
    event |= {"datacontenttype": "application/json", "data": data}
    path = f"/publish/pubsub/{topic}"
    status, text = post(agents, path, event, "application/cloudevents+json")
    assert status == 204, f"Nothing can be published: {text}"


def process(agents: DaprInstallation, user: str, **context: Any) -> dict[str, Any]:
    """What the agent answers to a request that goes through a sidecar."""
    body = {"user_id": user, "query": "", "context": context}
    status, text = post(agents, f"/invoke/{APP}/method/process", body)
    assert status == 200, f"A request through the sidecar does not reach the agent: {text}"
    answer: dict[str, Any] = json.loads(text)
    return answer


def test_a_request_through_the_sidecar_reaches_the_agent(agents: DaprInstallation) -> None:
    user = uuid.uuid4().hex
    agent = process(agents, user, module="loops", score=1)["agent"]
    assert agent == "progress", f"A request to the agent 'progress' is answered by {agent!r}."
    topics = process(agents, user)["result"]["topics"]
    assert topics.get("loops", {}).get("attempts") == 1, (
        f"A learner has made one attempt at the topic 'loops', and the agent knows these topics: {topics}"
    )


def test_a_published_event_is_delivered(agents: DaprInstallation) -> None:
    user = uuid.uuid4().hex
    publish(agents, uuid.uuid4().hex, {"user_id": user, "context": {"module": "lists", "score": 1}})
    agents.wait(lambda: "lists" in process(agents, user)["result"]["topics"], "the event is delivered")


def topic_of(agents: DaprInstallation, topic: str) -> str:
    """All events of a topic, as Redis has them."""
    return agents.kubectl("exec", "redis-0", "--", "redis-cli", "xrange", topic, "-", "+")


def test_an_event_that_no_agent_can_read_is_with_the_dead_letters(agents: DaprInstallation) -> None:
    mark = uuid.uuid4().hex
    publish(agents, mark, {"user_id": f"../{mark}"})
    agents.wait(
        lambda: mark in topic_of(agents, "learnflow.dead-letters"), "the event is with the dead letters"
    )


def test_triage_sends_a_traceback_to_debug_which_answers_it_once(agents: DaprInstallation) -> None:
    user = uuid.uuid4().hex
    trace = "Traceback (most recent call last):\n  File \"a.py\", line 3, in <module>\nKeyError: 'colour'"
    publish(agents, uuid.uuid4().hex, {"user_id": user, "query": trace}, "learning.requests")

    def messages(topic: str) -> list[str]:
        return [
            line for line in topic_of(agents, topic).splitlines() if user in line and "specversion" in line
        ]

    def unanswered(topic: str, app: str) -> str:
        read = ("redis-cli", "xpending", topic, app)
        return agents.kubectl("exec", "redis-0", "--", *read).split()[0]

    agents.wait(lambda: messages("debug.responses"), "debug answers what triage has sent it")
    for topic, app in (("learning.requests", "triage-agent"), ("debug.requests", "debug-agent")):
        agents.wait(lambda t=topic, a=app: unanswered(t, a) == "0", f"{app} has no event left")  # type: ignore[misc]
    assert len(messages("debug.requests")) == 1, "Triage has sent one question several times."
    answers = [json.loads(line)["data"] for line in messages("debug.responses")]
    assert [each["root_cause"]["type"] for each in answers] == ["KeyError"], (
        "The answer does not name the error, or there are several."
    )


def test_a_pod_whose_sidecar_has_no_store_is_not_ready(agents: DaprInstallation) -> None:
    before = set(agents.ready_pods(APP))
    components = agents.folder / "dapr" / "components.yaml"
    right = components.read_text()
    components.write_text(right.replace("redis:6379", "elsewhere:6379"))
    try:
        agents.apply()

        def log_of_new_sidecar() -> str:
            names = {pod["metadata"]["name"] for pod in agents.pods(APP)} - before
            return "".join(agents.try_kubectl("logs", name, "--container=daprd").stdout for name in names)

        agents.wait(lambda: "elsewhere" in log_of_new_sidecar(), "the log names what cannot be reached")
        assert set(agents.ready_pods(APP)) == before, (
            "A pod is ready whose sidecar is not, or one that works was stopped for it."
        )
    finally:
        components.write_text(right)
        agents.apply()
    agents.wait_for_rollouts(*(f"deployment/{name}-agent" for name in DAPR_AGENTS))
    lost = before - set(agents.ready_pods(APP))
    assert not lost, f"The store's right address is back, and pods that were ready before are not: {lost}"


def test_only_the_frontend_reaches_the_agent(agents: DaprInstallation) -> None:
    address = agents.pods(APP)[0]["status"]["podIP"]
    api = agents.cluster.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")

    def reaches(pod: str, host: str, port: int) -> bool:
        code = f"""
import socket
try:
    socket.create_connection(("{host}", {port}), timeout=3).close()
    print("open")
except OSError:
    print("closed")
"""
        return agents.python(pod, code) == "open"

    with agents.stranger("other") as other, agents.stranger("frontend") as frontend:
        agents.wait(lambda: reaches(frontend, address, 5000), "the frontend reaches the agent")
        agents.wait(lambda: reaches(other, api, 443), "the other pod is let out")
        assert not reaches(other, address, 5000), "Another pod than the frontend reaches the agent."
        for pod in (other, frontend):
            assert not reaches(pod, address, 50002), "A pod without a sidecar reaches a sidecar."
            assert not reaches(pod, "redis", 6379), "A pod without a sidecar reads what learners have done."

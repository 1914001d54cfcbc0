"""The open exercise 11-canary: one pod of the next version, behind the same Service as the agent's own.

Nothing is broken. `overlays/canary` makes what `overlays/local` makes, and the Deployment `agent-canary` with
one pod of version 2.1.0. When that Deployment is deleted, everything is as before.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from support.engines import require
from support.under_load import assert_nobody_noticed, under_load

from course.containers.cluster import FOLDER, Manifests, find, render
from course.containers.installations import Installation
from course.polling import until

pytestmark = pytest.mark.kubernetes
CANARY = "agent-canary"
ASK = """
import json, urllib.request
body = json.dumps({"query": "What is a canary release?"}).encode()
url, headers = "http://127.0.0.1:8000/v1/research", {"Content-Type": "application/json"}
request = urllib.request.Request(url, body, headers)
print(urllib.request.urlopen(request, timeout=60).status)
"""


@pytest.fixture(autouse=True)
def kubectl() -> None:
    """kubectl, which has Kustomize built in."""
    require("kubernetes")


def with_canary(root: Path) -> Manifests:
    """What the overlay makes, once it is there."""
    folder = root / FOLDER / "overlays" / "canary"
    if not folder.exists():
        pytest.fail("There is no overlay canary.")
    return render(folder)


def labels(manifests: Manifests, name: str) -> dict[str, str]:
    """The labels of the pods of a Deployment."""
    found: dict[str, str] = find(manifests, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
    return found


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector, with its expressions, selects a pod with these labels."""
    wanted = selector.get("matchLabels") or {}
    return wanted.items() <= labels.items() and all(
        {
            "In": labels.get(each["key"]) in each.get("values", ()),
            "NotIn": labels.get(each["key"]) not in each.get("values", ()),
            "Exists": each["key"] in labels,
            "DoesNotExist": each["key"] not in labels,
        }[each["operator"]]
        for each in selector.get("matchExpressions") or ()
    )


# --- What the overlay makes ---


def test_the_overlay_adds_one_deployment_and_changes_nothing_else(lesson_root: Path) -> None:
    canary = with_canary(lesson_root)
    local = render(lesson_root / FOLDER / "overlays" / "local")
    for each in local:
        name = f"{each['kind']} {each['metadata']['name']}"
        assert each in canary, f"With the canary, {name} is another one than in overlays/local."
    added = [(each["kind"], each["metadata"]["name"]) for each in canary if each not in local]
    assert added == [("Deployment", CANARY)], (
        f"Beside what overlays/local makes there is not the Deployment {CANARY} alone, but {added}: "
        "what else is there stays when it is deleted."
    )
    replicas = find(canary, "Deployment", CANARY)["spec"].get("replicas", 1)
    assert replicas == 1, f"There is not one canary, but {replicas}."


def test_the_canary_is_the_agent_in_its_next_version(lesson_root: Path) -> None:
    canary = with_canary(lesson_root)
    agent, new = (find(canary, "Deployment", name)["spec"]["template"]["spec"] for name in ("agent", CANARY))
    (old_container,), (container,) = agent["containers"], new["containers"]
    assert container["image"] == old_container["image"].replace(":2.0.0", ":2.1.0"), (
        f"The canary's image is {container['image']}, and not the agent's in version 2.1.0."
    )
    assert container.get("env") == [{"name": "APP_VERSION", "value": "2.1.0"}], (
        "The canary's `env` is not its APP_VERSION alone: /health shows another version, or settings differ."
    )
    for key in sorted((old_container.keys() | container.keys()) - {"image", "env"}):
        assert container.get(key) == old_container.get(key), f"The canary's {key} are not the agent's."
    for key in sorted((agent.keys() | new.keys()) - {"containers", "topologySpreadConstraints"}):
        assert new.get(key) == agent.get(key), f"The canary's {key} are not the agent's."


# --- Whose pod it is ---


def test_each_service_of_the_agent_leads_to_the_canary_as_well(lesson_root: Path) -> None:
    canary = with_canary(lesson_root)
    for name in ("agent", "agent-alive"):
        selector = {"matchLabels": find(canary, "Service", name)["spec"]["selector"]}
        assert selects(selector, labels(canary, "agent")), f"The Service {name} does not lead to the agent."
        assert selects(selector, labels(canary, CANARY)), (
            f"The Service {name} does not select the canary's pod: no request reaches it."
        )


def test_the_agents_policies_hold_for_the_canary(lesson_root: Path) -> None:
    canary = with_canary(lesson_root)
    for policy in (each for each in canary if each["kind"] == "NetworkPolicy"):
        for selector in selectors(policy["spec"]):
            assert selects(selector, labels(canary, CANARY)) == selects(selector, labels(canary, "agent")), (
                f"The policy {policy['metadata']['name']} treats the agent and the canary differently."
            )


def selectors(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods of this namespace that a network policy names: those it is for, and those it lets through."""
    yield spec["podSelector"]
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction, ()):
            yield from (
                peer["podSelector"]
                for peer in rule.get(peers, ())
                if "podSelector" in peer and "namespaceSelector" not in peer
            )


def test_neither_deployment_selects_the_others_pods(lesson_root: Path) -> None:
    canary = with_canary(lesson_root)
    agent, new = (find(canary, "Deployment", name)["spec"]["selector"] for name in ("agent", CANARY))
    assert not selects(agent, labels(canary, CANARY)), (
        "The selector of the Deployment agent matches the canary's pod, and the autoscaler counts its load."
    )
    assert not selects(new, labels(canary, "agent")), (
        f"The selector of the Deployment {CANARY} matches the agent's pods."
    )


def test_a_drain_leaves_an_agent_and_not_the_canary_alone(lesson_root: Path) -> None:
    canary = with_canary(lesson_root)
    selector = find(canary, "PodDisruptionBudget", "agent")["spec"]["selector"]
    assert selects(selector, labels(canary, "agent")), "The budget does not protect the agents."
    assert not selects(selector, labels(canary, CANARY)), (
        "The budget counts the canary: a drain may take both agents, and leave the new version alone."
    )


# --- On a cluster ---


@pytest.mark.serial
@pytest.mark.timeout(600)
async def test_both_versions_answer_until_the_canary_is_deleted(
    lesson_root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_canary(lesson_root)
    installation: Installation = request.getfixturevalue("installation")  # only now: it starts a cluster
    monkeypatch.setattr(installation, "replicas", (2, 2))  # the load must not add a third agent
    installation.apply()
    installation.wait_ready("deployment/agent")
    installation.wait(lambda: len(counted_pods(installation)) == 2, "two agents run")
    before = counted_pods(installation)
    monkeypatch.setattr(installation, "overlay", "canary")

    def begin_and_delete() -> None:
        apply_canary(installation)
        try:
            installation.wait_for_rollouts(f"deployment/{CANARY}")
            until(lambda: len(versions(installation)) == 2, 30)
            assert versions(installation) == {"2.0.0", "2.1.0"}, "The proxy does not lead to both versions."
            answer = installation.python(f"deployment/{CANARY}", ASK)
            assert answer == "200", "The canary cannot answer a question."
            assert counted_pods(installation) == before, "The Deployment agent has other pods than before."
        finally:
            installation.kubectl("delete", f"deployment/{CANARY}")
        installation.wait(lambda: set(installation.ready_agents()) == before, "only the agents are ready")
        until(lambda: len(versions(installation)) == 1, 30)
        assert versions(installation) == {"2.0.0"}, "The canary is deleted, and still answers."

    assert_nobody_noticed(
        *await under_load(installation.url, lambda: asyncio.to_thread(begin_and_delete), readers=2)
    )
    assert counted_pods(installation) == before, "Not only the canary went, but an agent, too."


def apply_canary(installation: Installation) -> None:
    """Apply the overlay. In the cluster, the next version is an image with a name of its own."""
    manifests = render(installation.write())
    container = find(manifests, "Deployment", CANARY)["spec"]["template"]["spec"]["containers"][0]
    container["image"] = installation.images[2]
    installation.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))


def counted_pods(installation: Installation) -> set[str]:
    """The pods that the autoscaler takes for the agent's."""
    path = f"/apis/apps/v1/namespaces/{installation.namespace}/deployments/agent/scale"
    selector = json.loads(installation.cluster.kubectl("get", "--raw", path))["status"]["selector"]
    pods = installation.json("pods", f"--selector={selector}")["items"]
    return {pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}


def versions(installation: Installation) -> set[str]:
    """The versions that answer: of three pods, thirty requests hardly miss one."""
    return {httpx2.get(f"{installation.url}/health").json()["version"] for _ in range(30)}

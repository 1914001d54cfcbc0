"""Lesson 11's manifests: what Kustomize makes of them, and what their probes ask of a real agent."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.engines import require
from support.servers import Server, StartServer

from course.containers.cluster import FOLDER, Manifests, find, render
from course.containers.installations import copy_manifests, generate_dapr_agents
from course.engines.dapr import pinned_version
from course.paths import ROOT
from course.polling import until

pytestmark = pytest.mark.kubernetes
Rendered = Callable[[str], Manifests]
OVERLAYS = ("local", "production")
UNITS = {"": 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}


@pytest.fixture(autouse=True)
def kubectl() -> None:
    """kubectl, which has Kustomize built in."""
    require("kubernetes")


@pytest.fixture
def rendered(lesson_root: Path) -> Rendered:
    """A function that returns what an overlay of the lesson under test makes."""
    return lambda overlay: render(lesson_root / FOLDER / "overlays" / overlay)


@pytest.fixture
def local(rendered: Rendered) -> Manifests:
    return rendered("local")


@pytest.fixture
def production(rendered: Rendered) -> Manifests:
    return rendered("production")


def quantity(text: str) -> float:
    """A quantity such as 200m or 256Mi."""
    found = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", text)
    assert found and found[2] in UNITS, f"{text} is no quantity."
    return float(found[1]) * UNITS[found[2]]


def templates(manifests: Manifests) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the pod's spec of everything that makes pods."""
    for each in manifests:
        if "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def containers(manifests: Manifests) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, spec in templates(manifests):
        for container in spec["containers"]:
            yield name, container


def agent_container(manifests: Manifests) -> dict[str, Any]:
    container: dict[str, Any] = find(manifests, "Deployment", "agent")["spec"]["template"]["spec"][
        "containers"
    ][0]
    return container


def settings(manifests: Manifests) -> dict[str, str]:
    found: dict[str, str] = find(manifests, "ConfigMap", "agent-settings")["data"]
    return found


# --- Probes, asked of a real agent ---


@pytest.fixture
def agent(start_script: Callable[..., StartServer]) -> StartServer:
    """A function that starts the course's own research agent, beside a broken copy of the manifests, too."""
    folder = ROOT / "research-agent"
    return start_script(str(folder / "main.py"), str(folder))


@pytest.fixture
def server(agent: StartServer) -> Server:
    return agent()


@pytest.fixture
def without_model(agent: StartServer, closed_port: int) -> Server:
    """An agent whose model cannot be reached."""
    return agent(OPENAI_BASE_URL=f"http://127.0.0.1:{closed_port}/v1")


def probe(manifests: Manifests, name: str) -> str:
    """The path that a probe of the agent asks for."""
    assert f"{name}Probe" in agent_container(manifests), f"The agent has no {name} probe."
    path: str = agent_container(manifests)[f"{name}Probe"]["httpGet"]["path"]
    return path


@pytest.mark.parametrize("name", ["startup", "liveness"])
def test_an_agent_whose_model_is_down_is_not_restarted(
    local: Manifests, without_model: Server, name: str
) -> None:
    status = httpx2.get(without_model + probe(local, name)).status_code
    assert status == 200, (
        f"The {name} probe fails while the model is down: Kubernetes restarts every replica, "
        "which loses their runs and mends nothing."
    )


def test_an_agent_whose_model_is_down_is_not_ready(
    local: Manifests, server: Server, without_model: Server
) -> None:
    path = probe(local, "readiness")
    assert until(lambda: httpx2.get(server + path).status_code == 200, 20), (
        "The readiness probe fails although the model answers: no replica ever gets a request."
    )
    assert httpx2.get(without_model + path).status_code == 503, (
        "The readiness probe succeeds while the model is down: "
        "a version with a wrong address of its model is rolled out everywhere."
    )


# --- Stopping ---


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_keeps_serving_until_every_node_knows_that_it_stops(rendered: Rendered, overlay: str) -> None:
    delay = float(settings(rendered(overlay)).get("DRAIN_DELAY_SECONDS", "0"))
    assert delay >= 3, (
        f"The agent refuses requests {delay:g} s after it is told to stop, "
        "and nodes go on sending them for a few seconds."
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_grace_period_is_longer_than_delay_and_drain(rendered: Rendered, overlay: str) -> None:
    manifests = rendered(overlay)
    read = settings(manifests)
    needed = float(read.get("DRAIN_DELAY_SECONDS", "0")) + float(read.get("DRAIN_SECONDS", "20")) + 2
    pod = find(manifests, "Deployment", "agent")["spec"]["template"]["spec"]
    grace = pod.get("terminationGracePeriodSeconds", 30)
    assert grace > needed, (
        f"Kubernetes kills the agent after {grace} s, and it may need {needed:g} s to end its runs."
    )


def test_an_update_never_has_fewer_replicas_than_before(local: Manifests) -> None:
    for name in ("agent", "proxy"):
        rolling = find(local, "Deployment", name)["spec"].get("strategy", {}).get("rollingUpdate", {})
        assert rolling.get("maxUnavailable") == 0, (
            f"An update stops a replica of {name} before it has a new one."
        )


# --- Resources ---


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_requests_less_than_its_limits(rendered: Rendered, overlay: str) -> None:
    for name, container in containers(rendered(overlay)):
        resources = container.get("resources", {})
        for resource in ("cpu", "memory"):
            assert resource in resources.get("limits", {}), f"{name} can take all {resource} of its node."
            assert resource in resources.get("requests", {}), (
                f"{name} requests no {resource}, so that Kubernetes reserves its whole limit."
            )
            request_, limit = (quantity(str(resources[kind][resource])) for kind in ("requests", "limits"))
            assert request_ < limit, f"{name} requests its whole limit of {resource}."


def test_the_autoscaler_has_requests_to_compare_with(local: Manifests) -> None:
    scaler = find(local, "HorizontalPodAutoscaler", "agent")["spec"]
    replicas = (scaler.get("minReplicas"), scaler.get("maxReplicas"))
    assert replicas == (2, 10), (
        f"The autoscaler makes from {replicas[0]} to {replicas[1]} replicas, not from 2 to 10."
    )
    targets = [each.get("resource", {}).get("target", {}) for each in scaler.get("metrics", [])]
    assert targets and targets[0].get("averageUtilization") == 70, (
        "The autoscaler no longer compares the load with 70 % of the requested processor time."
    )
    deployment = find(local, scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"])["spec"]
    for container in deployment["template"]["spec"]["containers"]:
        assert "cpu" in container.get("resources", {}).get("requests", {}), (
            "The autoscaler's 70 % are of the requested processor time, and a container requests none."
        )
    assert "replicas" not in deployment, "Each `kubectl apply` sets the autoscaler's number of replicas back."


def test_memory_volumes_fit_into_the_memory_limit(local: Manifests) -> None:
    for name, spec in templates(local):
        for volume in spec.get("volumes", []):
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                size = quantity(volume["emptyDir"].get("sizeLimit", "1024Gi"))
                limit = quantity(spec["containers"][0]["resources"]["limits"]["memory"])
                assert size <= limit / 4, f"The volume {volume['name']} of {name} can fill its memory."


# --- Images, keys, versions ---


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_agents_image_has_a_version(rendered: Rendered, overlay: str) -> None:
    image = agent_container(rendered(overlay))["image"]
    name, _, tag = image.rpartition(":")
    assert name and tag != "latest", (
        f"The image {image} is another one after each build: an update does not start, and a rollback "
        "leads nowhere."
    )


def test_the_version_that_health_shows_is_the_images(local: Manifests) -> None:
    tag = agent_container(local)["image"].rpartition(":")[2]
    version = settings(local).get("APP_VERSION")
    assert version == tag, f"The image has the version {tag!r}, and the setting APP_VERSION is {version!r}."


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keys_are_files_and_in_no_environment(rendered: Rendered, overlay: str) -> None:
    manifests = rendered(overlay)
    for name, container in containers(manifests):
        sources = [each for each in container.get("envFrom", []) if "secretRef" in each]
        sources += [e for e in container.get("env", []) if "secretKeyRef" in e.get("valueFrom", {})]
        assert not sources, f"A key is in the environment of {name}, which every process there inherits."
    spec = find(manifests, "Deployment", "agent")["spec"]["template"]["spec"]
    secrets = [volume["name"] for volume in spec["volumes"] if "secret" in volume]
    mounted = {mount["name"]: mount["mountPath"] for mount in agent_container(manifests)["volumeMounts"]}
    assert [mounted.get(name) for name in secrets] == ["/run/secrets"], (
        "The agent finds no key in /run/secrets."
    )


def test_a_changed_setting_or_key_changes_the_pods(local: Manifests) -> None:
    pod = find(local, "Deployment", "agent")["spec"]["template"]["spec"]
    for kind, name in (
        ("ConfigMap", pod["containers"][0]["envFrom"][0]["configMapRef"]["name"]),
        ("Secret", next(v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v)),
    ):
        assert find(local, kind, name), f"The pods use a {kind} that is not there."
        assert re.search("-[0-9a-z]{10}$", name), f"A change of the {kind} {name} does not replace the pods."


# --- Hardening, for all pods ---


def assert_hardened(name: str, context: dict[str, Any]) -> None:
    """A container, by its security context."""
    assert context.get("readOnlyRootFilesystem") is True, f"An intruder can change the files of {name}."
    assert context.get("allowPrivilegeEscalation") is False, f"A process of {name} can gain privileges."
    capabilities = context.get("capabilities")
    assert capabilities == {"drop": ["ALL"]}, (
        f"The capabilities of {name} are {capabilities}: it has to drop all and to add none."
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_hardened(rendered: Rendered, overlay: str) -> None:
    manifests = rendered(overlay)
    for name, spec in templates(manifests):
        assert spec.get("automountServiceAccountToken") is False, f"{name} has a token for the API server."
        assert spec.get("enableServiceLinks") is False, f"Names of Services become settings of {name}."
        profile = spec["securityContext"].get("seccompProfile")
        assert profile == {"type": "RuntimeDefault"}, (
            f"The seccomp profile of {name} is {profile}, not the container runtime's default."
        )
    for name, container in containers(manifests):
        assert_hardened(name, container["securityContext"])


def test_replicas_are_spread_and_one_survives_a_drain(local: Manifests, production: Manifests) -> None:
    for manifests in (local, production):
        deployment = find(manifests, "Deployment", "agent")["spec"]
        keys = {each["topologyKey"] for each in deployment["template"]["spec"]["topologySpreadConstraints"]}
        assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}, (
            f"The keys that spread the replicas are {sorted(keys)}, not hostname and zone."
        )
        budget = find(manifests, "PodDisruptionBudget", "agent")["spec"]
        assert budget["selector"] == deployment["selector"], "The budget protects other pods than the agents."
        least = find(manifests, "HorizontalPodAutoscaler", "agent")["spec"]["minReplicas"]
        assert 1 <= budget["minAvailable"] < least, "No drain can ever end, or one can take all replicas."


def test_every_policy_selects_pods(local: Manifests, lesson_root: Path) -> None:
    """Of the lesson's own pods; whether traffic is let through, test_11_cluster.py tries."""
    smoke = render(lesson_root / FOLDER / "smoke")
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in [*local, *smoke]
        if "template" in each.get("spec", {})
    ]
    for policy in (each for each in local if each["kind"] == "NetworkPolicy"):
        wanted = policy["spec"]["podSelector"].get("matchLabels", {})
        assert any(wanted.items() <= each.items() for each in labels), (
            f"The policy {policy['metadata']['name']} selects no pod, so that it forbids nothing."
        )


def test_production_has_a_real_model_and_no_offline_one(production: Manifests) -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in production}
    left = {("Deployment", "model"), ("Service", "model"), ("NetworkPolicy", "model")} & names
    assert not left, f"Production has parts of the offline model: {sorted(left)}."
    url = settings(production)["OPENAI_BASE_URL"]
    assert url == "https://api.openai.com/v1", (
        f"Production asks the model at {url}, not at https://api.openai.com/v1."
    )
    egress = find(production, "NetworkPolicy", "agent")["spec"]["egress"]
    way_out = next(to["ipBlock"] for rule in egress for to in rule["to"] if "ipBlock" in to)
    assert "169.254.0.0/16" in way_out["except"], (
        "The agent can ask the cloud's metadata service for credentials."
    )
    assert not [each for each in production if each["kind"] == "Secret"], "A key is in the repository."


# --- The Dapr agent, whose own manifests are lesson 10's ---


def test_the_sidecar_is_hardened_and_is_what_lesson_10_runs(lesson_root: Path, tmp_path: Path) -> None:
    folder = copy_manifests(lesson_root, tmp_path)
    generate_dapr_agents(folder)
    manifests = render(folder / "dapr")
    pod = find(manifests, "Deployment", "progress-agent")["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    image, version = sidecar["image"], pinned_version()
    assert image == f"daprio/daprd:{version}", (
        f"The sidecar's image is {image}, not that of lesson 10's version, daprio/daprd:{version}."
    )
    assert sidecar["restartPolicy"] == "Always", "The agent waits for ever for its sidecar to end."
    requests = sidecar["resources"]["requests"]
    assert requests == {"cpu": "100m", "memory": "128Mi"}, (
        f"The sidecar requests {requests}, not 100m of processor time and 128Mi of memory."
    )
    assert pod.get("automountServiceAccountToken") is False and pod.get("enableServiceLinks") is False, (
        "The agent has a token for the API server, or names of Services become its settings."
    )
    for container in (sidecar, *pod["containers"]):
        assert_hardened(container["name"], container["securityContext"])
    addresses = find(manifests, "Service", "progress-agent-dapr")["spec"]
    assert addresses["selector"] == {"app": "progress-agent"}, "No other sidecar finds this one."

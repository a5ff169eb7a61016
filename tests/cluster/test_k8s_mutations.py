"""Each check can fail: manifests that are broken on purpose, and what is then said."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cluster import K8S, Cluster, RenderError, compose, render
from tests.support.cluster_checks import CHECKS, findings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.cluster import Object

    Change = Callable[[Cluster], Any]


@pytest.fixture(scope="module")
def whole() -> list[Object]:
    return [*render(K8S / "overlays" / "gpu"), *render(K8S / "train" / "nodes"), ROUTE, SCALED, MONITOR]


ROUTE: Object = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "candor"},
    "spec": {
        "parentRefs": [{"name": "gateway"}],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/classify"}}],
                "backendRefs": [{"name": "candor", "port": 80}],
                "timeouts": {"request": "35s"},
            }
        ],
    },
}
SCALED: Object = {
    "apiVersion": "keda.sh/v1alpha1",
    "kind": "ScaledObject",
    "metadata": {"name": "jobs"},
    "spec": {
        "scaleTargetRef": {"name": "candor-jobs"},
        "triggers": [{"type": "prometheus", "metadata": {"query": "sum(candor_queue_depth)", "threshold": "8"}}],
    },
}
MONITOR: Object = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "PodMonitor",
    "metadata": {"name": "candor"},
    "spec": {
        "selector": {"matchLabels": {"app.kubernetes.io/name": "candor", "app.kubernetes.io/component": "serve"}},
        "podMetricsEndpoints": [{"port": "metrics", "interval": "15s"}],
    },
}


def at(kind: str, name: str, *path: str | int) -> Callable[[Cluster], Any]:
    """What lies there in a cluster."""

    def find(cluster: Cluster) -> Any:
        found: Any = cluster.named(kind, name)
        for step in path:
            found = found[step]
        return found

    return find


def put(where: Callable[[Cluster], Any], key: str | int, value: object) -> Change:
    return lambda cluster: where(cluster).__setitem__(key, value)


def drop(where: Callable[[Cluster], Any], key: str | int) -> Change:
    return lambda cluster: where(cluster).__delitem__(key)


def without(kind: str, name: str) -> Change:
    return lambda cluster: cluster.objects.remove(cluster.named(kind, name))


def variable(name: str, value: str, deployment: str = "candor-serve") -> Change:
    """A variable more, which the last of a name wins."""
    return lambda cluster: container(deployment)(cluster)["env"].append({"name": name, "value": value})


def container(deployment: str = "candor-serve") -> Callable[[Cluster], Any]:
    return at("Deployment", deployment, "spec", "template", "spec", "containers", 0)


def pod(deployment: str = "candor-serve", *path: str | int) -> Callable[[Cluster], Any]:
    return at("Deployment", deployment, "spec", "template", "spec", *path)


def mount(deployment: str, path: str) -> Change:
    """A mount less."""

    def change(cluster: Cluster) -> None:
        mounts = container(deployment)(cluster)["volumeMounts"]
        mounts[:] = [item for item in mounts if item["mountPath"] != path]

    return change


SERVE_LABELS = {"app.kubernetes.io/name": "candor", "app.kubernetes.io/component": "server"}
BROKEN: dict[str, tuple[str, Change, str]] = {
    "field misspelt": ("schema", put(container(), "resourcs", {}), "resourcs"),
    "field misspelt in preStop": (
        "schema",
        put(pod("candor-serve", "containers", 0, "lifecycle"), "preStop", {"slep": {"seconds": 5}}),
        "slep",
    ),
    "number for a text": ("schema", put(at("ConfigMap", "", "data"), "X", 3), "3"),
    "field that a route lacks": ("schema", put(at("HTTPRoute", "candor", "spec"), "timeout", "5s"), "timeout"),
    "timeout in another form": (
        "schema",
        put(at("HTTPRoute", "candor", "spec", "rules", 0), "timeouts", {"request": "35 s"}),
        "35 s",
    ),
    "field that KEDA lacks": ("schema", put(at("ScaledObject", "jobs", "spec"), "minReplicas", 2), "minReplicas"),
    "field that a monitor lacks": ("schema", put(at("PodMonitor", "candor", "spec"), "sampelLimit", 2), "sampelLimit"),
    "kind that nobody knows": ("schema", put(at("Service", "candor"), "kind", "Servce"), "Servce"),
    "Service to no port": ("ports", put(at("Service", "candor", "spec", "ports", 0), "targetPort", "web"), "port web"),
    "monitor of no port": ("ports", put(at("PodMonitor", "candor", "spec", "podMetricsEndpoints", 0), "port", "stats"), "stats"),
    "probe of no port": ("probes", put(pod("candor-jobs", "containers", 0, "livenessProbe", "httpGet"), "port", "web"), "web"),
    "probe of no route": (
        "probes",
        put(pod("candor-serve", "containers", 0, "readinessProbe", "httpGet"), "path", "/ready"),
        "/ready",
    ),
    "probe that needs a key": (
        "probes",
        put(pod("candor-serve", "containers", 0, "readinessProbe", "httpGet"), "path", "/metrics"),
        "/metrics",
    ),
    "Service of nobody": ("selectors", put(at("Service", "candor", "spec"), "selector", SERVE_LABELS), "Service/candor"),
    "budget of nobody": (
        "selectors",
        put(at("PodDisruptionBudget", "candor-serve", "spec"), "selector", {"matchLabels": SERVE_LABELS}),
        "PodDisruptionBudget",
    ),
    "policy about nobody": (
        "selectors",
        put(at("NetworkPolicy", "jobs", "spec"), "podSelector", {"matchLabels": SERVE_LABELS}),
        "NetworkPolicy/jobs",
    ),
    "pods that are not the Deployment's": (
        "selectors",
        put(at("Deployment", "candor-serve", "spec", "template", "metadata"), "labels", SERVE_LABELS),
        "its own pods",
    ),
    "spread by other labels": (
        "selectors",
        put(pod("candor-serve", "topologySpreadConstraints", 0, "labelSelector"), "matchLabels", SERVE_LABELS),
        "spread",
    ),
    "setting that there is not": ("settings", variable("CANDOR_QUEUE_LIMITS", "4"), "did you mean CANDOR_QUEUE_LIMIT?"),
    "value that a setting refuses": ("settings", variable("CANDOR_DRAIN_S", "10s"), "CANDOR_DRAIN_S"),
    "no keys on an open port": ("settings", variable("CANDOR_KEYS", ""), "there are no keys"),
    "setting in the ConfigMap": ("settings", put(at("ConfigMap", "", "data"), "CANDOR_REGISTER", "x"), "CANDOR_REGISTRY"),
    "home that is not mounted": ("settings", mount("candor-serve", "/var/lib/candor"), "/var/lib/candor"),
    "keys that are not mounted": ("settings", mount("candor-jobs", "/etc/candor/keys"), "keys.json"),
    "registry that is not mounted": ("settings", variable("CANDOR_REGISTRY", "/mnt/registry"), "/mnt/registry"),
    "other port in the settings": ("settings", variable("CANDOR_PORT", "8080"), "8080"),
    "metric that is not exported": (
        "metrics",
        put(at("HorizontalPodAutoscaler", "candor-serve", "spec", "metrics", 0, "pods", "metric"), "name", "candor_queue_size"),
        "candor_queue_size",
    ),
    "metric in a query": (
        "metrics",
        put(at("ScaledObject", "jobs", "spec", "triggers", 0, "metadata"), "query", "sum(candor_jobs_waiting)"),
        "candor_jobs_waiting",
    ),
    "claim that is not there": (
        "references",
        without("PersistentVolumeClaim", "candor-jobs"),
        "PersistentVolumeClaim/candor-jobs",
    ),
    "account that is not there": ("references", without("ServiceAccount", "candor-jobs"), "ServiceAccount/candor-jobs"),
    "priority that is not there": ("references", without("PriorityClass", "candor-train"), "PriorityClass/candor-train"),
    "settings that are not there": ("references", without("ConfigMap", ""), "ConfigMap/"),
    "Secret that nobody makes": (
        "references",
        put(pod("candor-serve", "volumes", 2, "secret"), "secretName", "keys"),
        "Secret/keys",
    ),
    "autoscaler of nobody": (
        "references",
        put(at("HorizontalPodAutoscaler", "candor-serve", "spec", "scaleTargetRef"), "name", "serve"),
        "Deployment/serve",
    ),
    "two autoscalers": (
        "references",
        put(at("ScaledObject", "jobs", "spec", "scaleTargetRef"), "name", "candor-serve"),
        "two scale",
    ),
    "route to another port": (
        "references",
        put(at("HTTPRoute", "candor", "spec", "rules", 0, "backendRefs", 0), "port", 3000),
        "candor:3000",
    ),
    "gateway to no route": (
        "routes",
        put(at("HTTPRoute", "candor", "spec", "rules", 0, "matches", 0, "path"), "value", "/predict"),
        "/predict",
    ),
    "gateway to the metrics": (
        "routes",
        put(at("HTTPRoute", "candor", "spec", "rules", 0, "matches", 0, "path"), "value", "/"),
        "/metrics",
    ),
    "nothing denied": ("network", without("NetworkPolicy", "default-deny"), "denied by default"),
    "no names": ("network", without("NetworkPolicy", "names"), "cannot resolve names"),
    "no object store": ("network", without("NetworkPolicy", "object-store"), "object store"),
    "nobody gets in": ("network", without("NetworkPolicy", "serve"), "port http of Deployment/candor-serve"),
    "serve may not ask jobs": ("network", put(at("NetworkPolicy", "serve", "spec"), "egress", []), "no egress rule"),
    "jobs hears nobody": ("network", drop(at("NetworkPolicy", "jobs", "spec", "ingress"), 0), "no ingress rule"),
    "jobs of another name": ("network", variable("CANDOR_JOBS_URL", "http://jobs"), "which no Service answers"),
    "jobs at another port": ("network", variable("CANDOR_JOBS_URL", "http://candor-jobs:3000"), "which no Service answers"),
    "nodes do not meet": ("network", without("NetworkPolicy", "train"), "port meet"),
    "killed while it drains": ("grace", put(pod(), "terminationGracePeriodSeconds", 50), "55.0 s"),
    "longer drain": ("grace", variable("CANDOR_DRAIN_S", "20"), "65.0 s"),
    "killed over its checkpoint": ("grace", put(pod("candor-jobs"), "terminationGracePeriodSeconds", 30), "candor-jobs"),
    "training killed over its checkpoint": (
        "grace",
        put(at("Job", "candor-train-birds", "spec", "template", "spec"), "terminationGracePeriodSeconds", 60),
        "100.0 s",
    ),
    "answers longer than it drains": ("grace", variable("CANDOR_DEADLINE_S", "60"), "60.0"),
    "another version": ("images", put(container(), "image", "registry.example.com/candor-serve:0.0.1"), "0.0.1"),
    "namespace without a standard": ("security", put(at("Namespace", "candor", "metadata"), "labels", {}), "restricted"),
    "root": ("security", put(pod("candor-serve", "securityContext"), "runAsUser", 0), "runAsUser is 0"),
    "no seccomp": ("security", drop(pod("candor-jobs", "securityContext"), "seccompProfile"), "seccomp"),
    "token": ("security", put(pod(), "automountServiceAccountToken", True), "automountServiceAccountToken"),
    "service links": ("security", drop(pod(), "enableServiceLinks"), "enableServiceLinks"),
    "writable root": (
        "security",
        put(pod("candor-serve", "containers", 0, "securityContext"), "readOnlyRootFilesystem", False),
        "security context",
    ),
    "no limit of memory": ("security", drop(pod("candor-serve", "containers", 0, "resources", "limits"), "memory"), "memory"),
    "disk without a limit": ("security", put(pod("candor-serve", "volumes", 1), "emptyDir", {}), "the volume tmp"),
    "no place for uploads": ("security", mount("candor-serve", "/tmp"), "/tmp"),
}


@pytest.mark.parametrize(("check", "change", "words"), BROKEN.values(), ids=BROKEN)
def test_broken_manifest_is_found(
    whole: list[Object], check: str, change: Change, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(copy.deepcopy(whole))
    for item in cluster.of("ConfigMap"):
        # Its name ends with its content's hash, which no test should know.
        if item["metadata"]["name"].startswith("candor-settings"):
            rename(cluster, item)
    change(cluster)
    if check == "schema":
        # All of it takes seconds; the others are as they were, and are looked at elsewhere.
        cluster = Cluster([item for item in cluster.objects if item not in whole])
    found = findings(check, cluster, monkeypatch)
    assert [finding for finding in found if words in finding], found


def rename(cluster: Cluster, settings: Object) -> None:
    """Call the settings by no name, and so wherever they are referred to."""
    before = settings["metadata"]["name"]
    settings["metadata"]["name"] = ""
    for pod in cluster.pods:
        for source in (source for container in pod.containers for source in container["envFrom"]):
            if source.get("configMapRef", {}).get("name") == before:
                source["configMapRef"]["name"] = ""


def test_every_check_is_broken_somewhere() -> None:
    assert {check for check, _, _ in BROKEN.values()} == set(CHECKS)


@pytest.mark.parametrize("check", [check for check in CHECKS if check != "schema"])
def test_what_is_broken_is_whole_before(whole: list[Object], check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(check, Cluster(copy.deepcopy(whole)), monkeypatch) == []


def test_patch_of_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    patch = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: candor-server\n  namespace: candor\nspec: {}\n"
    with pytest.raises(RenderError, match="candor-server"):
        compose(tmp_path, "overlays/cpu", extra="patches:\n  - path: patch.yaml\n", files={"patch.yaml": patch})

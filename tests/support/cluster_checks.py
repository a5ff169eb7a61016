"""What must agree between manifests, and between them and the code: each check returns its findings as sentences."""

from __future__ import annotations

import os
import re
import tomllib
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from models.errors import SettingsError
from models.settings import PREFIX
from service import access, launcher, serving
from service.gpus import Gpu
from service.metrics import Metrics
from service.settings import Settings, read_settings
from tests.support.cluster import reference, strings
from tests.support.cluster_network import check_network
from tests.support.cluster_schema import check_schema
from tests.support.server import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from tests.support.cluster import Cluster, Object, Pod

# What a person makes, as docs/kubernetes.md says.
YOURS = {("Secret", "candor-keys"), ("Secret", "candor-object-store"), ("PersistentVolumeClaim", "candor-data")}
IMAGES = {"candor-serve", "candor-trainer"}
_METRIC = re.compile(r"(?<![\w/.:-])candor_[a-z0-9_]+")
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# What a pod needs beyond the seconds that are counted, to end by itself.
_SLACK_S = 10
_UID = 10001


def check_ports(cluster: Cluster) -> Iterator[str]:
    """Ports that are named and are not there."""
    for service in cluster.of("Service"):
        for pod in cluster.selected(service["spec"]["selector"]):
            for port in service["spec"]["ports"]:
                if pod.port(port["targetPort"]) is None:
                    yield f"{reference(service)} leads to port {port['targetPort']}, which {pod.owner} lacks"
    for monitor in cluster.of("PodMonitor"):
        for pod in cluster.selected(monitor["spec"]["selector"].get("matchLabels", {})):
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                if pod.port(endpoint["port"]) is None:
                    yield f"{reference(monitor)} scrapes port {endpoint['port']}, which {pod.owner} lacks"


def check_probes(cluster: Cluster) -> Iterator[str]:
    """Probes of ports that there are not, and of routes that need a key, or that there are not."""
    for pod in cluster.pods:
        for container in pod.containers:
            for probe in (container[name] for name in _PROBES if name in container):
                port, path = probe["httpGet"]["port"], probe["httpGet"]["path"]
                if port not in [item["name"] for item in container["ports"]]:
                    yield f"{pod.owner} is probed at port {port}, which {container['name']} lacks"
                found = access.find("GET", path)
                if found is None or found.need != "open":
                    yield f"{pod.owner} is probed at {path}, which is not open to everybody"


def check_selectors(cluster: Cluster) -> Iterator[str]:
    """Selectors that select nothing."""
    for item in cluster.of("Deployment"):
        if not item["spec"]["selector"]["matchLabels"].items() <= item["spec"]["template"]["metadata"]["labels"].items():
            yield f"{reference(item)} does not select its own pods"
    chosen: list[tuple[Object, dict[str, str]]] = [(item, item["spec"]["selector"]) for item in cluster.of("Service")]
    chosen += [
        (item, item["spec"]["selector"].get("matchLabels", {})) for item in cluster.of("PodDisruptionBudget", "PodMonitor")
    ]
    for policy in cluster.of("NetworkPolicy"):
        rules = (*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ()))
        peers = [peer for rule in rules for peer in (*rule.get("from", ()), *rule.get("to", ()))]
        selectors = [peer["podSelector"] for peer in peers if "podSelector" in peer and "namespaceSelector" not in peer]
        chosen += [(policy, selector.get("matchLabels", {})) for selector in (policy["spec"]["podSelector"], *selectors)]
    for item, labels in chosen:
        if not cluster.selected(labels):
            yield f"{reference(item)} selects {labels}, which no pod has"
    for pod in cluster.pods:
        for spread in pod.spec.get("topologySpreadConstraints", ()):
            if not spread["labelSelector"]["matchLabels"].items() <= pod.labels.items():
                yield f"{pod.owner} is spread by labels that it lacks"


def check_settings(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Variables that the settings do not know or that they refuse, and paths that nothing is mounted at."""
    for pod in cluster.pods:
        for container in pod.containers:
            given = cluster.environment(container)
            if not any(name.startswith(PREFIX) for name in given):
                # It runs something else.
                continue
            settings = _read(given, monkeypatch)
            found = [settings] if isinstance(settings, str) else _unmounted(pod, container, given, settings)
            yield from (f"{pod.owner}: {finding}" for finding in found)


def _unmounted(pod: Pod, container: Object, given: dict[str, str], settings: Settings) -> Iterator[str]:
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    registry = given.get("CANDOR_REGISTRY", "")
    for place in (str(settings.home), *([registry] if registry.startswith("/") else [])):
        if place not in mounts or mounts[place].get("readOnly"):
            yield f"{place} is to be written, and no volume is mounted there"
    if settings.keys is not None and str(settings.keys.parent) not in mounts:
        yield f"CANDOR_KEYS={settings.keys} is in no mounted folder"
    for name, port in (("http", settings.port), ("metrics", settings.metrics_port)):
        if pod.port(name) not in (None, port):
            yield f"port {name} is {pod.port(name)}, and the settings say {port}"


def _read(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings | str:
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            patch.delenv(name)
        for name, value in given.items():
            if name.startswith(PREFIX):
                patch.setenv(name, value)
        try:
            return read_settings()
        except SettingsError as err:
            return str(err)


@cache
def exported_metrics() -> frozenset[str]:
    """The names of every series that the service may export."""
    metrics = Metrics()
    metrics.follow_jobs(dict, dict)
    metrics.follow_gpus(lambda: (Gpu(device="0", memory_bytes=(1, 2), utilization=0.5),))
    names: set[str] = set()
    for family in metrics.registry.collect():
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + end for end in ends}
    return frozenset(names)


def check_metrics(cluster: Cluster) -> Iterator[str]:
    """Metrics that are named anywhere, and that the service does not export."""
    for item in cluster.objects:
        for name in sorted({name for text in strings(item) for name in _METRIC.findall(text)} - exported_metrics()):
            yield f"{reference(item)} names {name}, which is not exported"


def check_references(cluster: Cluster) -> Iterator[str]:
    """Objects that are referred to, and that neither are here nor are a person's to make."""
    for pod in cluster.pods:
        for kind, name in _references(pod):
            if (kind, name) not in YOURS and cluster.named(kind, name) is None:
                yield f"{pod.owner} refers to {kind}/{name}, which is not there"
    for item in cluster.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = item["spec"]["scaleTargetRef"]
        kind, name = target.get("kind", "Deployment"), target["name"]
        if cluster.named(kind, name) is None:
            yield f"{reference(item)} scales {kind}/{name}, which is not there"
    scaled = [item["spec"]["scaleTargetRef"]["name"] for item in cluster.of("HorizontalPodAutoscaler", "ScaledObject")]
    for name in sorted({name for name in scaled if scaled.count(name) > 1}):
        yield f"two scale Deployment/{name}, and each undoes what the other does"
    for route in cluster.of("HTTPRoute"):
        for backend in (backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]):
            service = cluster.named("Service", backend["name"])
            if service is None or backend["port"] not in [port["port"] for port in service["spec"]["ports"]]:
                yield f"{reference(route)} leads to {backend['name']}:{backend['port']}, which is not there"


def _references(pod: Pod) -> Iterator[tuple[str, str]]:
    for field, kind in (("serviceAccountName", "ServiceAccount"), ("priorityClassName", "PriorityClass")):
        yield kind, pod.spec[field]
    for source in chain.from_iterable(container.get("envFrom", ()) for container in pod.containers):
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if field in source:
                yield kind, source[field]["name"]
    for volume in pod.spec["volumes"]:
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def check_routes(cluster: Cluster) -> Iterator[str]:
    """Paths that a gateway leads here and that are no routes, and metrics, which are nobody's outside."""
    roots = {f"/{template.split('/')[1]}" for template in access.TABLE}
    for route in cluster.of("HTTPRoute"):
        for match in (match for rule in route["spec"]["rules"] for match in rule["matches"]):
            path = match["path"]["value"]
            if f"/{path.split('/')[1]}" not in roots:
                yield f"{reference(route)} leads {path} here, which is no route"
            if path in ("/", "/metrics") and match["path"]["type"] == "PathPrefix":
                yield f"{reference(route)} leads /metrics here"


def check_grace(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Pods that would be killed before they have ended by themselves."""
    for pod in cluster.pods:
        for container in pod.containers:
            settings = _read(cluster.environment(container), monkeypatch)
            if isinstance(settings, str):
                continue
            needed = _seconds_to_end(container, settings)
            if pod.spec["terminationGracePeriodSeconds"] < needed:
                yield f"{pod.owner} may take {needed} s to end, and is killed before"
            if settings.run == "serve" and settings.deadline_s > serving._GRACE_S:
                yield f"{pod.owner} answers for {settings.deadline_s} s and waits {serving._GRACE_S} for it"


def _seconds_to_end(container: dict[str, Any], settings: Settings) -> float:
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    told = [text.partition("=")[2] for text in container.get("args", ()) if text.startswith("--shutdown-timeout=")]
    if told:
        return float(told[0]) + _SLACK_S
    ending = serving._GRACE_S if settings.run == "serve" else launcher._GRACE_S
    return float(before) + settings.drain_s + ending + _SLACK_S


def check_images(cluster: Cluster) -> Iterator[str]:
    """Images of another version than this one."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for pod in cluster.pods:
        for container in pod.containers:
            name, _, tag = container["image"].rpartition(":")
            if name.rpartition("/")[2] in IMAGES and tag not in (version, f"{version}-cpu"):
                yield f"{pod.owner} runs {container['image']}, and this is {version}"


def check_security(cluster: Cluster) -> Iterator[str]:
    """Pods that Kubernetes' restricted standard refuses, and what else none of ours may have or lack."""
    for name, label in ((item["metadata"]["name"], item["metadata"].get("labels", {})) for item in cluster.of("Namespace")):
        if label.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace/{name} does not enforce the restricted standard"
    for pod in cluster.pods:
        yield from (f"{pod.owner}: {finding}" for finding in _pod_security(pod.spec))
        for container in pod.containers:
            yield from (f"{pod.owner}: {finding}" for finding in _container_security(container))


def _pod_security(spec: Object) -> Iterator[str]:
    said = spec.get("securityContext", {})
    for field, expected in (("runAsNonRoot", True), ("runAsUser", _UID), ("fsGroup", _UID)):
        if said.get(field) != expected:
            yield f"{field} is {said.get(field)}, expected {expected}"
    if said.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "there is no seccomp profile"
    for field in ("automountServiceAccountToken", "enableServiceLinks"):
        if spec.get(field) is not False:
            yield f"{field} is not false"
    for volume in spec["volumes"]:
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"the volume {volume['name']} may fill the node's disk"


def _container_security(container: Object) -> Iterator[str]:
    expected = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    if container.get("securityContext") != expected:
        yield f"{container['name']} has the security context {container.get('securityContext')}"
    for kind in ("requests", "limits"):
        missing = {"cpu", "memory", "ephemeral-storage"} - container.get("resources", {}).get(kind, {}).keys()
        if missing:
            yield f"{container['name']} {kind} no {', '.join(sorted(missing))}"
    if "/tmp" not in [mount["mountPath"] for mount in container["volumeMounts"]]:
        yield f"{container['name']} cannot write to /tmp"


CHECKS: dict[str, Callable[..., Any]] = {
    "schema": check_schema,
    "ports": check_ports,
    "probes": check_probes,
    "selectors": check_selectors,
    "settings": check_settings,
    "metrics": check_metrics,
    "references": check_references,
    "routes": check_routes,
    "network": check_network,
    "grace": check_grace,
    "images": check_images,
    "security": check_security,
}


def findings(name: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What one check finds."""
    check = CHECKS[name]
    return list(check(cluster, monkeypatch) if "monkeypatch" in check.__code__.co_varnames else check(cluster))

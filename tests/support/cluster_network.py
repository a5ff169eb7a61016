"""Whether the network policies let through what must get through, and are there at all."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster import Cluster, Object, Pod

_NAMES_PORT = 53


def check_network(cluster: Cluster) -> Iterator[str]:
    """Traffic that candor needs and no policy allows; and a namespace in which nothing is denied."""
    if not any(_denies_all(policy) for policy in cluster.of("NetworkPolicy")):
        yield "nothing is denied by default"
    for pod in cluster.pods:
        for container in pod.containers:
            for port in container.get("ports", ()):
                if not any(_has_port(rule, pod, port["containerPort"]) for rule in _rules(cluster, pod, "ingress")):
                    yield f"nobody may reach port {port['name']} of {pod.owner}"
            yield from _check_jobs_url(cluster, pod, cluster.environment(container))
        out = list(_rules(cluster, pod, "egress"))
        if not any(_has_port(rule, pod, _NAMES_PORT) for rule in out):
            yield f"{pod.owner} cannot resolve names"
        if _registry(cluster, pod).startswith("s3://") and not any(_leaves(rule) for rule in out):
            yield f"{pod.owner} cannot reach the object store"


def _check_jobs_url(cluster: Cluster, pod: Pod, given: dict[str, str]) -> Iterator[str]:
    address = urlsplit(given.get("CANDOR_JOBS_URL", ""))
    if not address.hostname:
        return
    service = cluster.named("Service", address.hostname)
    ports = [] if service is None else [port for port in service["spec"]["ports"] if port["port"] == (address.port or 80)]
    if service is None or not ports:
        yield f"{pod.owner} asks {address.geturl()}, which no Service answers"
        return
    for other in cluster.selected(service["spec"]["selector"]):
        number = other.port(ports[0]["targetPort"])
        for side, here, there in (("egress", pod, other), ("ingress", other, pod)):
            rules = _rules(cluster, here, side)
            if not any(_has_peer(rule, there) and _has_port(rule, other, number) for rule in rules):
                yield f"{pod.owner} may not ask {other.owner}: no {side} rule"


def _denies_all(policy: Object) -> bool:
    spec = policy["spec"]
    is_for_all = spec["podSelector"] == {} and set(spec["policyTypes"]) == {"Ingress", "Egress"}
    return is_for_all and not spec.get("ingress") and not spec.get("egress")


def _rules(cluster: Cluster, pod: Pod, side: str) -> Iterator[Object]:
    """The rules of one side of all policies that are about a pod."""
    for policy in cluster.of("NetworkPolicy"):
        if policy["spec"]["podSelector"].get("matchLabels", {}).items() <= pod.labels.items():
            yield from policy["spec"].get(side, ())


def _has_port(rule: Object, pod: Pod, number: int | None) -> bool:
    """Whether a rule allows a port of a pod; one without ports allows all."""
    if "ports" not in rule:
        return True
    allowed = [item["port"] for item in rule["ports"]]
    return number in [port if isinstance(port, int) else pod.port(port) for port in allowed]


def _has_peer(rule: Object, other: Pod) -> bool:
    peers = [peer for side in ("from", "to") for peer in rule.get(side, ())]
    return any(
        "namespaceSelector" not in peer and peer.get("podSelector", {}).get("matchLabels", {}).items() <= other.labels.items()
        for peer in peers
        if "podSelector" in peer
    )


def _leaves(rule: Object) -> bool:
    """Whether a rule leads anywhere but to names and to candor's own pods."""
    is_names = [item["port"] for item in rule.get("ports", ())] == [_NAMES_PORT, _NAMES_PORT]
    return not is_names and any("ipBlock" in peer or "namespaceSelector" in peer for peer in rule.get("to", ()))


def _registry(cluster: Cluster, pod: Pod) -> str:
    return next(
        (given["CANDOR_REGISTRY"] for given in map(cluster.environment, pod.containers) if "CANDOR_REGISTRY" in given), ""
    )

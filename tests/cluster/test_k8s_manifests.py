"""Every overlay, component and training renders, has only fields that there are, and agrees with itself and with the code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.cluster import K8S, Cluster, components, compose, overlays, read_all, render, trainings
from tests.support.cluster_checks import CHECKS, YOURS, exported_metrics, findings
from tests.support.server import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cluster import Object

# A training stands beside an overlay, as does an overlay without a Deployment, and a component in one.
SETS = [
    *(("overlay", folder, folder) for folder in overlays()),
    *(("training", folder, K8S / "overlays" / "gpu") for folder in trainings()),
    *(("component", folder, K8S / "overlays" / "cpu") for folder in components()),
]
IDS = [f"{kind} {folder.name}" for kind, folder, _ in SETS]


def _below_k8s(path: Path) -> str:
    return str(path.relative_to(K8S))


@pytest.fixture(scope="module", params=SETS, ids=IDS)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    kind, folder, overlay = request.param
    if kind == "overlay":
        found = Cluster(render(folder))
        return found if found.of("Deployment") else Cluster([*render(K8S / "overlays" / "cpu"), *found.objects])
    if kind == "training":
        return Cluster([*render(overlay), *render(folder)])
    extra = f"components:\n  - ../k8s/components/{folder.name}\n"
    return Cluster(compose(tmp_path_factory.mktemp("composed"), f"overlays/{overlay.name}", extra=extra))


def test_there_is_something_to_look_at() -> None:
    assert {"overlay cpu", "overlay gpu", "training one-node", "training nodes", "component registry-volume"} <= set(IDS)


@pytest.mark.parametrize("check", CHECKS)
def test_manifests_agree(cluster: Cluster, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(check, cluster, monkeypatch) == []


@pytest.mark.parametrize("path", sorted(K8S.rglob("*.yaml")), ids=_below_k8s)
def test_file_holds_objects_of_one_kind(path: Path) -> None:
    assert len({item.get("kind") for item in read_all(path.read_text())}) <= 1


@pytest.mark.parametrize("path", [path for path in sorted(K8S.rglob("*")) if path.is_file()], ids=_below_k8s)
def test_metrics_that_a_file_names_are_exported(path: Path) -> None:
    # Also in what no render shows, such as comments and dashboards.
    named = set(re.findall(r"(?<![\w/.:-])candor_[a-z0-9_]+", path.read_text()))
    assert named <= exported_metrics() | _recorded(path)


def _recorded(path: Path) -> set[str]:
    """Names that rules give to what they compute."""
    return set(re.findall(r"record: *(candor_[a-z0-9_]+)", path.read_text()))


def test_what_a_person_makes_is_in_the_guide() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    assert [name for _, name in sorted(YOURS) if name not in text] == []


@pytest.mark.parametrize("overlay", overlays(), ids=lambda path: path.name)
def test_replicas_are_the_autoscalers(overlay: Path) -> None:
    """A number in the Deployment would be set again whenever it is applied."""
    cluster = Cluster(render(overlay))
    scaled = [item["spec"]["scaleTargetRef"]["name"] for item in cluster.of("HorizontalPodAutoscaler")]
    serve: list[Object] = [item for item in cluster.of("Deployment") if item["metadata"]["name"] in scaled]
    assert [item["metadata"]["name"] for item in serve if "replicas" in item["spec"]] == []


@pytest.mark.parametrize("training", trainings(), ids=lambda path: path.name)
def test_training_has_the_registry_of_the_overlays(training: Path) -> None:
    settings = dict(line.split("=") for line in (K8S / "base" / "settings.env").read_text().splitlines() if "#" not in line)
    kustomization = yaml.safe_load((training / "kustomization.yaml").read_text())
    assert kustomization["configMapGenerator"][0]["literals"] == [f"CANDOR_REGISTRY={settings['CANDOR_REGISTRY']}"]

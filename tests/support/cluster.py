"""The manifests as kubectl renders them, and questions about them that several checks ask."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.server import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]
K8S = ROOT / "k8s"
KUBECTL = Path(sys.executable).parent / "kubectl"
_HEAD = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"


class RenderError(Exception):
    """kubectl's own words, where it cannot render a folder."""


@dataclass(frozen=True)
class Pod:
    """What a Deployment or a Job makes, or somebody makes alone."""

    owner: str
    labels: dict[str, str]
    spec: Object

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def port(self, named: str | int) -> int | None:
        """The number of a container's port, by its name or number."""
        for container in self.containers:
            for port in container.get("ports", ()):
                if named in (port["name"], port["containerPort"]):
                    return int(port["containerPort"])
        return None


@dataclass(frozen=True)
class Cluster:
    """All objects that are applied together."""

    objects: list[Object]

    def of(self, *kinds: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object | None:
        return next((item for item in self.of(kind) if item["metadata"]["name"] == name), None)

    @property
    def pods(self) -> list[Pod]:
        found = []
        for item in self.of("Deployment", "Job", "StatefulSet", "DaemonSet"):
            template = item["spec"]["template"]
            found.append(Pod(reference(item), template["metadata"]["labels"], template["spec"]))
        found += [Pod(reference(item), item["metadata"].get("labels", {}), item["spec"]) for item in self.of("Pod")]
        return found

    def selected(self, labels: dict[str, str]) -> list[Pod]:
        """The pods with all of these labels."""
        return [pod for pod in self.pods if labels.items() <= pod.labels.items()]

    def environment(self, container: Object) -> dict[str, str]:
        """The variables of a container, as far as they stand in manifests; those of secrets do not."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            settings = self.named("ConfigMap", source.get("configMapRef", {}).get("name", ""))
            found |= (settings or {}).get("data") or {}
        # A value that is computed in the cluster is a number here, whichever.
        return found | {item["name"]: item.get("value", "0") for item in container.get("env", ())}


def reference(item: Object) -> str:
    """How a finding calls an object."""
    return f"{item['kind']}/{item['metadata']['name']}"


def overlays() -> list[Path]:
    """Every overlay that there is, also those that others add."""
    return sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))


def components() -> list[Path]:
    """What an overlay can be combined with."""
    return sorted(path.parent for path in K8S.glob("components/*/kustomization.yaml"))


def trainings() -> list[Path]:
    """What is applied beside an overlay."""
    return sorted(path.parent for path in K8S.glob("train/*/kustomization.yaml"))


@cache
def _rendered(folder: Path) -> str:
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode or done.stderr:
        raise RenderError(done.stderr or f"exit {done.returncode}")
    return done.stdout


def render(folder: Path) -> list[Object]:
    """The objects of a folder with a kustomization, anew each time, since tests change them.

    Raises:
        RenderError: If it cannot be rendered, or not without a warning.
    """
    return read_all(_rendered(folder))


def read_all(text: str) -> list[Object]:
    """Every document of a text that is not empty."""
    return [item for item in yaml.safe_load_all(text) if item]


def compose(work: Path, overlay: str, *, extra: str = "", files: dict[str, str] | None = None) -> list[Object]:
    """Render an overlay of somebody's own, in `work/deploy` beside a copy of the manifests.

    Args:
        work: An empty folder.
        overlay: The path below `k8s/` that it builds on.
        extra: More lines of its kustomization.
        files: What lies beside it, by name.
    """
    shutil.copytree(K8S, work / "k8s", dirs_exist_ok=True)
    folder = work / "deploy"
    folder.mkdir(exist_ok=True)
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    if "kustomization.yaml" not in (files or {}):
        (folder / "kustomization.yaml").write_text(f"{_HEAD}resources:\n  - ../k8s/{overlay}\n{extra}")
    _rendered.cache_clear()
    return render(folder)


def strings(value: object) -> Iterator[str]:
    """Every text in an object, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)

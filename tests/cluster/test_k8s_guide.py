"""docs/kubernetes.md: what a reader is to write is held to the same checks, and every command is one that there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.cluster import K8S, KUBECTL, Cluster, compose, render
from tests.support.cluster_checks import CHECKS, exported_metrics, findings
from tests.support.guide import GUIDE, sections

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.guide import Section

WHOLE = [(section.title, text) for section in sections() for text in section.whole]
ADDED = [section for section in sections() if section.patches or section.resources]
COMMANDS = [(section.title, text) for section in sections() for text in section.commands]
# Listens nowhere, so that a command which kubectl understands ends with a refused connection.
NOWHERE = ["--server=http://127.0.0.1:9", "--request-timeout=1s"]
NO_SUCH = re.compile(
    r"unknown (?:shorthand )?(?:flag|command)|requires? at least|error: (?!.*(?:refused|127\.0\.0\.1))", re.IGNORECASE
)


@pytest.fixture(params=range(len(WHOLE)), ids=[f"{title} {number}" for number, (title, _) in enumerate(WHOLE)])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    """A folder of a reader's own."""
    return Cluster(compose(tmp_path, "", files={"kustomization.yaml": WHOLE[request.param][1]}))


@pytest.fixture(params=ADDED, ids=lambda section: section.title)
def added(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    """All patches and resources of a section together."""
    section: Section = request.param
    files = {**section.patches, **section.resources}
    return Cluster(compose(tmp_path, section.overlay, extra=section.extra, files=files))


def assert_whole(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {check: found for check in CHECKS if (found := findings(check, cluster, monkeypatch))} == {}


def test_folder_that_a_reader_writes_is_whole(written: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_whole(written, monkeypatch)


def test_what_a_reader_adds_is_whole(added: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_whole(added, monkeypatch)


def test_there_are_blocks_of_every_kind() -> None:
    assert len(WHOLE) >= 2
    assert {"Gateway", "Autoscaling", "No spare GPU", "Backup and restore"} <= {section.title for section in ADDED}
    assert len(COMMANDS) >= 8


def test_rollout_without_a_spare_gpu_never_has_one_pod_more(tmp_path: Path) -> None:
    section = next(section for section in ADDED if section.title == "No spare GPU")
    cluster = Cluster(compose(tmp_path, section.overlay, extra=section.extra, files=section.patches))
    serve, scaler = cluster.named("Deployment", "candor-serve"), cluster.of("HorizontalPodAutoscaler")[0]
    assert serve is not None
    assert serve["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert scaler["spec"]["minReplicas"] >= 2


@pytest.mark.parametrize(("title", "text"), [(section.title, text) for section in sections() for text in section.other])
def test_other_yaml_can_be_read_and_names_metrics_that_there_are(title: str, text: str) -> None:
    assert yaml.safe_load(text), title
    assert set(re.findall(r"(?<![\w/.:-])candor_[a-z0-9_]+", text)) <= exported_metrics()


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[f"{title} {n}" for n, (title, _) in enumerate(COMMANDS)])
def test_commands_can_be_read_by_a_shell(number: int) -> None:
    done = subprocess.run(["bash", "-n"], input=COMMANDS[number][1], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def kubectl_calls(text: str) -> list[str]:
    """Every call of kubectl in a block, with what a shell would do about its end left out."""
    joined = text.replace("\\\n", " ")
    calls = re.findall(r"(?:^|\| )(kubectl [^\n|]+)", joined, re.MULTILINE)
    return [re.sub(r"( -- .*| [<>].*| &$)", "", call.strip()) for call in calls]


@pytest.mark.parametrize("call", sorted({call for _, text in COMMANDS for call in kubectl_calls(text)}))
def test_kubectl_understands(call: str, tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "k8s").symlink_to(K8S)
    shutil.copytree(K8S / "train" / "one-node", tmp_path / "deploy" / "train")
    (tmp_path / "deploy" / "keys.json").write_text("{}")
    (tmp_path / "deploy" / "restore.yaml").write_text(
        next(s for s in ADDED if s.title == "Backup and restore").resources["restore.yaml"]
    )
    (tmp_path / "deploy" / "kustomization.yaml").write_text("resources:\n  - ../k8s/overlays/cpu\n")
    if " exec " in call:
        call += " -- true"
    arguments = call.split()[1:]
    if arguments[0] != "kustomize":
        arguments[:0] = NOWHERE
    done = subprocess.run(
        [KUBECTL, *arguments],
        input=(K8S / "base" / "namespace.yaml").read_text(),
        cwd=tmp_path,
        env={**os.environ, "KUBECONFIG": "/dev/null"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not NO_SUCH.search(done.stderr), done.stderr


def test_kubectl_that_does_not_understand_is_noticed() -> None:
    done = subprocess.run([KUBECTL, *NOWHERE, "apply", "-k", "deploy", "--no-such"], capture_output=True, text=True, check=False)
    assert NO_SUCH.search(done.stderr), done.stderr


def test_numbers_of_the_guide_are_those_of_the_manifests() -> None:
    text, cluster = GUIDE.read_text(), Cluster(render(K8S / "base"))
    serve, jobs = (cluster.named("Deployment", name) for name in ("candor-serve", "candor-jobs"))
    assert serve is not None
    assert jobs is not None
    pod = serve["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = cluster.environment(pod["containers"][0])["CANDOR_DRAIN_S"]
    assert f"left alone for {before} s (`preStop`)" in text
    assert f"{drain} s in which it answers with `Connection: close`" in " ".join(text.split())
    assert f"The grace period, {pod['terminationGracePeriodSeconds']} s, holds" in text
    scaler = cluster.of("HorizontalPodAutoscaler")[0]["spec"]
    assert f"{scaler['minReplicas']} to {scaler['maxReplicas']} replicas" in text

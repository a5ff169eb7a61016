"""The containers of the manifests, run as far as that goes without Kubernetes: with their very variables, on a root that cannot
be written, in a network of their own, with keys in the layout of a mounted Secret, asked as a kubelet and a gateway would.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from models.registry import Registry
from service.keys import create_key
from tests.support.cluster import K8S, Cluster, render
from tests.support.folders import write_colours
from tests.support.pictures import picture
from tests.support.pod import can_unshare, run_pod
from tests.support.server import serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cluster import Object
    from tests.support.pod import Pod

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
needs_namespaces = pytest.mark.skipif(
    not can_unshare(), reason="needs curl, and namespaces (unshare) as root or as a user who may"
)
POD_IP, HERE = "10.1.2.3:3000", "http://127.0.0.1:3000"


def mount_keys(folder: Path, revision: str, scopes: tuple[str, ...]) -> str:
    """A Secret as the kubelet mounts it: the file leads by ..data into a folder of its own, and ..data is swapped."""
    inner = folder / f"..{revision}"
    inner.mkdir(parents=True)
    token = create_key(inner / "keys.json", scopes, revision)[1]  # type: ignore[arg-type]
    (inner / "keys.json").chmod(0o440)
    before = (folder / "..data").resolve() if (folder / "..data").exists() else None
    (folder / "..data_tmp").symlink_to(inner.name)
    (folder / "..data_tmp").replace(folder / "..data")
    if before is None:
        (folder / "keys.json").symlink_to("..data/keys.json")
    else:
        shutil.rmtree(before)
    return token


def test_keys_of_a_mounted_secret_are_followed(tmp_path: Path) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    first = mount_keys(tmp_path / "keys", "first", ("predict",))
    with serve(tmp_path, run="serve", keys=tmp_path / "keys" / "keys.json") as server:
        ask = httpx.Client(base_url=server.url, timeout=10)
        assert ask.get("/models", headers={"x-api-key": first}).status_code == 200
        second = mount_keys(tmp_path / "keys", "second", ("predict",))
        until = time.monotonic() + 2
        while ask.get("/models", headers={"x-api-key": second}).status_code != 200:
            assert time.monotonic() < until, server.log.read_text()
            time.sleep(0.1)
        assert ask.get("/models", headers={"x-api-key": first}).status_code == 401
        ask.close()


class Place:
    """Folders in the place of a pod's volumes."""

    def __init__(self, root: Path) -> None:
        self.home, self.tmp, self.keys, self.registry = (root / name for name in ("home", "tmp", "keys", "registry"))
        for folder in (self.home, self.tmp, self.registry):
            folder.mkdir()
        publish_colours(Registry(self.registry), root / "work")
        self.token = mount_keys(self.keys, "first", ("predict", "train", "promote"))
        self.log = root / "log"

    def variables(self, container: Object) -> dict[str, str]:
        """The container's, in these folders; its user has no home in the image."""
        given = {"HOME": "/", **Cluster(render(K8S / "overlays" / "cpu")).environment(container)}
        moved = {"/var/lib/candor": str(self.home), "/etc/candor/keys/keys.json": str(self.keys / "keys.json")}
        here = {name: moved.get(value, value) for name, value in given.items()}
        return here | {"CANDOR_REGISTRY": str(self.registry), "TMPDIR": str(self.tmp)}


def container(name: str) -> Object:
    deployment = Cluster(render(K8S / "overlays" / "cpu")).named("Deployment", name)
    assert deployment is not None
    return {**deployment["spec"]["template"]["spec"]["containers"][0], "pod": deployment["spec"]["template"]["spec"]}


def probe(pod: Pod, container: Object, kind: str) -> None:
    """As a kubelet asks: by the pod's address, without a key."""
    pod.wait(200, f"{HERE}{container[kind]['httpGet']['path']}", "--header", f"Host: {POD_IP}")


@needs_namespaces
def test_serve_starts_is_probed_answers_and_drains(tmp_path: Path) -> None:
    place, serving = Place(tmp_path), container("candor-serve")
    (tmp_path / "blue.png").write_bytes(picture("blue"))
    classify = ("--data-binary", f"@{tmp_path}/blue.png", "--header", "content-type: image/png", f"{HERE}/classify")
    writable = [place.home, place.tmp]
    with run_pod([sys.executable, "-m", "service"], place.variables(serving), writable, place.log) as pod:
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe(pod, serving, kind)
        key = ("--header", f"X-API-Key: {place.token}")
        for host in ("candor", "candor.candor.svc.cluster.local", "birds.example.com"):
            status, body = pod.curl(*classify, *key, "--header", f"Host: {host}", "--header", f"Origin: https://{host}")
            assert (status, json.loads(body)["results"][0]["predictions"][0]["label"]) == (200, "blue"), body
        assert pod.curl(*classify)[0] == 401
        # Its own page may ask, another may not.
        assert pod.curl(*classify, *key, "--header", "Host: candor", "--header", "Origin: https://other.example.com")[0] == 403
        assert "candor_queue_depth" in pod.wait(200, "http://127.0.0.1:9090/metrics")
        began = time.monotonic()
        grace, before = serving["pod"]["terminationGracePeriodSeconds"], serving["lifecycle"]["preStop"]["sleep"]["seconds"]
        pod.process.terminate()
        pod.wait(503, f"{HERE}/readyz", "--header", f"Host: {POD_IP}", seconds=2)
        # Still answers, for as long as somebody may not have heard it.
        assert pod.curl(*classify, *key)[0] == 200
        assert pod.process.wait(grace) == 0
        assert time.monotonic() - began < grace - before
    assert list(place.tmp.iterdir()) == []


@needs_namespaces
@pytest.mark.torch
def test_jobs_are_run_on_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    place, running = Place(tmp_path), container("candor-jobs")
    data = shutil.make_archive(str(tmp_path / "colours"), "zip", write_colours(tmp_path / "photos", {"": 12}))
    key = ("--header", f"X-API-Key: {place.token}")
    asked = {"model": "birds", "dataset": "colours", "recipe": {"backbone": "test_resnet", "pretrained": False, "epochs": 1}}
    with run_pod(
        [sys.executable, "-m", "service"], place.variables(running), [place.home, place.tmp, place.registry], place.log
    ) as pod:
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe(pod, running, kind)
        put = ("--upload-file", data, "--header", "content-type: application/zip")
        assert pod.curl(f"{HERE}/datasets/colours", *key, *put)[0] == 201
        post = ("--data", json.dumps(asked), "--header", "content-type: application/json", "--header", "idempotency-key: one")
        status, body = pod.curl(f"{HERE}/retrain", *key, *post)
        assert status == 202, body
        job = json.loads(body)["id"]
        until = time.monotonic() + 300
        while (shown := json.loads(pod.curl(f"{HERE}/jobs/{job}", *key)[1]))["state"] not in ("succeeded", "rejected", "failed"):
            assert time.monotonic() < until, shown
            time.sleep(1)
        log = pod.curl(f"{HERE}/jobs/{job}/log", *key)[1]
        assert shown["state"] in ("succeeded", "rejected"), (shown, log)
        assert "Read-only file system" not in log
        # An operator's promotions can go here, where the audit log outlives a pod.
        moved = pod.curl(f"{HERE}/models/colours/promote", *key, "--json", json.dumps({"version": 1}))
        assert moved[0] == 200, moved
        assert "POST /models/{name}/promote" in (place.home / "audit.jsonl").read_text()
        assert pod.term(running["pod"]["terminationGracePeriodSeconds"]) == 0
    assert Registry(place.registry).versions("birds") == [1]

"""A real Prometheus scrapes a service that answers and one that runs jobs; rules and dashboard find what they ask for."""

from __future__ import annotations

import math
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import httpx
import pytest

from models.registry import Registry
from service.access import TABLE
from service.gpus import Gpu
from service.keys import create_key
from service.metrics import MAX_LABELS, Metrics
from tests.support.monitoring import (
    OF_PROMETHEUS,
    TARGET_LABELS,
    Sample,
    alerts,
    dashboard_expressions,
    grouping_labels,
    manifest,
    recorded,
    require,
    rules,
    samples,
    selectors,
)
from tests.support.pictures import picture
from tests.support.prometheus import Prometheus, prometheus
from tests.support.server import ROOT, free_port, serve
from tests.support.tiny import LABELS, colours, publish_colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(300)]
PNG = {"content-type": "image/png"}
# Requests to /classify: good ones, unreadable ones and as many without a key, and some more at once than may wait.
GOOD, BAD, CROWD = 40, 5, 24
# Of what a tiny model has no evidence for, or a machine no device.
UNKNOWN = ("candor_estimated_accuracy", "candor_published_accuracy", "candor_drift", "candor_familiarity", "prediction_set")
GPU = "candor_gpu_"
EXPRESSIONS = [*(rule["expr"] for rule in rules()), *dashboard_expressions()]


@dataclass(frozen=True)
class Pods:
    """Two services as two pods would be: the ports of their metrics, and what these said before anything was asked."""

    server: Server
    key: str
    ports: dict[str, int]
    begun: dict[str, str]

    def exposition(self, pod: str) -> str:
        return httpx.get(f"http://127.0.0.1:{self.ports[pod]}/metrics").raise_for_status().text


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    home = tmp_path_factory.mktemp("monitored")
    registry = Registry(home / "registry")
    publish_colours(registry, home / "work")
    publish_tiny(registry, home / "work", "slow", replace(colours(), slow=4))
    key = create_key(home / "keys.json", ("predict", "explain"), "shop")[1]
    ports = {"serve": free_port(), "jobs": free_port()}
    shared = {"registry": registry.root, "keys": home / "keys.json"}
    small = {"queue_limit": 2, "max_images": 2, "default_model": "colours"}
    with (
        serve(home / "serve", ready=False, run="serve", metrics_port=ports["serve"], **shared, **small) as server,
        serve(home / "jobs", ready=False, run="jobs", metrics_port=ports["jobs"], **shared) as jobs,
    ):
        for one in (server, jobs):
            one.wait("/readyz", 200)
        pods = Pods(server, key, ports, {})
        pods.begun.update({pod: pods.exposition(pod) for pod in ports})
        yield pods


@pytest.fixture(scope="module")
def watching(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, when it has seen some requests come."""
    with prometheus(tmp_path_factory.mktemp("prometheus") / "of", pods.ports) as running:
        running.wait("sum(up)", lambda up: up == 2)
        running.wait("min(count_over_time(candor_ready[1m]))", lambda scrapes: scrapes > 2)
        ask(pods)
        running.wait('sum(candor_requests_total{route="/classify"})', lambda count: count == GOOD + 2 * BAD + CROWD)
        # What began with a request has no rate before it was scraped twice.
        time.sleep(3)
        yield running


def ask(pods: Pods) -> None:
    """Good requests, unreadable images, requests without a key, and more at once than may wait."""
    image = picture("red")
    with httpx.Client(base_url=pods.server.url, headers={"x-api-key": pods.key, **PNG}, timeout=60) as client:
        for _ in range(GOOD):
            assert client.post("/classify", content=image).status_code == 200
        for _ in range(BAD):
            assert client.post("/classify", content=b"no image").status_code == 422
            assert client.post("/explain-confidence", content=image).status_code == 200
            assert httpx.post(f"{pods.server.url}/classify", content=image, headers=PNG).status_code == 401
        with ThreadPoolExecutor(12) as many:
            found = list(many.map(lambda _: client.post("/classify?model=slow", content=image).status_code, range(CROWD)))
    assert set(found) == {200, 429}


def exported(pods: Pods) -> list[Sample]:
    """What is exported from the start, and what would be on a machine with a GPU."""
    metrics = Metrics()
    metrics.follow_gpus(lambda: [Gpu("0", (1, 2), 0.5)])
    metrics.provider_info.labels("cuda")
    gpu = [one for one in samples(metrics.render().decode()) if one.name.startswith((GPU, "candor_provider"))]
    return [*samples(pods.begun["serve"]), *samples(pods.begun["jobs"]), *gpu]


def test_promtool_finds_nothing_wrong_with_what_is_exported(pods: Pods) -> None:
    for text in pods.begun.values():
        command = [require("promtool"), "check", "metrics"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_series_that_an_alert_asks_for_is_there_before_anything_has_happened(pods: Pods) -> None:
    known, made = exported(pods), recorded() | OF_PROMETHEUS
    for rule in rules():
        for selector in selectors(rule["expr"]):
            assert selector.name in made or any(map(selector.finds, known)), (rule, selector)


def test_every_series_that_the_dashboard_asks_for_is_exported(pods: Pods, watching: Prometheus) -> None:
    # A label is counted when it is first answered.
    known, made = [*exported(pods), *samples(pods.exposition("serve"))], recorded()
    for expression in dashboard_expressions():
        for selector in selectors(expression):
            assert selector.name in made or any(map(selector.finds, known)), (expression, selector)


def test_every_series_that_the_documents_name_is_exported(pods: Pods) -> None:
    known = {one.name for one in exported(pods)}
    names = {name.removesuffix(end) for name in known for end in ("_bucket", "_count", "_sum")} | known
    for document in ("alerts.md", "operations.md"):
        named = set(re.findall(r"`(candor_\w+)", (ROOT / "docs" / document).read_text()))
        assert named - names == set(), document


def test_every_label_that_is_added_up_by_is_one_of_the_series(pods: Pods, watching: Prometheus) -> None:
    known = [*exported(pods), *samples(pods.exposition("serve"))]
    for expression in EXPRESSIONS:
        names = {selector.name for selector in selectors(expression)}
        labels = {label for one in known if one.name in names for label in one.labels}
        assert grouping_labels(expression) <= labels | TARGET_LABELS, expression


def test_pod_of_the_jobs_says_what_is_asked_of_it_and_nothing_of_serving(pods: Pods) -> None:
    found = samples(pods.begun["jobs"])
    assert 'candor_ready{run="jobs"} 1.0' in pods.begun["jobs"]
    assert 'candor_ready{run="serve"} 1.0' in pods.begun["serve"]
    assert "candor_registry_age_seconds 0.0" in pods.begun["jobs"]
    assert not [one for one in found if one.name == "candor_provider_info"]
    assert [one.labels for one in samples(pods.begun["serve"]) if one.name == "candor_provider_info"]
    assert {one.labels["state"] for one in found if one.name == "candor_jobs_finished_total"} >= {"failed", "timed_out"}


def test_scrape_stays_within_the_limit_that_is_set(pods: Pods, watching: Prometheus) -> None:
    """A scrape over its limit is lost whole, so the limit is to hold what many models would have."""
    limit = manifest("podmonitor.yaml")["spec"]["sampleLimit"]
    scraped = dict(pairs(watching.query("scrape_samples_post_metric_relabeling")))
    assert scraped["serve"] == len(samples(pods.exposition("serve")))
    assert max(scraped.values()) < limit / 10
    found = samples(pods.exposition("serve"))
    a_model = sum(one.labels.get("model") == "colours" and one.name != "candor_predictions_total" for one in found) + MAX_LABELS
    assert len(LABELS) < MAX_LABELS
    assert a_model <= 310
    others = sum("model" not in one.labels and "route" not in one.labels for one in found)
    a_route = sum(one.name != "candor_requests_total" and one.labels.get("route") == "/classify" for one in found)
    # Ten statuses for each method are more than any route answers.
    everything = others + (len(TABLE) + 1) * a_route + 10 * (1 + sum(map(len, TABLE.values())))
    assert everything <= 2000
    assert everything + 25 * a_model <= limit


def pairs(found: list[tuple[dict[str, str], float]]) -> Iterator[tuple[str, float]]:
    for labels, value in found:
        yield labels["pod"], value


def test_no_rule_fails_and_no_alert_goes_off_while_all_is_well(watching: Prometheus) -> None:
    groups = watching.ask("rules")["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(rules())
    assert [(rule["name"], rule["health"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []
    assert {rule["name"] for rule in found if rule.get("state") == "firing"} == set()
    assert {rule["name"] for rule in found if rule["type"] == "alerting"} == {rule["alert"] for rule in alerts()}


def test_every_target_is_up_by_the_name_that_the_alerts_look_for(watching: Prometheus) -> None:
    assert dict(pairs(watching.query('up{job="candor"}'))) == {"serve": 1, "jobs": 1}


def test_what_is_recorded_is_what_was_answered(watching: Prometheus) -> None:
    for name in recorded():
        assert 0 <= watching.value(name) <= 1, name
    assert watching.value("candor:request_errors:ratio_rate5m") == 0
    refused = watching.value('sum(candor_requests_total{route="/classify",status="429"})')
    assert watching.value('sum(candor_shed_total{reason="queue_full"})') == refused > 0
    assert watching.value('sum(candor_requests_total{route="/classify",status="422"})') == BAD
    assert watching.value('candor_auth_failures_total{reason="no_key",pod="serve"}') == BAD
    # From 0 on, and not from the first one on.
    assert watching.value('sum(increase(candor_auth_failures_total{reason="no_key"}[5m]))') >= BAD - 1


def test_every_panel_shows_a_figure(watching: Prometheus) -> None:
    for expression in dashboard_expressions("1m"):
        found = watching.query(expression)
        if GPU in expression and not found:
            continue
        assert found, expression
        assert any(math.isfinite(value) for _, value in found) or any(name in expression for name in UNKNOWN), expression


def test_what_is_not_known_of_one_replica_does_not_hide_what_is_known_of_another(watching: Prometheus) -> None:
    unknown = 'label_replace(vector(NaN), "pod", "a", "", "")'
    known = 'label_replace(vector(0.35), "pod", "b", "", "")'
    assert watching.value(f"max({unknown} or {known}) > 0.2") == 0.35
    assert watching.query(f"max({unknown}) > 0.2") == []

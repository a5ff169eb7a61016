"""Alerts and dashboard: promtool takes them, and every alert fires when it must, is quiet else, and is documented."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from models.settings import variable
from service import access
from service.metrics import SECONDS
from service.settings import Settings
from tests.support.monitoring import (
    OVERLAY,
    TARGET_LABELS,
    alerts,
    dashboard,
    dashboard_expressions,
    manifest,
    panels,
    recorded,
    require,
    rule_groups,
    rules,
    selectors,
    write_rules,
)
from tests.support.server import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = ROOT / "docs" / "alerts.md"
FILES = sorted((Path(__file__).parent / "alerts").glob("*.yaml"))
TESTS = [test for path in FILES for test in yaml.safe_load(path.read_text())["tests"]]
NAMES = [rule["alert"] for rule in alerts()]


def promtool(*arguments: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [require("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=150, cwd=cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cases(alert: str) -> list[dict[str, Any]]:
    """What is expected of an alert, in all files."""
    return [case for test in TESTS for case in test.get("alert_rule_test", ()) if case["alertname"] == alert]


def test_promtool_finds_nothing_wrong_with_the_rules(tmp_path: Path) -> None:
    file = write_rules(tmp_path / "rules.yaml", rule_groups())
    assert f"{len(rules())} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", file)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_must_and_are_quiet_else(tmp_path: Path, file: Path) -> None:
    groups = [{**group, "rules": [{**rule, "annotations": {}} for rule in group["rules"]]} for group in rule_groups()]
    write_rules(tmp_path / "rules.yaml", groups)
    (tmp_path / file.name).write_text(file.read_text())
    assert "SUCCESS" in promtool("test", "rules", file.name, cwd=tmp_path)


@pytest.mark.parametrize("alert", NAMES)
def test_every_alert_is_seen_to_fire_and_to_be_quiet(alert: str) -> None:
    assert {bool(case["exp_alerts"]) for case in cases(alert)} == {True, False}


@pytest.mark.parametrize("rule", alerts(), ids=NAMES)
def test_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    annotations = rule["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"
    # What the text names must be there when it fires; what a target adds, the tests need not all write down.
    named = set(re.findall(r"\$labels\.(\w+)", annotations["description"]))
    if re.search(r"\b(?:sum|count|min|max) by", rule["expr"]):
        assert not named & {"pod", "instance"}
    for case in cases(rule["alert"]):
        for fired in case["exp_alerts"]:
            assert named - TARGET_LABELS <= fired["exp_labels"].keys()


def test_alerts_and_their_documentation_are_the_same() -> None:
    headings = re.findall(r"^### (Candor\w+)$", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(NAMES)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("alert", NAMES)
def test_documentation_of_an_alert_says_all_that_is_needed_at_night(alert: str) -> None:
    section = re.split(r"^#{2,3} ", DOCUMENT.read_text().partition(f"\n### {alert}\n")[2], flags=re.MULTILINE)[0]
    assert re.findall(r"^\*\*(.*?)\.\*\*", section, re.MULTILINE) == ["Means", "Users notice", "Look", "Do"]


def test_documentation_names_routes_and_settings_that_there_are() -> None:
    text = DOCUMENT.read_text()
    for method, path in re.findall(r"`(GET|POST|PUT|DELETE) (/[^`?]*)", text):
        found = access.find(method, path)
        assert found is not None, path
        assert found.need is not None, (method, path)
    known = {variable(name) for name in Settings.model_fields}
    assert set(re.findall(r"CANDOR_[A-Z_]+", text)) <= known
    for path in re.findall(r"`(/[a-z][a-z-]+)`", text):
        assert path in access.TABLE


def test_windows_of_a_recorded_share_differ_in_nothing_else() -> None:
    by_name: dict[str, set[str]] = {}
    for rule in rules():
        if "record" in rule:
            name, _, window = rule["record"].rpartition("rate")
            by_name.setdefault(name, set()).add(rule["expr"].replace(f"[{window}]", "[]"))
            assert f"[{window}]" in rule["expr"]
    assert {name: len(expressions) for name, expressions in by_name.items()} == {
        "candor:request_errors:ratio_": 1,
        "candor:slow_requests:ratio_": 1,
    }


@pytest.mark.parametrize(("kind", "series", "budget"), [("Error", "request_errors", 0.001), ("Latency", "slow_requests", 0.01)])
def test_burn_rates_are_those_of_the_objectives(kind: str, series: str, budget: float) -> None:
    found = {}
    for rule in alerts():
        if rule["alert"].startswith(f"Candor{kind}Budget"):
            windows = re.findall(rf"candor:{series}:ratio_rate(\w+) > ([\d.]+) \* ([\d.]+)", rule["expr"])
            assert {float(share) for _, _, share in windows} == {budget}
            ((long, factor), (short, other)) = ((window, float(rate)) for window, rate, _ in windows)
            assert factor == other
            assert f"[{long}]" in rule["expr"]
            found[factor] = (long, short, rule["labels"]["severity"])
    assert found == {14.4: ("1h", "5m", "page"), 6.0: ("6h", "30m", "page"), 1.0: ("3d", "6h", "ticket")}


def test_slow_is_where_a_bucket_ends() -> None:
    bounds = {
        float(value)
        for rule in rules()
        for selector in selectors(rule["expr"])
        for label, _, value in selector.matchers
        if label == "le"
    }
    assert bounds == {0.25}
    assert bounds <= set(SECONDS)


def test_pods_are_scraped_at_the_port_of_the_metrics_within_limits() -> None:
    spec = manifest("podmonitor.yaml")["spec"]
    assert spec["selector"] == {"matchLabels": {"app.kubernetes.io/name": "candor"}}
    # Rules about `up` look for job="candor".
    assert spec["jobLabel"] == "app.kubernetes.io/name"
    assert [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]] == ["metrics"]
    assert all(spec[limit] > 0 for limit in ("sampleLimit", "labelLimit", "labelNameLengthLimit", "labelValueLengthLimit"))


def test_overlay_renders_into_the_namespace_and_the_dashboard_is_found_by_its_label() -> None:
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", OVERLAY], capture_output=True, text=True, check=True, timeout=60)
    rendered = list(yaml.safe_load_all(done.stdout))
    assert {one["metadata"]["namespace"] for one in rendered} == {"candor"}
    kinds = sorted(one["kind"] for one in rendered)
    assert kinds == ["ConfigMap", "PodMonitor", "PrometheusRule", "PrometheusRule"]
    (config,) = (one for one in rendered if one["kind"] == "ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["data"] == {"candor.json": (OVERLAY / "dashboard.json").read_text()}


def test_every_panel_has_a_number_a_place_a_unit_a_legend_and_the_data_source_that_is_chosen() -> None:
    shown = dashboard()["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    assert not [(a["title"], b["title"]) for a, b in combinations(shown, 2) if overlap(a["gridPos"], b["gridPos"])]
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert all(target["legendFormat"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {one["name"]: one["type"] for one in dashboard()["templating"]["list"]}
    assert variables == {"datasource": "datasource", "namespace": "query", "model": "query"}


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    expressions = dashboard_expressions()
    asked = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    file = write_rules(tmp_path / "panels.yaml", [{"name": "panels", "rules": asked}])
    assert f"{len(expressions)} rules found" in promtool("check", "rules", file)


def test_what_is_recorded_is_used_and_what_is_used_is_recorded() -> None:
    used = {name for expression in every_expression() for name, _ in selectors(expression) if ":" in name}
    assert used == recorded()


def every_expression() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from dashboard_expressions()

"""The rules and the dashboard of k8s/overlays/monitoring, and what their expressions ask of what is exported."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OVERLAY = ROOT / "k8s" / "overlays" / "monitoring"
# What Prometheus adds to each series of a pod, by the PodMonitor, and what it makes itself of each scrape.
TARGET_LABELS = frozenset({"namespace", "pod", "container", "endpoint", "instance", "job"})
OF_PROMETHEUS = frozenset({"up"})
_STRING = r'"(?:[^"\\]|\\.)*"'
_MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({_STRING})")
_SELECTOR = re.compile(rf"([a-zA-Z_:][\w:]*)\s*(\{{(?:[^{{}}\"]|{_STRING})*\}})?(?!\w*\s*\()")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "by", "on", "without", "ignoring"})


class Sample(NamedTuple):
    """One series as it is exported."""

    name: str
    labels: dict[str, str]


class Selector(NamedTuple):
    """Series that an expression asks for; `matchers` are label, operator and value."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def finds(self, sample: Sample) -> bool:
        """Whether a series is among them, whatever its target is."""
        return sample.name == self.name and all(
            _holds(operator, value, sample.labels.get(label, ""))
            for label, operator, value in self.matchers
            if label not in TARGET_LABELS
        )


def require(tool: str) -> str:
    """The path of a command of Debian's prometheus; without it the test is skipped."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"no {tool}: apt-get install prometheus")
    return found


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((OVERLAY / name).read_text())
    return loaded


def rule_groups() -> list[dict[str, Any]]:
    """The groups of both PrometheusRules: what Prometheus itself takes as a file of rules."""
    found = [manifest(path.name) for path in sorted(OVERLAY.glob("prometheusrule*.yaml"))]
    return [group for one in found for group in one["spec"]["groups"]]


def rules() -> list[dict[str, Any]]:
    return [rule for group in rule_groups() for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> frozenset[str]:
    return frozenset(rule["record"] for rule in rules() if "record" in rule)


def write_rules(path: Path, groups: list[dict[str, Any]]) -> Path:
    path.write_text(yaml.safe_dump({"groups": groups}))
    return path


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((OVERLAY / "dashboard.json").read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_expressions(interval: str = "5m") -> list[str]:
    """What the panels ask, as Grafana would with everything chosen and its steps an `interval` apart."""
    written = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [re.sub(r"\$(?:namespace|model)\b", ".*", one.replace("$__rate_interval", interval)) for one in written]


def selectors(expression: str) -> Iterator[Selector]:
    """Every selector of series in an expression."""
    for name, matchers in _SELECTOR.findall(_GROUPING.sub("", expression)):
        # A time such as 5m is no name, and a word between quotes is behind a brace.
        if name not in _WORDS and (":" in name or "_" in name or name in OF_PROMETHEUS) and "_over_time" not in name:
            yield Selector(name, tuple((label, op, json.loads(value)) for label, op, value in _MATCHER.findall(matchers)))


def grouping_labels(expression: str) -> set[str]:
    """The labels that an expression adds up by, or matches on."""
    return {label.strip() for labels in _GROUPING.findall(expression) for label in labels.split(",")}


def samples(exposition: str) -> list[Sample]:
    families = text_string_to_metric_families(exposition)
    return [Sample(sample.name, sample.labels) for family in families for sample in family.samples]


def _holds(operator: str, wanted: str, value: str) -> bool:
    is_equal = re.fullmatch(wanted, value) is not None if "~" in operator else wanted == value
    return is_equal is not operator.startswith("!")

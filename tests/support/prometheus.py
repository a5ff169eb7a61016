"""A real Prometheus on loopback, bounded in memory and time, ended by its process id."""

from __future__ import annotations

import math
import os
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from tests.support.monitoring import manifest, require, rule_groups, write_rules
from tests.support.processes import end
from tests.support.server import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_S = 60


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=20)

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an expression gives now."""
        found = self.ask("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def value(self, expression: str) -> float:
        """The one value of an expression; NaN where there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else math.nan

    def wait(self, expression: str, is_enough: Callable[[float], bool], seconds: float = START_S) -> float:
        until = time.monotonic() + seconds
        while not is_enough(value := self.value(expression)):
            assert time.monotonic() < until, f"{expression} is still {value} after {seconds} s"
            time.sleep(0.2)
        return value

    def is_up(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._client.close()


def configuration(rules: Path, pods: dict[str, int]) -> dict[str, Any]:
    """What the operator makes of the PodMonitor, with the ports of processes here for pods; every second, for a test."""
    spec = manifest("podmonitor.yaml")["spec"]
    limits = {
        "sample_limit": spec["sampleLimit"],
        "label_limit": spec["labelLimit"],
        "label_name_length_limit": spec["labelNameLengthLimit"],
        "label_value_length_limit": spec["labelValueLengthLimit"],
    }
    targets = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "candor", "pod": pod, "container": pod, "endpoint": "metrics"}}
        for pod, port in pods.items()
    ]
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "candor", **limits, "static_configs": targets}],
    }


@contextmanager
def prometheus(folder: Path, pods: dict[str, int]) -> Iterator[Prometheus]:
    """Scrape some ports, with our rules."""
    program = require("prometheus")
    folder.mkdir()
    rules = write_rules(folder / "rules.yaml", rule_groups())
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(configuration(rules, pods)))
    port = free_port()
    command = [
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "GOMAXPROCS": "1"})
    running = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until = time.monotonic() + START_S
        while not running.is_up():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.1)
        yield running
    finally:
        running.close()
        end(process, 20)

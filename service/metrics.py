"""Every metric: its name, its unit, its labels, what it is for. The one module that knows prometheus_client.

Labels come from closed sets or from the registry, never from a caller, so that the number of series is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.access import INFERENCE, TABLE
from service.errors import DeadlineExceededError, DisconnectedError, QueueFullError, RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from models.manifest import Manifest
    from service.gpus import Gpu
    from service.jobs.schema import JobState

# A second series beside every counter and histogram, which says when it began: a scrape costs half as much without.
disable_created_metrics()  # type: ignore[no-untyped-call]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Milliseconds matter on a GPU, seconds under overload.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MAX_LABELS = 200
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Closer together where answers are acted on.
PROBABILITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
SET_SIZES = (1, 2, 3, 5, 10)
# What begins at 0: see `_begin_at_zero`.
ANSWERS = ("200", "429", "500", "503", "504")
NO_SPACE = (("/datasets/{name}", "PUT"), ("/feedback", "POST"), ("/retrain", "POST"))
SHED = (QueueFullError.code, DeadlineExceededError.code, DisconnectedError.code, RateLimitedError.code)
AUTH_FAILURES = ("no_key", "unknown_key", "missing_scope", "not_allowed")
FEEDBACK = ("kept", "duplicate", "dropped", "evicted", "labelled", "deleted")


class Metrics:
    """One registry with every series that this process exports."""

    def __init__(self) -> None:
        """Make the series. Each instance has a registry of its own, so that tests do not share one."""
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = Counter(
            "candor_requests",
            "Answers, by route template, method and status",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.request_duration = Histogram(
            "candor_request_duration_seconds",
            "From the first byte of a request to the last of its answer",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("candor_in_flight", "Requests that are being answered", registry=self.registry)
        self.queue_depth = Gauge("candor_queue_depth", "Images that wait or run; what to scale on", registry=self.registry)
        self.queue_age = Gauge(
            "candor_queue_age_seconds", "How long the image that waits longest has waited for a batch", registry=self.registry
        )
        self.queue_duration = Histogram(
            "candor_queue_duration_seconds",
            "From handed in to taken by a lane; on a CPU an image is decoded after that, on a GPU before",
            ("model",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "candor_batch_size", "Images run together", ("model",), buckets=BATCHES, registry=self.registry
        )
        self.decode_duration = Histogram(
            "candor_decode_duration_seconds", "Decoding, cropping and resizing one image", buckets=SECONDS, registry=self.registry
        )
        self.inference_duration = Histogram(
            "candor_inference_duration_seconds", "Running one batch", ("model",), buckets=SECONDS, registry=self.registry
        )
        self.shed = Counter(
            "candor_shed", "Requests refused or given up, by reason: a refusal's code", ("reason",), registry=self.registry
        )
        self.ready = Gauge(
            "candor_ready", "1 while /readyz says so, by what runs: all, serve or jobs", ("run",), registry=self.registry
        )
        self.registry_age = Gauge(
            "candor_registry_age_seconds",
            "Since the registry was last read; 0 where no models are served",
            registry=self.registry,
        )
        self.audit_failures = Counter(
            "candor_audit_failures", "Times that a line of the audit log could not be written", registry=self.registry
        )
        self.auth_failures = Counter(
            "candor_auth_failures",
            "Requests refused for want of a right: no_key, unknown_key, missing_scope, or not_allowed where there are no keys",
            ("reason",),
            registry=self.registry,
        )
        self.model_info = Gauge(
            "candor_model_info",
            "1 for the version that answers under a name",
            ("model", "version", "backbone", "runtime", "precision"),
            registry=self.registry,
        )
        self.provider_info = Gauge(
            "candor_provider_info",
            "1 for the execution provider that really runs; not there where no models are served",
            ("provider",),
            registry=self.registry,
        )
        self.model_swaps = Counter(
            "candor_model_swaps",
            "Versions taken into service: ok, or failed and not served",
            ("outcome",),
            registry=self.registry,
        )
        self.predictions = Counter(
            "candor_predictions",
            "Labels answered, by model: of each image the first, or with several labels an image every selected one",
            ("model", "label"),
            registry=self.registry,
        )
        self._add_trust()
        self.feedback = Counter(
            "candor_feedback",
            "Images for feedback: kept, duplicate (kept already), dropped (not kept in time, or no room), evicted (too old, or "
            "made room for others), labelled, deleted (by hand)",
            ("outcome",),
            registry=self.registry,
        )
        self._begin_at_zero()

    def _add_trust(self) -> None:
        """What `monitor` counts: how far the answers were trusted."""
        self.confidence = Histogram(
            "candor_confidence_ratio",
            "Calibrated probability of the first label, with one label an image",
            ("model",),
            buckets=PROBABILITIES,
            registry=self.registry,
        )
        self.p_correct = Histogram(
            "candor_p_correct_ratio",
            "Probability that the answer is right; without the images that are like nothing the model was shown",
            ("model",),
            buckets=PROBABILITIES,
            registry=self.registry,
        )
        self.set_size = Histogram(
            "candor_prediction_set_size",
            "Labels in the prediction set of an explained image",
            ("model",),
            buckets=SET_SIZES,
            registry=self.registry,
        )
        self.familiarity = Counter(
            "candor_familiarity",
            "Images answered, by how much they are like the data",
            ("model", "verdict"),
            registry=self.registry,
        )
        self.decisions = Counter(
            "candor_decisions", "Images answered, by what to do with the answer", ("model", "action"), registry=self.registry
        )
        self.explain_duration = Histogram(
            "candor_explain_duration_seconds",
            "Explaining one image, when the network has answered",
            ("model",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.estimated_accuracy = Gauge(
            "candor_estimated_accuracy_ratio",
            "Mean p_correct of the last 1000 images; NaN for fewer than 100, or where 15 % or more are not familiar",
            ("model",),
            registry=self.registry,
        )
        self.published_accuracy = Gauge(
            "candor_published_accuracy_ratio",
            "Accuracy on held-out images that the version which answers was published with; NaN where it has none",
            ("model",),
            registry=self.registry,
        )
        self.drift = Gauge(
            "candor_drift_ks_ratio",
            "Kolmogorov-Smirnov distance of the last 1000 probabilities from the calibration images'; NaN for fewer than 100",
            ("model",),
            registry=self.registry,
        )

    def _begin_at_zero(self) -> None:
        """Make what alerts look at: Prometheus sees a rise from 0 to 1, and none in a series that begins with 1."""
        for route in (template for template, needs in TABLE.items() if needs.get("POST") in INFERENCE):
            self.request_duration.labels(route)
            for status in ANSWERS:
                self.requests.labels(route, "POST", status)
        for route, method in NO_SPACE:
            self.requests.labels(route, method, "507")
        for counter, values in (
            (self.shed, SHED),
            (self.auth_failures, AUTH_FAILURES),
            (self.model_swaps, ("ok", "failed")),
            (self.feedback, FEEDBACK),
        ):
            for value in values:
                counter.labels(value)

    def count_request(self, route: str, method: str, status: int, took_s: float) -> None:
        """Count a request that was answered; route and method are one of ours, never what a caller made up."""
        self.requests.labels(route, method, str(status)).inc()
        self.request_duration.labels(route).observe(took_s)

    def count_prediction(self, manifest: Manifest, label: str) -> None:
        """Count a label that was answered by name, unless the model has so many that the series would be too."""
        shown = label if len(manifest.labels) <= MAX_LABELS else "other"
        self.predictions.labels(manifest.name, shown).inc()

    def follow_jobs(self, counts: Callable[[], Mapping[JobState, int]], finished: Callable[[], Mapping[JobState, int]]) -> None:
        """Export the jobs as they are whenever somebody looks: other processes move them.

        Args:
            counts: How many jobs are in each state now.
            finished: How many ever ended in each state.
        """
        self.registry.register(_Jobs(counts, finished))

    def follow_gpus(self, read: Callable[[], Sequence[Gpu]]) -> None:
        """Export the GPUs as they are whenever somebody looks."""
        self.registry.register(_Gpus(read))

    def render(self) -> bytes:
        """All series in the text exposition format."""
        return generate_latest(self.registry)

    def listen(self, host: str, port: int) -> Callable[[], None]:
        """Answer a scrape on a port of its own, in a thread of its own, and return what ends that.

        Raises:
            OSError: If the port is taken.
        """
        server, thread = start_http_server(port, host, self.registry)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close


class _Jobs(Collector):
    """Reads the jobs when it is asked; where they cannot be read, it has nothing to say."""

    def __init__(self, counts: Callable[[], Mapping[JobState, int]], finished: Callable[[], Mapping[JobState, int]]) -> None:
        self._counts = counts
        self._finished = finished

    def collect(self) -> Iterator[Metric]:
        now = GaugeMetricFamily("candor_jobs", "Jobs, by the state that they are in", labels=("state",))
        ended = CounterMetricFamily("candor_jobs_finished", "Jobs that have ended, by how", labels=("state",))
        for family, read in ((now, self._counts), (ended, self._finished)):
            for state, count in read().items():
                family.add_metric((state,), count)
            yield family


class _Gpus(Collector):
    """Reads the GPUs when it is asked; of what is not known there are no series."""

    def __init__(self, read: Callable[[], Sequence[Gpu]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        labels = ("device",)
        used = GaugeMetricFamily("candor_gpu_memory_used_bytes", "GPU memory in use, by all processes", labels=labels)
        total = GaugeMetricFamily("candor_gpu_memory_total_bytes", "GPU memory", labels=labels)
        busy = GaugeMetricFamily(
            "candor_gpu_utilization_ratio", "Share of the last moments in which something ran on the GPU", labels=labels
        )
        for gpu in self._read():
            if gpu.memory_bytes is not None:
                used.add_metric((gpu.device,), gpu.memory_bytes[0])
                total.add_metric((gpu.device,), gpu.memory_bytes[1])
            if gpu.utilization is not None:
                busy.add_metric((gpu.device,), gpu.utilization)
        yield from (family for family in (used, total, busy) if family.samples)

"""The service's settings: `CANDOR_*` variables, read once into one frozen value."""

from __future__ import annotations

import difflib
import ipaddress
import os
import sys
from functools import lru_cache
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode

from models.errors import SettingsError, describe
from models.settings import PREFIX, HomeSettings, variable
from service.logs import EXIT_SETTINGS

Priority = Literal["low", "normal"]


class Settings(HomeSettings):
    """Where to listen, what to serve, and what a request may cost."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=3000, ge=0, le=65535, description="port to listen on")
    run: Literal["all", "serve", "jobs"] = Field(
        default="all", description="all: serve and run jobs, restarting what dies; serve or jobs: only that, as containers do"
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto",
        description="what computes: auto is a GPU where there is one; cuda refuses to serve without, cpu leaves it",
    )
    default_model: str | None = Field(default=None, description="what is meant where a request names no model")
    keys: Path | None = Field(default=None, description="the file with the keys that callers show; without it there are none")
    allow_unauthenticated: Literal["predict"] | None = Field(
        default=None, description="predict: without a key one may classify, explain and read models, also beyond loopback"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="further names that Host and Origin may hold, with commas between"
    )
    max_body_bytes: int = Field(default=64 * 2**20, ge=1024, description="a larger body is refused before it is read")
    max_dataset_bytes: int = Field(default=20 * 2**30, ge=1024, description="the same for the zip of a data set, kept on disk")
    dataset_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="folders below which data may be trained on where it lies, with commas between"
    )
    max_json_bytes: int = Field(default=16 * 2**20, ge=1024, description="the same for a JSON body, which is parsed whole")
    max_images: int = Field(default=64, ge=1, le=4096, description="images a request may hold")
    max_image_pixels: int = Field(default=100_000_000, ge=1, le=100_000_000, description="pixels a header may declare")
    max_decoded_pixels: int = Field(default=25_000_000, ge=1, description="pixels that decoding may produce")
    runtime: Literal["auto", "onnxruntime", "openvino"] = Field(
        default="auto", description="what runs the graphs; auto: openvino where the processor has bf16, else onnxruntime"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: the fastest that reproduces a version's golden outputs"
    )
    max_batch: int | None = Field(default=None, ge=1, le=1024, description="images run together; auto: 2 on a CPU, 64 on a GPU")
    queue_limit: int = Field(default=512, ge=1, description="images that may wait; more are refused")
    queue_wait_s: float = Field(default=1.5, gt=0, description="how long what waits may take; what would wait longer is refused")
    queue_bytes: int = Field(default=512 * 2**20, ge=1024, description="bytes of bodies that may be in memory at once")
    deadline_s: float = Field(default=30.0, gt=0, le=240, description="a request without an answer by then is given up")
    drain_s: float = Field(
        default=0.0, ge=0, le=300, description="how long after TERM it still takes requests, not ready, for balancers to notice"
    )
    mutations_per_minute: int = Field(default=120, ge=1, description="what a key may change in a minute; more is refused")
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="port that answers /metrics without a key, on the same address"
    )
    access_log: bool = Field(default=False, description="one JSON line on stderr for each request")
    traces: str | None = Field(
        default=None, pattern=r"^https?://[^/\s]+/?$", description="the collector that spans are sent to, by OTLP over HTTP"
    )
    traces_share: float = Field(
        default=0.01, ge=0, le=1, description="how many of the requests have a span whose caller has not decided it"
    )
    follow_s: float | None = Field(
        default=None,
        gt=0,
        le=60,
        description="how often the registry's aliases are looked at; auto: 0.5 for a folder, 2 for a URL",
    )
    jobs_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+/?$",
        description="the service that runs the jobs, to which their routes are led on",
    )
    devices: int = Field(default=1, ge=1, le=64, description="jobs that may train at once, one on each device")
    job_deadline_s: float = Field(default=86_400.0, gt=0, description="a job's attempt that takes longer is ended")
    job_heartbeat_s: float = Field(default=120.0, ge=3, description="a trainer that is silent for so long is taken for hung")
    job_attempts: int = Field(default=5, ge=1, description="how often a job whose trainer dies is begun")
    job_priority: Priority = Field(default="low", description="low: training gives way to everything else; or normal")
    job_threads: int | None = Field(default=None, ge=1, description="threads of a trainer's libraries; auto: half the cores")
    job_memory_bytes: int | None = Field(default=None, ge=2**26, description="what a trainer may allocate; auto: what there is")
    jobs_keep: int = Field(default=1000, ge=1, description="jobs that have ended and are remembered")
    jobs_queued: int = Field(default=20, ge=1, description="jobs of one key that may wait")

    keep_images: bool = Field(default=False, description="keep images that are served, so that they can be labelled")
    keep_images_count: int = Field(default=10_000, ge=1, description="images kept; the oldest without a label go first")
    keep_images_bytes: int = Field(default=2**30, ge=1024, description="bytes of images kept")
    keep_images_days: float = Field(default=30.0, gt=0, description="an image without a label is deleted after so long")
    feedback: str | None = Field(
        default=None, description="where images and labels are kept, a folder or an fsspec URL; default: feedback under the home"
    )

    @property
    def feedback_place(self) -> str:
        """Where images and labels are kept."""
        return self.feedback if self.feedback is not None else str((self.home / "feedback").absolute())

    @property
    def jobs_root(self) -> Path:
        """Where jobs and their locks are."""
        return self.home / "jobs"

    @field_validator("allowed_hosts", "dataset_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("dataset_roots")
    @classmethod
    def _require_absolute(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_absolute():
                raise ValueError(f"{str(root)!r} is relative to wherever the service is started; expected folders from / on")
        return roots

    @model_validator(mode="after")
    def _check_bounds(self) -> Settings:
        if self.max_images > self.queue_limit:
            raise ValueError(
                f"MAX_IMAGES={self.max_images} is over QUEUE_LIMIT={self.queue_limit}: such a request could never be taken"
            )
        if self.max_body_bytes > self.queue_bytes:
            raise ValueError(
                f"MAX_BODY_BYTES={self.max_body_bytes} is over QUEUE_BYTES={self.queue_bytes}: such a body could never be taken"
            )
        if self.metrics_port == self.port:
            raise ValueError(f"METRICS_PORT={self.metrics_port} is PORT too, expected another; or leave it out")
        return self

    @model_validator(mode="after")
    def _check_runtime(self) -> Settings:
        if self.runtime == "onnxruntime" and self.precision == "bf16":
            raise ValueError("PRECISION=bf16 is not computed by RUNTIME=onnxruntime, expected openvino or auto; or fp32")
        return self

    @model_validator(mode="after")
    def _refuse_open_bind(self) -> Settings:
        if not is_loopback(self.host) and self.keys is None and self.allow_unauthenticated is None:
            raise ValueError(
                f"HOST={self.host} is reachable from other machines and there are no keys; bind 127.0.0.1, set {PREFIX}KEYS, or "
                f"set {PREFIX}ALLOW_UNAUTHENTICATED=predict if something in front of it decides who may ask"
            )
        return self


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_settings_or_exit() -> Settings:
    """As `read_settings`, for a process that begins: what is wrong with them goes to stderr, and the process ends with 2."""
    try:
        return read_settings()
    except SettingsError as err:
        sys.stderr.write(f"{err}\n")
        raise SystemExit(EXIT_SETTINGS) from err


def read_settings() -> Settings:
    """Read every `CANDOR_*` variable.

    Raises:
        SettingsError: If one is unknown (pydantic-settings would pass over it) or malformed; all of them at once.
    """
    known = {variable(name) for name in Settings.model_fields}
    problems = []
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            problems.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        settings = Settings()
    except ValidationError as err:
        problems.append(describe(err, variable))
    if problems:
        raise SettingsError("\n".join(problems))
    return settings

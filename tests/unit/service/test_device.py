"""A device that fails for good: nothing more is answered, and the process ends; and which errors mean that."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from models.errors import SettingsError
from models.preprocess import Limits
from models.registry import Registry
from service.access import TABLE
from service.backlog import Backlog
from service.decode import Decoder
from service.device import Device
from service.errors import DeviceLostError, ModelLoadError, OutOfMemoryError, problem_of
from service.live import LiveModel, Plan, load
from service.logs import EXIT_DEVICE_LOST, EXIT_SETTINGS, EXIT_UNAVAILABLE
from service.metrics import Metrics
from service.predictor import Prediction, Predictor
from service.runtime import choose, onnx
from service.settings import Settings
from service.slots import Slots
from tests.support.guarded import Engine, listening
from tests.support.pictures import picture
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

    from models.preprocess import UInt8Array

# As ONNX Runtime words them, host names and source files of its makers included.
LOST = [
    "Non-zero status code returned while running Conv node. Name:'conv1' Status Message: CUDA failure 700: an illegal memory "
    "access was encountered ; GPU=0 ; hostname=pod-7 ; file=/onnxruntime_src/cuda_call.cc ; line=121 ; expr=cudaStreamSync(s);",
    "CUDA failure 719: unspecified launch failure ; GPU=0",
    "CUDA error 714: hardware stack error",
    "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=pod-7",
    "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0",
    *(f"CUDA failure {code}: something ; GPU=0" for code in (214, 702, 710, 715, 716, 717, 718)),
]
NO_ROOM = [
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=pod-7",
    "Failed to allocate memory for requested buffer of size 411041792",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
]
NEITHER = [
    "Got invalid dimensions for input",
    "CUDA failure 1: invalid argument",
    "CUDA failure 7000: no such code",
    "Invalid rank 700",
]


@pytest.mark.parametrize("text", LOST)
def test_error_after_which_nothing_can_be_believed_is_told_from_others(text: str) -> None:
    meant = onnx.meaning(RuntimeError(text))
    assert isinstance(meant, DeviceLostError)
    assert meant.reason == text
    problem = problem_of(meant)
    assert (problem.status, problem.code, problem.retry_after_s) == (503, "not_ready", 2)
    assert "pod-7" not in problem.detail
    assert "CU" not in problem.detail


@pytest.mark.parametrize("text", NO_ROOM)
def test_memory_that_is_short_is_an_error_of_its_batch(text: str) -> None:
    meant = onnx.meaning(RuntimeError(text))
    assert isinstance(meant, OutOfMemoryError)
    problem = problem_of(meant)
    assert (problem.status, problem.code, problem.retry_after_s) == (503, "out_of_memory", 1)


@pytest.mark.parametrize("text", NEITHER)
def test_other_errors_say_nothing_of_the_device(text: str) -> None:
    assert onnx.meaning(RuntimeError(text)) is None


class Session:
    """An ONNX Runtime session that fails as it is told."""

    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
        raise RuntimeError(self.text)


@pytest.fixture
def ended() -> list[int]:
    return []


@pytest.fixture
def device(ended: list[int]) -> Device:
    return Device(ended.append)


def loaded(tmp_path: Path, pool: ThreadPoolExecutor, device: Device, metrics: Metrics) -> LiveModel:
    registry = Registry(tmp_path / "registry")
    publish_colours(registry, tmp_path / "work")
    return load(registry.path("colours", 1), pool, Plan("cpu", 2, 4), metrics, device)


@pytest.mark.parametrize("text", [LOST[0], NO_ROOM[0], NEITHER[0]], ids=["lost", "no room", "neither"])
@pytest.mark.parametrize("lane", ["classify", "explain"])
def test_both_lanes_notice_a_lost_device_and_no_other_error_ends_it(
    tmp_path: Path, device: Device, text: str, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> Exception | None:
        live = loaded(tmp_path, pool, device, Metrics())
        good, live.runtime._session = live.runtime._session, Session(text)  # type: ignore[attr-defined]
        pixels = np.zeros((32, 32, 3), dtype=np.uint8)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            await (live.judged(pixels) if lane == "classify" else live.explained(_view(pixels), _ask()))
        live.runtime._session = good  # type: ignore[attr-defined]
        return caught.value

    with ThreadPoolExecutor(2) as pool, caplog.at_level(logging.CRITICAL):
        error = asyncio.run(scenario(pool))
    kind = {LOST[0]: DeviceLostError, NO_ROOM[0]: OutOfMemoryError, NEITHER[0]: RuntimeError}[text]
    assert type(error) is kind
    assert device.is_lost is (kind is DeviceLostError)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(lines) == device.is_lost
    assert all("the device is lost, and this process ends: " in line and "CUDA failure 700" in line for line in lines)


def _view(pixels: UInt8Array) -> Any:
    from service.decode import View

    return View(pixels, (0.0, 0.0, 1.0, 1.0))


def _ask() -> Any:
    from models.confidence.case import Ask

    return Ask(confidence_level=0.95, top_k=3, neighbors=0, heatmap="none", versus=None)


def test_batch_without_room_is_run_image_by_image(tmp_path: Path, device: Device) -> None:
    class Small:
        """A device with room for one image."""

        name, provider, precision = "small", "cuda", "fp32"

        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.sizes: list[int] = []

        def run(self, images: UInt8Array) -> np.ndarray:
            self.sizes.append(len(images))
            if len(images) > 1:
                raise OutOfMemoryError
            return np.asarray(self.inner.run(images))

    async def scenario(pool: ThreadPoolExecutor) -> None:
        metrics = Metrics()
        live = loaded(tmp_path, pool, device, metrics)
        small = live.runtime = Small(live.runtime)  # type: ignore[assignment]
        predictor = Predictor(Decoder(2, Limits(), metrics), Backlog(64, 10, metrics), 10, metrics)
        answers = await predictor.classify(live, [picture("blue")] * 12, 1)
        assert [answer.labels[0][0] for answer in answers if isinstance(answer, Prediction)] == ["blue"] * 12
        assert max(small.sizes) > 1

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))
    assert not device.is_lost


def test_loss_is_said_once_and_ends_the_process_with_its_code(
    device: Device, ended: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        threads = [threading.Thread(target=device.lose, args=("line one\nand two",)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert device.is_lost
        assert ended == []
        for timer in threading.enumerate():
            if isinstance(timer, threading.Timer):
                timer.join(5)
    assert ended == [EXIT_DEVICE_LOST]
    assert EXIT_DEVICE_LOST not in {0, EXIT_SETTINGS, EXIT_UNAVAILABLE}
    assert [record.getMessage() for record in caplog.records] == ["the device is lost, and this process ends: line one and two"]


def test_device_that_fails_while_a_version_is_loaded_is_lost_for_all(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden inputs of a new version run in the same context as everything else."""

    class Failing(onnx.OnnxRuntime):
        def outputs(self, images: UInt8Array, names: Sequence[str]) -> Any:
            raise DeviceLostError(LOST[0])

    async def scenario(pool: ThreadPoolExecutor) -> None:
        registry = Registry(tmp_path / "registry")
        publish_colours(registry, tmp_path / "work")
        slots = Slots(registry, Settings(), pool, Metrics(), device)
        monkeypatch.setattr(choose, "OnnxRuntime", Failing)
        await slots.refresh()
        assert not slots.is_ready

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))
    assert device.is_lost


def test_nothing_is_answered_any_more_on_any_route(tmp_path: Path, device: Device) -> None:
    engine = Engine(tmp_path)
    engine.device = device
    reached: list[str] = []

    async def good(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        if scope["path"] == "/models":
            # The device is lost between asking and answering.
            device.lose("CUDA failure 700")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"garbage"})

    with listening(good, engine) as (host, port), httpx.Client(base_url=f"http://{host}:{port}") as client:
        assert client.get("/livez").status_code == 200
        late = client.get("/models")
        assert (late.status_code, late.json()["code"]) == (503, "not_ready")
        assert b"garbage" not in late.content
        for template, needs in TABLE.items():
            for method in needs:
                answer = client.request(method, template.replace("{", "").replace("}", "").replace(":path", ""))
                assert (answer.status_code, answer.json()["code"]) == (503, "not_ready"), (method, template)
                assert answer.headers["retry-after"] == "2"
    assert reached == ["/livez", "/models"]


@pytest.mark.parametrize(
    ("setting", "visible", "expected"),
    [("auto", "cuda", "cuda"), ("auto", "cpu", "cpu"), ("cuda", "cuda", "cuda"), ("cpu", "cuda", "cpu"), ("cpu", "cpu", "cpu")],
)
def test_device_setting_decides_what_computes(monkeypatch: pytest.MonkeyPatch, setting: str, visible: str, expected: str) -> None:
    asked: list[bool] = []

    def look() -> str:
        asked.append(True)
        return visible

    monkeypatch.setattr(onnx, "available_provider", look)
    assert onnx.chosen_provider(setting) == expected
    # With `cpu` the driver is not even asked.
    assert bool(asked) is (setting != "cpu")


def test_gpu_that_is_to_compute_and_is_not_there_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    monkeypatch.setattr(onnx, "available_provider", lambda: "cpu")
    with ThreadPoolExecutor(2) as pool, pytest.raises(SettingsError, match="CANDOR_DEVICE=cuda, and no GPU is visible") as caught:
        Slots(Registry(tmp_path / "registry"), Settings(device="cuda"), pool, Metrics(), device)
    assert "\n" not in str(caught.value)


def test_graph_that_breaks_the_device_while_it_loads_is_no_ordinary_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(LOST[1])

    monkeypatch.setattr(onnx.onnxruntime, "InferenceSession", fail)
    with pytest.raises(DeviceLostError):
        onnx._session(b"", "cpu")
    monkeypatch.setattr(onnx.onnxruntime, "InferenceSession", lambda *_, **__: (_ for _ in ()).throw(RuntimeError(NEITHER[0])))
    with pytest.raises(ModelLoadError, match="cannot load the graph: Got invalid"):
        onnx._session(b"", "cpu")

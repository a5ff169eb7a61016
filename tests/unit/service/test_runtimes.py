from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.artifact import Artifact
from models.golden import REDUCED_TOLERANCE, deviation, read_golden
from models.registry import Registry
from service.cores import has_bf16
from service.device import Device
from service.errors import ModelLoadError
from service.live import Plan, load
from service.metrics import Metrics
from service.runtime import choose
from service.runtime.choose import Way, changed_labels, load_runtime, ways
from service.runtime.onnx import OnnxRuntime
from service.runtime.openvino import OpenVinoRuntime
from service.runtime.staging import PinnedStaging, Staging, page_locked
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from pathlib import Path

FP32 = Way("onnxruntime", "fp32")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    registry = Registry(tmp_path / "registry")
    publish_colours(registry, tmp_path / "work")
    return Artifact.load(registry.path("colours", 1))


# --- which ways there are


@pytest.mark.parametrize(
    ("is_able", "runtime", "precision", "expected"),
    [
        (False, "auto", "auto", [FP32]),
        (True, "auto", "auto", [Way("openvino", "bf16"), FP32]),
        (True, "onnxruntime", "auto", [FP32]),
        (True, "auto", "fp32", [FP32]),
        (True, "openvino", "auto", [Way("openvino", "bf16"), Way("openvino", "fp32")]),
        (False, "openvino", "auto", [Way("openvino", "fp32")]),
        (True, "openvino", "fp32", [Way("openvino", "fp32")]),
        (True, "auto", "bf16", [Way("openvino", "bf16")]),
    ],
)
def test_ways_on_a_processor(monkeypatch: pytest.MonkeyPatch, is_able: bool, runtime: Any, precision: Any, expected: Any) -> None:
    monkeypatch.setattr("service.runtime.choose.has_bf16", lambda: is_able)
    assert ways("cpu", runtime, precision) == expected


def test_bf16_that_the_processor_does_not_have_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.choose.has_bf16", lambda: False)
    with pytest.raises(ModelLoadError, match="no instructions for it"):
        ways("cpu", "auto", "bf16")


def test_without_openvino_there_is_onnx_runtime_and_what_needs_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ways("cpu", "auto", "auto") == [FP32]
    for runtime, precision in (("openvino", "auto"), ("auto", "bf16")):
        with pytest.raises(ModelLoadError, match="need openvino"):
            ways("cpu", runtime, precision)  # type: ignore[arg-type]


def test_on_a_gpu_there_is_one_way() -> None:
    assert ways("cuda", "auto", "auto") == [FP32]
    with pytest.raises(ModelLoadError, match="here is a GPU"):
        ways("cuda", "openvino", "auto")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fma avx2 amx_bf16", True), ("fma avx512_bf16", True), ("fma avx2 avx512f amx_tile", False), ("", False)],
)
def test_bf16_is_read_from_the_processors_flags(tmp_path: Path, flags: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: bf16 amx_bf16 of a kind\nflags\t\t: {flags}\n")
    assert has_bf16(cpuinfo) is expected


# --- OpenVINO computes what ONNX Runtime does


def test_openvino_answers_every_output_as_onnx_runtime_does(artifact: Artifact) -> None:
    images, _ = read_golden(artifact)
    ours = OpenVinoRuntime(artifact.model, artifact.manifest, "fp32", 2)
    theirs = OnnxRuntime(artifact.model, artifact.manifest, "cpu")
    names = ("logits", "embedding", artifact.manifest.outputs.spatial)
    for count in (1, 3, len(images)):
        for mine, other in zip(ours.outputs(images[:count], names), theirs.outputs(images[:count], names), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)
    assert (ours.name, ours.provider, ours.precision) == ("openvino", "cpu", "fp32")


def test_openvino_keeps_apart_what_threads_ask_at_once(artifact: Artifact) -> None:
    images, stored = read_golden(artifact)
    runtime = OpenVinoRuntime(artifact.model, artifact.manifest, "fp32", 2)
    together = threading.Barrier(4)

    def ask(index: int) -> Any:
        together.wait()
        return [runtime.run([images[(index + step) % len(images)]])[0] for step in range(50)]

    with ThreadPoolExecutor(4) as pool:
        for index, answers in enumerate(pool.map(ask, range(4))):
            expected = [stored[(index + step) % len(images)] for step in range(50)]
            np.testing.assert_allclose(np.array(answers), np.array(expected), atol=1e-3)


def test_openvino_refuses_what_is_no_graph(artifact: Artifact) -> None:
    with pytest.raises(ModelLoadError, match="OpenVINO cannot load the graph"):
        OpenVinoRuntime(b"\x08\x07no", artifact.manifest, "fp32", 2)


def test_openvino_refuses_a_graph_that_is_not_the_manifests(artifact: Artifact) -> None:
    size = artifact.manifest.input.model_copy(update={"height": 99})
    with pytest.raises(ModelLoadError, match="the manifest says"):
        OpenVinoRuntime(artifact.model, artifact.manifest.model_copy(update={"input": size}), "fp32", 2)


@pytest.mark.skipif(has_bf16(), reason="this processor has bf16")
def test_precision_that_does_not_really_run_is_refused(artifact: Artifact) -> None:
    with pytest.raises(ModelLoadError, match="bf16 was asked for and fp32 runs"):
        OpenVinoRuntime(artifact.model, artifact.manifest, "bf16", 2)


def test_service_loads_a_version_on_openvino(artifact: Artifact) -> None:
    with ThreadPoolExecutor(2) as pool:
        model = load(artifact.path, pool, Plan("cpu", 2, None, runtime="openvino", precision="fp32"), Metrics(), Device())
    assert (model.runtime.name, model.runtime.precision) == ("openvino", "fp32")


# --- which way is taken


class Moved(OnnxRuntime):
    """In less than fp32: a logit is moved."""

    precision = "bf16"
    by = 0.0

    def outputs(self, images: Any, names: Any) -> Any:
        logits, *rest = super().outputs(images, names)
        return [logits + np.eye(logits.shape[1], dtype=np.float32)[0] * self.by, *rest]


@pytest.mark.parametrize(("by", "taken"), [(0.01, "bf16"), (30.0, "fp32")])
def test_reduced_precision_is_taken_only_if_it_reproduces_the_golden_outputs(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, by: float, taken: str
) -> None:
    monkeypatch.setattr(Moved, "by", by)
    monkeypatch.setattr(
        choose,
        "_make",
        lambda way, artifact, provider, lanes: (Moved if way.precision == "bf16" else OnnxRuntime)(
            artifact.model, artifact.manifest, provider
        ),
    )
    runtime, _ = load_runtime(artifact, "cpu", 2, 8, [Way("openvino", "bf16"), FP32])
    assert runtime.precision == taken


def test_way_that_breaks_in_any_manner_gives_way_to_the_next(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, images: Any) -> Any:
        raise RuntimeError("a primitive could not be created")

    monkeypatch.setattr(OpenVinoRuntime, "run", broken)
    runtime, _ = load_runtime(artifact, "cpu", 2, 8, [Way("openvino", "fp32"), FP32])
    assert runtime.name == "onnxruntime"


def test_last_way_that_fails_is_the_reason(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moved, "by", 30.0)
    monkeypatch.setattr(
        choose, "_make", lambda way, artifact, provider, lanes: Moved(artifact.model, artifact.manifest, provider)
    )
    with pytest.raises(ModelLoadError, match=r"at most 0\.02 is accepted"):
        load_runtime(artifact, "cpu", 2, 8, [Way("openvino", "bf16")])


def test_reduced_precision_has_another_bound_and_no_other_labels(artifact: Artifact) -> None:
    _, stored = read_golden(artifact)
    assert deviation(artifact, stored, stored, is_reduced=True) == (0.0, REDUCED_TOLERANCE)
    before, after = np.array([[2.0, 1.0], [3.0, 1.0]]), np.array([[1.0, 2.0], [3.0, 1.0]])
    assert [changed_labels(after, before, task) for task in ("single_label", "multi_label", "regression")] == [1, 0, 0]
    assert changed_labels(before, before, "single_label") == 0


# --- how a batch gets together


def test_one_image_is_not_copied_and_several_are_stacked() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    staging = Staging()
    assert np.shares_memory(staging.together([images[0]]), images)
    assert staging.together(images) is images
    np.testing.assert_array_equal(staging.together(list(images)), images)


@pytest.mark.parametrize(("count", "filled"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_images_for_a_gpu_are_filled_up_to_a_power_of_two(count: int, filled: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    together = PinnedStaging(4, 5).together(list(images))
    assert together.shape == (filled, 4, 5, 3)
    np.testing.assert_array_equal(together[:count], images)


def test_threads_do_not_share_the_memory_of_a_batch() -> None:
    staging = PinnedStaging(4, 5)
    both = threading.Barrier(2)

    def put(value: int) -> bool:
        together = staging.together([np.full((4, 5, 3), value, dtype=np.uint8)] * 3)
        both.wait()
        return bool((together[:3] == value).all())

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(put, (1, 2))) == [True, True]


def test_memory_that_was_locked_is_unlocked_when_its_last_user_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        """The CUDA runtime's two functions, as far as they can be without one."""

        locked = 0

        def cudaHostRegister(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802
            self.locked += 1
            return 0

        def cudaHostUnregister(self, address: Any) -> int:  # noqa: N802
            self.locked -= 1
            return 0

    cuda = Cuda()
    monkeypatch.setattr("ctypes.CDLL", lambda name: cuda)
    held = page_locked((2, 4, 5, 3))
    part = held[:1]
    part[:] = 7
    del held
    gc.collect()
    assert (cuda.locked, int(part.sum())) == (1, 7 * 60)
    del part
    gc.collect()
    assert cuda.locked == 0


def test_answers_of_a_padded_batch_are_of_the_images_that_were_given(artifact: Artifact) -> None:
    images, stored = read_golden(artifact)
    runtime = OnnxRuntime(artifact.model, artifact.manifest, "cpu")
    runtime._staging = PinnedStaging(artifact.manifest.input.height, artifact.manifest.input.width)
    answers = runtime.run(list(images[:3]))
    assert answers.shape == (3, stored.shape[1])
    np.testing.assert_allclose(answers, stored[:3], atol=1e-4)

"""A model in the Open Inference Protocol v2: which tensors it takes and answers, by its task.

In: `images` (files, decoded here) or `pixels` (as the graph takes them). Out: `probabilities` and `logits`, or `value`.
The bytes are `infer_request`'s and `tensors`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.decision import ranked
from service.errors import BadRequestError, EmptyBodyError
from service.infer_request import Wanted, read_request
from service.inputs import decode_base64
from service.tensors import Answered, elements, numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from models.manifest import Manifest
    from models.preprocess import UInt8Array
    from service.infer_request import Asked
    from service.inputs import BodyLimits
    from service.live import Judged
    from service.tensors import SentTensor

IMAGES, PIXELS = "images", "pixels"
PROBABILITIES, LOGITS, VALUE = "probabilities", "logits", "value"
_IMAGES = "one file an image: JPEG, PNG, WebP, BMP or GIF, in JSON as base64; a request sends images or pixels"
_PIXELS = "RGB, of the model's own size, not normalised; a request sends images or pixels"
_OUTPUTS = {
    PROBABILITIES: "calibrated, in the order of the labels",
    LOGITS: "as the network states them, in the order of the labels",
    VALUE: "the number, in the model's unit",
}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a model takes or answers. The first size is how many images there are: -1, any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    says: str


@dataclass(frozen=True)
class InferCall:
    """A request, understood.

    Attributes:
        images: A file each, or the pixels, uint8 `[H, W, 3]`.
        outputs: What to answer, in order.
        id: The caller's own, to be repeated; None where there is none.
        timeout_s: What the caller would wait; infinity where that is not said.
    """

    images: Sequence[bytes] | Sequence[UInt8Array]
    outputs: tuple[Wanted, ...]
    id: str | None
    timeout_s: float


def inputs_of(manifest: Manifest) -> tuple[TensorSpec, TensorSpec]:
    """The two inputs of a version, of which a request sends one."""
    size = manifest.input
    return (
        TensorSpec(IMAGES, "BYTES", (-1,), _IMAGES),
        TensorSpec(PIXELS, "UINT8", (-1, size.height, size.width, 3), _PIXELS),
    )


def outputs_of(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The outputs of a version, by its task."""
    names = (VALUE,) if manifest.task == "regression" else (PROBABILITIES, LOGITS)
    return tuple(TensorSpec(name, "FP32", (-1, len(manifest.labels)), _OUTPUTS[name]) for name in names)


def understand(body: bytes, json_length: int | None, manifest: Manifest, limits: BodyLimits) -> InferCall:
    """Read a request to a version, before anything is computed. A large body takes a while; call it in a thread.

    Raises:
        ServiceError: As `infer_request.read_request`; BadRequestError also if tensors are not those of the version or too many,
            EmptyBodyError if there is no image.
        UnreadableImageError: If an image in JSON is no base64.
    """
    asked = read_request(body, json_length, limits.max_json_bytes)
    if len(asked.inputs) > 1:
        raise BadRequestError(f"there are {len(asked.inputs)} inputs; expected one, {IMAGES} or {PIXELS}")
    images = _images(asked.inputs[0], manifest, limits.max_images)
    return InferCall(images, _outputs(asked, manifest), asked.id, asked.timeout_s)


def answered(call: InferCall, manifest: Manifest, judged: Sequence[Judged]) -> list[Answered]:
    """The outputs that were asked for, of what a version says of each image."""
    made = []
    for wanted in call.outputs:
        rows = np.array([one.logits if wanted.name == LOGITS else one.row for one in judged], dtype=np.float32)
        values = rows if wanted.classes is None else _classified(rows, wanted.classes, manifest.labels)
        made.append(Answered(wanted.name, values, wanted.is_binary))
    return made


def _images(sent: SentTensor, manifest: Manifest, max_images: int) -> Sequence[bytes] | Sequence[UInt8Array]:
    known = {spec.name: spec for spec in inputs_of(manifest)}
    spec = known.get(sent.name)
    if spec is None:
        raise BadRequestError(f"{manifest.name} has no input {sent.name!r:.80}; it has {' and '.join(known)}")
    if sent.datatype != spec.datatype:
        raise BadRequestError(f"input {spec.name} is {sent.datatype!r:.80}, expected {spec.datatype}")
    shape = sent.shape
    if len(shape) != len(spec.shape) or shape[1:] != spec.shape[1:]:
        raise BadRequestError(f"input {spec.name} has shape {list(shape)}, expected {list(spec.shape)} with any number for -1")
    if shape[0] > max_images:
        raise BadRequestError(f"input {spec.name} holds {shape[0]} images; at most {max_images} are accepted")
    if not shape[0]:
        raise EmptyBodyError(f"input {spec.name} holds no image")
    if spec.name == PIXELS:
        return list(numbers(sent))
    return [_file(index, element) for index, element in enumerate(elements(sent))]


def _file(index: int, element: bytes | str) -> bytes:
    if isinstance(element, bytes):
        return element
    file = decode_base64(index, element)
    if not isinstance(file, bytes):
        raise file
    return file


def _outputs(asked: Asked, manifest: Manifest) -> tuple[Wanted, ...]:
    known = [spec.name for spec in outputs_of(manifest)]
    names = [wanted.name for wanted in asked.outputs]
    for wanted in asked.outputs:
        if wanted.name not in known:
            raise BadRequestError(f"{manifest.name} has no output {wanted.name!r:.80}; it has {' and '.join(known)}")
        if names.count(wanted.name) > 1:
            raise BadRequestError(f"output {wanted.name} is asked for more than once")
        if wanted.classes is not None and manifest.task == "regression":
            raise BadRequestError(f"{manifest.name} answers a number, which has no classes; leave classification out")
    return asked.outputs or tuple(Wanted(name, asked.is_binary, None) for name in known)


def _classified(rows: npt.NDArray[np.float32], classes: int, labels: Sequence[str]) -> npt.NDArray[np.object_]:
    """The largest entries of each row `[N, K]` as `value:index:label`, `[N, min(classes, K)]`; Triton's extension."""
    return np.array([[f"{row[i]:f}:{i}:{labels[i]}" for i in ranked(row, classes)] for row in rows], dtype=object)
